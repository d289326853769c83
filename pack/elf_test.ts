import { assert, assertEquals, assertThrows } from "@std/assert";
import { Elf, ElfError } from "./elf.ts";

/** The runtime that runs this. */
const RUNTIME = Deno.readFileSync(Deno.execPath());

Deno.test("the runtime can be given a segment, and nothing else of it changes", () => {
  const bytes = RUNTIME.slice();
  const elf = new Elf(bytes);
  const { entry, end } = elf;
  assert(end.offset >= bytes.length && end.offset % 4096 === 0);
  assert(end.address > entry && end.address % 4096 === 0);
  assert(elf.linkedVariable("environ") < end.address);
  elf.addSegment(123);
  const entry_moved = RUNTIME.slice();
  entry_moved.set(bytes.subarray(0, 64));
  assertEquals(new Elf(entry_moved).entry, end.address);
  let differing_bytes = 0;
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== RUNTIME[i]) differing_bytes++;
  assert(differing_bytes > 0 && differing_bytes <= 8 + 56);
});

Deno.test("what is no such executable is refused", () => {
  const changed = (at: number, value: number) => {
    const bytes = RUNTIME.slice();
    bytes[at] = value;
    return bytes;
  };
  const refused: [bytes: Uint8Array, message: string][] = [
    [new TextEncoder().encode("#!/bin/sh\n"), "not a little-endian 64-bit ELF file"],
    [changed(4, 1), "not a little-endian 64-bit ELF file"],
    [changed(18, 183), "machine 183, wanted x86-64"],
    [changed(16, 2), "type 2, wanted a position independent one"],
    [changed(54, 32), "program headers of 32 bytes"],
    [changed(56, 8), "no note"],
    [RUNTIME.slice(0, 100), "the file ends before"],
    [RUNTIME.slice(0, 1 << 20), "the file ends before"],
  ];
  for (const [bytes, message] of refused) assertThrows(() => new Elf(bytes), ElfError, message);
  const elf = new Elf(RUNTIME.slice());
  assertThrows(() => elf.linkedVariable("nonesuch"), ElfError, "no reference to nonesuch");
});
