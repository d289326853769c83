/**
 * The first instructions of a program that carries another program's command line (carry.ts), for x86-64.
 *
 * They run where `_start` would, after the dynamic linker, with the stack that the kernel made (System V ABI for
 * x86-64, "Process Initialization"): argc, argv, 0, envp, 0, the auxiliary vector. They make a new one below it,
 * let the C library's `environ` point into it, and go on at the old entry. Registers: all are free but rdx, which
 * belongs to `_start`.
 *
 * - argv: argv[0] is replaced by the arguments that are carried; the user's follow.
 * - envp: what is carried, then the user's but for `DENO_*` and `NODE_*`, which would change what the runtime does
 *   (the program gets them back, carry.ts).
 * - A working directory that was removed is replaced by the root: the runtime does not start without one.
 *
 * @module
 */

/** What the code refers to: addresses before relocation. */
export interface StubPlaces {
  /** Of the code itself. */
  readonly stub: number;
  /** The entry that it goes on at. */
  readonly entry: number;
  /** The word that points to `environ`. */
  readonly environ: number;
  /** Offsets of the carried texts from `texts`, 32 bits each: the arguments, then the environment. */
  readonly offsets: number;
  readonly texts: number;
  readonly arg_count: number;
  readonly env_count: number;
}

/** Room for the path of the working directory below the stack, and for what the kernel puts there. */
const PATH_BYTES = 4096;
const SYS_GETCWD = 79;
const SYS_CHDIR = 80;

/** The machine code for these places; its length does not depend on them. */
export function makeStub(places: StubPlaces): Uint8Array<ArrayBuffer> {
  const { entry, environ, offsets, texts, arg_count, env_count } = places;
  const code = new Code(places.stub);
  enterDirectory(code);

  code.put("cld", 0xfc);
  code.put("mov r8, rsp", 0x49, 0x89, 0xe0); // r8: the kernel's vectors
  code.put("mov rcx, [r8]", 0x49, 0x8b, 0x08);
  code.put("lea r10, [r8 + 8*rcx + 16]", 0x4d, 0x8d, 0x54, 0xc8, 0x10); // envp
  code.label("skip_env");
  code.put("mov rax, [r10]", 0x49, 0x8b, 0x02);
  code.put("add r10, 8", 0x49, 0x83, 0xc2, 0x08);
  code.put("test rax, rax", 0x48, 0x85, 0xc0);
  code.jump("jnz", 0x75, "skip_env");
  code.label("skip_aux");
  code.put("mov rax, [r10]", 0x49, 0x8b, 0x02);
  code.put("add r10, 16", 0x49, 0x83, 0xc2, 0x10);
  code.put("test rax, rax", 0x48, 0x85, 0xc0);
  code.jump("jnz", 0x75, "skip_aux"); // r10: the end of the vectors

  code.put("mov rax, r8", 0x4c, 0x89, 0xc0);
  code.put("sub rax, r10", 0x4c, 0x29, 0xd0);
  code.put("lea rsp, [r8 + rax - room]", 0x49, 0x8d, 0xa4, 0x00);
  code.word(-8 * (arg_count + env_count));
  code.put("and rsp, -16", 0x48, 0x83, 0xe4, 0xf0);
  code.put("lea rdi, [rsp + 8]", 0x48, 0x8d, 0x7c, 0x24, 0x08); // rdi: where the next word goes
  code.relative("lea r11, [texts]", [0x4c, 0x8d, 0x1d], texts);
  code.relative("lea rsi, [offsets]", [0x48, 0x8d, 0x35], offsets);

  putCarried(code, "args", arg_count);
  code.put("mov r9, rsi", 0x49, 0x89, 0xf1); // r9: the offsets that are left
  code.put("lea rsi, [r8 + 8]", 0x49, 0x8d, 0x70, 0x08);
  code.put("cmp qword [rsi], 0", 0x48, 0x83, 0x3e, 0x00);
  code.jump("je", 0x74, "copy_args"); // no argv[0] to leave out
  code.put("add rsi, 8", 0x48, 0x83, 0xc6, 0x08);
  code.label("copy_args");
  code.put("lodsq", 0x48, 0xad);
  code.put("stosq", 0x48, 0xab);
  code.put("test rax, rax", 0x48, 0x85, 0xc0);
  code.jump("jnz", 0x75, "copy_args");
  code.put("mov rax, rdi", 0x48, 0x89, 0xf8);
  code.put("sub rax, rsp", 0x48, 0x29, 0xe0);
  code.put("shr rax, 3", 0x48, 0xc1, 0xe8, 0x03);
  code.put("sub rax, 2", 0x48, 0x83, 0xe8, 0x02); // without argc and the final zero
  code.put("mov [rsp], rax", 0x48, 0x89, 0x04, 0x24);

  code.put("xchg rsi, r9", 0x4c, 0x87, 0xce); // r9: the kernel's envp
  code.put("mov r10, rdi", 0x49, 0x89, 0xfa); // r10: the new envp
  putCarried(code, "env", env_count);
  code.put("mov rsi, r9", 0x4c, 0x89, 0xce);
  code.label("copy_env");
  code.put("lodsq", 0x48, 0xad);
  code.put("test rax, rax", 0x48, 0x85, 0xc0);
  code.jump("jz", 0x74, "end_env");
  code.put("cmp dword [rax], 'DENO'", 0x81, 0x38, 0x44, 0x45, 0x4e, 0x4f);
  code.jump("je", 0x74, "prefix");
  code.put("cmp dword [rax], 'NODE'", 0x81, 0x38, 0x4e, 0x4f, 0x44, 0x45);
  code.jump("jne", 0x75, "keep");
  code.label("prefix");
  code.put("cmp byte [rax + 4], '_'", 0x80, 0x78, 0x04, 0x5f);
  code.jump("je", 0x74, "copy_env");
  code.label("keep");
  code.put("stosq", 0x48, 0xab);
  code.jump("jmp", 0xeb, "copy_env");
  code.label("end_env");
  code.put("stosq", 0x48, 0xab);

  code.label("copy_aux");
  code.put("lodsq", 0x48, 0xad);
  code.put("stosq", 0x48, 0xab);
  code.put("mov rcx, rax", 0x48, 0x89, 0xc1);
  code.put("lodsq", 0x48, 0xad);
  code.put("stosq", 0x48, 0xab);
  code.put("test rcx, rcx", 0x48, 0x85, 0xc9);
  code.jump("jnz", 0x75, "copy_aux");

  code.relative("mov rax, [environ's word]", [0x48, 0x8b, 0x05], environ);
  code.put("mov [rax], r10", 0x4c, 0x89, 0x10);
  code.relative("jmp entry", [0xe9], entry);
  return code.assembled();
}

/** Goes to the root directory when the working directory has been removed. */
function enterDirectory(code: Code): void {
  code.put("mov r12, rdx", 0x49, 0x89, 0xd4);
  code.put("lea rdi, [rsp - 2*PATH_BYTES]", 0x48, 0x8d, 0xbc, 0x24);
  code.word(-2 * PATH_BYTES);
  code.put("mov esi, PATH_BYTES", 0xbe);
  code.word(PATH_BYTES);
  code.put("mov eax, SYS_GETCWD", 0xb8);
  code.word(SYS_GETCWD);
  code.put("syscall", 0x0f, 0x05);
  code.put("test rax, rax", 0x48, 0x85, 0xc0);
  code.jump("jns", 0x79, "entered");
  code.put("push '/'", 0x6a, 0x2f); // eight bytes: the text and its end
  code.put("mov rdi, rsp", 0x48, 0x89, 0xe7);
  code.put("mov eax, SYS_CHDIR", 0xb8);
  code.word(SYS_CHDIR);
  code.put("syscall", 0x0f, 0x05);
  code.put("pop rdi", 0x5f);
  code.label("entered");
  code.put("mov rdx, r12", 0x4c, 0x89, 0xe2);
}

/** Puts the addresses of the next `count` carried texts. */
function putCarried(code: Code, name: string, count: number): void {
  code.put("mov ecx, count", 0xb9);
  code.word(count);
  code.label(name);
  code.put("lodsd", 0xad);
  code.put("add rax, r11", 0x4c, 0x01, 0xd8);
  code.put("stosq", 0x48, 0xab);
  code.jump("loop", 0xe2, name);
}

/** Machine code as it is written down; the text of an instruction is for the reader. */
class Code {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #jumps: { at: number; label: string }[] = [];

  constructor(readonly address: number) {}

  put(_text: string, ...bytes: number[]): void {
    this.#bytes.push(...bytes);
  }

  /** A signed word of 32 bits, as operand of the instruction before. */
  word(value: number): void {
    for (let i = 0; i < 4; i++) this.#bytes.push(value >> (8 * i) & 0xff);
  }

  /** An instruction whose operand is an address, relative to its own end. */
  relative(text: string, bytes: number[], target: number): void {
    this.put(text, ...bytes);
    const distance = target - (this.address + this.#bytes.length + 4);
    if (distance !== distance >> 0) throw new RangeError(`${text}: too far: ${distance}`);
    this.word(distance);
  }

  label(name: string): void {
    this.#labels.set(name, this.#bytes.length);
  }

  /** A jump of at most 127 bytes. */
  jump(text: string, opcode: number, label: string): void {
    this.put(text, opcode, 0);
    this.#jumps.push({ at: this.#bytes.length, label });
  }

  assembled(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.#bytes);
    for (const { at, label } of this.#jumps) {
      const distance = this.#labels.get(label)! - at;
      if (!(distance >= -128 && distance < 128)) throw new RangeError(`${label}: ${distance}`);
      bytes[at - 1] = distance;
    }
    return bytes;
  }
}
