/**
 * Makes one executable out of the Deno runtime and a program, where `deno compile` has no base binary to do it.
 *
 * The file is the runtime, unchanged but for its program headers and its entry, then a segment, then the program:
 *
 * ```text
 * deno           its note header now describes the segment, its entry is the stub
 * segment        the stub (stub.ts), offsets of the texts, the texts: arguments and environment for the runtime
 * sources        JavaScript: the commands, the device process
 * ```
 *
 * The stub puts `deno run ... data:<loader>` in the place of argv[0]; the loader evaluates one of the sources.
 * Nothing is unpacked and nothing written: no cache directory, no race between users, no HOME, and all processes
 * share the same pages. (A script in front of a compressed runtime would unpack 90 MB for each user into a place
 * that has to exist, belong to the right one, allow execution and be cleaned up.) The source is not given as the
 * `data:` URL itself, since Deno parses modules for their imports before V8 does; and the commands come without the
 * engine, since `status` does not need it.
 *
 * @module
 */

import { DEVICE_PROCESS } from "../cli/verbs.ts";
import { V8_FLAGS } from "../io/runtime.ts";
import { Elf } from "./elf.ts";
import { makeStub } from "./stub.ts";

/** The two halves of the program, as scripts. */
export interface Sources {
  readonly commands: string;
  readonly device: string;
}

/** How the runtime is started: it reads no configuration, no lock file and no network, and writes nothing. */
const RUNTIME_ARGS = [
  "deno",
  "run",
  "--allow-all",
  "--no-prompt",
  "--no-config",
  "--no-lock",
  "--no-npm",
  "--no-remote",
  "--no-code-cache",
  V8_FLAGS,
  "--quiet",
];
/**
 * A DENO_DIR that cannot be made, so that Deno keeps what it would put there in memory; at a terminal it would say so
 * each time.
 */
const RUNTIME_ENV = [
  "DENO_DIR=/dev/null/deno",
  "DENO_LOG=error,deno::cache=off",
  "DENO_NO_UPDATE_CHECK=1",
  "DENO_NO_PACKAGE_JSON=1",
];

const OFFSET_BYTES = 4;

/**
 * The parts of the executable, to be written one after the other.
 *
 * @param runtime The deno executable; it is changed.
 * @throws {ElfError} The runtime is not one that can be changed in this way.
 */
export function carry(runtime: Uint8Array, sources: Sources): Uint8Array[] {
  const elf = new Elf(runtime);
  const { offset } = elf.end;
  const encoder = new TextEncoder();
  const commands = encoder.encode(sources.commands);
  const device = encoder.encode(sources.device);

  // The loader says where the sources are, and its own length decides that: its numbers have a fixed width.
  const length = makeSegment(elf, loader(offset, commands.length, device.length)).length;
  const at = offset + length;
  const segment = makeSegment(elf, loader(at, commands.length, device.length));
  if (segment.length !== length) throw new RangeError("the loader's length changed");

  const padding = new Uint8Array(offset - runtime.length);
  elf.addSegment(segment.length);
  return [runtime, padding, segment, commands, device];
}

/** What the runtime runs as its main module. */
function loader(at: number, commands_bytes: number, device_bytes: number): string {
  const number = (value: number) => String(value).padStart(12, " ");
  const module = `const is_device = Deno.args[0] === "${DEVICE_PROCESS}";
let source = new Uint8Array(is_device ? ${number(device_bytes)} : ${number(commands_bytes)});
try {
  const file = Deno.openSync("/proc/self/exe");
  file.seekSync(is_device ? ${number(at + commands_bytes)} : ${number(at)}, Deno.SeekMode.Start);
  for (let got = 0; got < source.length;) {
    const read = file.readSync(source.subarray(got));
    if (read === null) throw new Error("it ends too early");
    got += read;
  }
  file.close();
  source = new TextDecoder("utf-8", { fatal: true }).decode(source);
  ${restoreEnvironment()}
} catch (error) {
  console.error("pcache: cannot read its own file: " + error.message);
  Deno.exit(1);
}
(0, eval)(source);
`;
  return `data:application/javascript,${encodeURIComponent(module)}`;
}

/**
 * The runtime has begun by now: what the stub put into the environment goes, and what it kept from the runtime comes
 * back, for the programs that are started from here.
 */
function restoreEnvironment(): string {
  const names = RUNTIME_ENV.map((text) => text.replace(/=.*/, ""));
  return `for (const name of ${JSON.stringify(names)}) Deno.env.delete(name);
  for (const text of Deno.readTextFileSync("/proc/self/environ").split("\\0")) {
    const [, name, value] = /^((?:DENO|NODE)_[^=]*)=([^]*)$/.exec(text) ?? [];
    if (name !== undefined) Deno.env.set(name, value);
  }`;
}

function makeSegment(elf: Elf, main_module: string): Uint8Array {
  const { address } = elf.end;
  const texts = [...RUNTIME_ARGS, main_module, ...RUNTIME_ENV].map((text) =>
    new TextEncoder().encode(`${text}\0`)
  );
  const places = {
    stub: address,
    entry: elf.entry,
    environ: elf.linkedVariable("environ"),
    arg_count: RUNTIME_ARGS.length + 1,
    env_count: RUNTIME_ENV.length,
  };
  const stub_bytes = makeStub({ ...places, offsets: address, texts: address }).length;
  const offsets_at = stub_bytes;
  const texts_at = offsets_at + OFFSET_BYTES * texts.length;
  const stub = makeStub({ ...places, offsets: address + offsets_at, texts: address + texts_at });

  const segment = new Uint8Array(texts_at + texts.reduce((sum, text) => sum + text.length, 0));
  const view = new DataView(segment.buffer);
  segment.set(stub);
  let end = texts_at;
  for (const [i, text] of texts.entries()) {
    view.setUint32(offsets_at + OFFSET_BYTES * i, end - texts_at, true);
    segment.set(text, end);
    end += text.length;
  }
  return segment;
}
