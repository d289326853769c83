/**
 * Reads what carry.ts has to know of an ELF executable, and gives it one more segment (elf(5)).
 *
 * Invariants:
 * - Everything in the file is checked before it is used; what is not as expected is refused.
 * - Nothing that is in the file moves: a segment is added by giving the entry of PT_NOTE, which nobody needs at
 *   run time, another meaning.
 *
 * @module
 */

/** Bytes of the entries of a program header table, a relocation table, a symbol table, and the dynamic section. */
const HEADER_BYTES = 56;
const RELA_BYTES = 24;
const SYMBOL_BYTES = 24;
const DYNAMIC_BYTES = 16;

const ET_DYN = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PT_NOTE = 4;
const PF_X = 1;
const PF_R = 4;
const DT_STRTAB = 5;
const DT_SYMTAB = 6;
const DT_RELA = 7;
const DT_RELASZ = 8;
const R_X86_64_GLOB_DAT = 6;

const PAGE_BYTES = 4096;
/** Longest symbol that is looked for, and most entries of any table. */
const MAX_SYMBOL_CHARS = 256;
const MAX_ENTRIES = 1 << 20;

/** The file is not one that can be made to carry a program. */
export class ElfError extends Error {
  override readonly name = "ElfError";
}

interface ProgramHeader {
  /** Where the header itself is in the file. */
  readonly at: number;
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly file_bytes: number;
  readonly memory_bytes: number;
}

/** A dynamically linked, position independent executable for x86-64, in memory. */
export class Elf {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #headers: ProgramHeader[];
  readonly #dynamic: Map<number, number>;

  /** @throws {ElfError} It is something else. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const magic = [0x7f, 0x45, 0x4c, 0x46, /* 64 bit */ 2, /* little-endian */ 1];
    if (bytes.length < 64 || !magic.every((byte, i) => bytes[i] === byte)) {
      throw new ElfError("not a little-endian 64-bit ELF file");
    }
    const machine = this.#view.getUint16(18, true);
    if (machine !== EM_X86_64) throw new ElfError(`machine ${machine}, wanted x86-64`);
    const type = this.#view.getUint16(16, true);
    if (type !== ET_DYN) throw new ElfError(`type ${type}, wanted a position independent one`);
    this.#headers = this.#readHeaders();
    this.#header(PT_INTERP, "dynamic linker");
    this.#dynamic = this.#readDynamic();
  }

  /** Address of the first instruction, before relocation, as all addresses here. */
  get entry(): number {
    return this.#u64(24);
  }

  /** Where in the file, and at which address, a segment added at the end begins. */
  get end(): { offset: number; address: number } {
    const loaded = this.#headers.filter((header) => header.type === PT_LOAD);
    const last = Math.max(...loaded.map((header) => header.address + header.memory_bytes));
    return { offset: roundUp(this.#bytes.length), address: roundUp(last) };
  }

  /**
   * Address of the word that the dynamic linker makes point to a library's variable.
   *
   * @throws {ElfError} The program does not use that variable.
   */
  linkedVariable(name: string): number {
    const table = this.#offsetOf(this.#dynamicValue(DT_RELA));
    const count = this.#dynamicValue(DT_RELASZ) / RELA_BYTES;
    const symbols = this.#offsetOf(this.#dynamicValue(DT_SYMTAB));
    const names = this.#offsetOf(this.#dynamicValue(DT_STRTAB));
    if (count > MAX_ENTRIES) throw new ElfError(`${count} relocations, at most ${MAX_ENTRIES}`);
    for (let i = 0; i < count; i++) {
      const at = table + i * RELA_BYTES;
      if (this.#u32(at + 8) !== R_X86_64_GLOB_DAT) continue;
      const symbol = symbols + this.#u32(at + 12) * SYMBOL_BYTES;
      if (this.#text(names + this.#u32(symbol)) === name) return this.#u64(at);
    }
    throw new ElfError(`no reference to ${name}`);
  }

  /**
   * Makes a segment of `bytes` bytes at `end` part of the program, readable and executable, and its first
   * instruction the program's. The caller appends its bytes to the file.
   */
  addSegment(bytes: number): void {
    const { offset, address } = this.end;
    const { at } = this.#header(PT_NOTE, "note");
    this.#view.setUint32(at, PT_LOAD, true);
    this.#view.setUint32(at + 4, PF_R | PF_X, true);
    const words = [offset, address, address, bytes, bytes, PAGE_BYTES];
    for (const [i, word] of words.entries()) {
      this.#view.setBigUint64(at + 8 + 8 * i, BigInt(word), true);
    }
    this.#view.setBigUint64(24, BigInt(address), true);
  }

  #readHeaders(): ProgramHeader[] {
    const table = this.#u64(32);
    const entry_bytes = this.#view.getUint16(54, true);
    if (entry_bytes !== HEADER_BYTES) {
      throw new ElfError(`program headers of ${entry_bytes} bytes, wanted ${HEADER_BYTES}`);
    }
    const headers: ProgramHeader[] = [];
    for (let i = 0; i < this.#view.getUint16(56, true); i++) {
      const at = table + i * HEADER_BYTES;
      headers.push({
        at,
        type: this.#u32(at),
        offset: this.#u64(at + 8),
        address: this.#u64(at + 16),
        file_bytes: this.#u64(at + 32),
        memory_bytes: this.#u64(at + 40),
      });
    }
    // The kernel wants the loaded segments in the order of their addresses; the note's place has to be the last.
    const note = headers.findLastIndex((header) => header.type === PT_NOTE);
    const load = headers.findLastIndex((header) => header.type === PT_LOAD);
    if (note < load) throw new ElfError("no note after the loaded segments");
    return headers;
  }

  #header(type: number, what: string): ProgramHeader {
    const header = this.#headers.findLast((header) => header.type === type);
    if (header === undefined) throw new ElfError(`no ${what}`);
    return header;
  }

  #readDynamic(): Map<number, number> {
    const { offset, file_bytes } = this.#header(PT_DYNAMIC, "dynamic section");
    const values = new Map<number, number>();
    for (let at = offset; at < offset + file_bytes; at += DYNAMIC_BYTES) {
      values.set(this.#u64(at), this.#u64(at + 8));
    }
    return values;
  }

  #dynamicValue(tag: number): number {
    const value = this.#dynamic.get(tag);
    if (value === undefined) throw new ElfError(`no entry ${tag} in the dynamic section`);
    return value;
  }

  #offsetOf(address: number): number {
    for (const { type, address: start, file_bytes, offset } of this.#headers) {
      if (type !== PT_LOAD || address < start || address >= start + file_bytes) continue;
      return offset + address - start;
    }
    throw new ElfError(`address ${address} is not in the file`);
  }

  #text(at: number): string {
    const end = this.#bytes.indexOf(0, at);
    if (end < 0 || end - at > MAX_SYMBOL_CHARS) return "";
    return new TextDecoder().decode(this.#bytes.subarray(at, end));
  }

  #u32(at: number): number {
    if (at + 4 > this.#bytes.length) throw new ElfError(`the file ends before offset ${at}`);
    return this.#view.getUint32(at, true);
  }

  #u64(at: number): number {
    if (at + 8 > this.#bytes.length) throw new ElfError(`the file ends before offset ${at}`);
    return Number(this.#view.getBigUint64(at, true));
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
}
