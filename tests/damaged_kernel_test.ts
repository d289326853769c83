/**
 * check and repair on damaged copies of the caches that a real kernel wrote.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Buffer } from "node:buffer";
import { checkCache } from "../core/check.ts";
import { checkData } from "../core/check_data.ts";
import { KEY_BYTES, keyLen, keyOff, keySeg, keySegOff, KSET_HEADER_BYTES } from "../core/format.ts";
import { planRepair } from "../core/repair.ts";
import { Anatomy, CHAIN_DAMAGES, type Damage, DAMAGES, LOG_DAMAGES } from "./damage.ts";
import {
  type Expected,
  fillRuns,
  KERNEL_CASES,
  type KernelCase,
  loadImage,
  readExpected,
} from "./kernel_images.ts";
import { Random } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimDevice } from "./sim_device.ts";
import { SimMemory } from "./sim_memory.ts";

const MIB = 1024 * 1024;
const SECTOR_BYTES = 512;
const READ_BYTES = 16 * MIB;

/** A kernel's image, whole, and a memory in which copies of it are damaged. */
class Patient {
  readonly expected: Expected;
  readonly memory: SimMemory;
  readonly anatomy: Anatomy;
  readonly #image: Uint8Array;
  #disks: Disks | null = null;

  private constructor(expected: Expected, memory: SimMemory) {
    this.expected = expected;
    this.memory = memory;
    this.#image = memory.cache.slice();
    this.anatomy = new Anatomy(memory, expected.data_crc);
  }

  static async load(name: KernelCase): Promise<Patient> {
    const expected = readExpected(name);
    const memory = new SimMemory({ cache_bytes: expected.cache_bytes, buffer_bytes: 64 * MIB });
    await loadImage(name, "cache", memory.cache);
    return new Patient(expected, memory);
  }

  /** The image is as the kernel left it. */
  restore(): void {
    this.memory.cache.set(this.#image);
  }

  get options() {
    return { size_bytes: this.expected.backing_bytes };
  }

  /** The keys of a kset of the whole image: first sector and sectors of each. */
  rangesOf(kset_addr: number, keys: number): { first: number; count: number }[] {
    const bytes = this.#image.slice(kset_addr, kset_addr + KSET_HEADER_BYTES + keys * KEY_BYTES);
    const words = new Uint32Array(bytes.buffer);
    return Array.from({ length: keys }, (_, i) => {
      const at = (KSET_HEADER_BYTES + i * KEY_BYTES) / 4;
      return { first: keyOff(words, at) / SECTOR_BYTES, count: keyLen(words, at) / SECTOR_BYTES };
    });
  }

  /** Sectors that do not read as the kernel reads them. */
  async wrongSectors(): Promise<Set<number>> {
    const { memory, expected } = this;
    this.#disks ??= await loadDisks(expected);
    const { backing_bytes, content } = this.#disks;
    // Nothing is written back while it is read.
    const backing = new SimBacking(backing_bytes, memory.bytes, new Random(1));
    const device = new SimDevice(memory, backing, { data_crc: expected.data_crc });
    const wrong = new Set<number>();
    for (let off = 0; off < expected.backing_bytes; off += READ_BYTES) {
      const { errno, bytes } = device.read(off, READ_BYTES);
      assertEquals(errno, 0, `read at ${off}`);
      if (Buffer.compare(bytes, content.subarray(off, off + READ_BYTES)) === 0) continue;
      for (let i = 0; i < bytes.length; i++) {
        if (bytes[i] !== content[off + i]) wrong.add(Math.floor((off + i) / SECTOR_BYTES));
      }
    }
    return wrong;
  }
}

/** The backing device as the kernel left it, and what the cached device holds. */
interface Disks {
  readonly backing_bytes: Uint8Array<ArrayBuffer>;
  readonly content: Uint8Array;
}

async function loadDisks(expected: Expected): Promise<Disks> {
  const backing_bytes = new Uint8Array(expected.backing_bytes);
  await loadImage(expected.case, "backing", backing_bytes);
  const content = new Uint8Array(expected.backing_bytes);
  fillRuns(expected.content, expected.pattern.unit, content);
  return { backing_bytes, content };
}

/** The damage is found, and undone as far as it can be. */
async function examine(patient: Patient, damage: Damage): Promise<void> {
  const { memory, anatomy, options } = patient;
  patient.restore();
  damage.act(memory, anatomy);
  const { findings } = checkCache(memory, options);
  const [severity, text] = damage.found;
  const found = findings.list.some((f) => f.severity === severity && f.text.includes(text));
  assert(found, `${damage.what}: found ${JSON.stringify(findings.list)}`);
  const plan = planRepair(memory, options);
  assert(plan.repairs.length > 0, damage.what);
  plan.overlay.apply();
  const wrong = await patient.wrongSectors();
  if (damage.repaired === "whole") {
    assertEquals(
      wrong.size,
      0,
      `${damage.what}: ${plan.repairs.join("; ")}: sectors that read wrong`,
    );
    return;
  }
  assert(plan.losses.length > 0, `${damage.what}: nothing is said to be lost`);
  const { addr, keys } = anatomy.middleKset;
  const ranges = patient.rangesOf(addr, keys);
  for (const sector of wrong) {
    const is_lost = ranges.some(({ first, count }) => first <= sector && sector < first + count);
    assert(
      is_lost,
      `${damage.what}: sector ${sector}, which no key of the kset names, reads wrong`,
    );
  }
}

/** What is done to which image: one with checksums, one without, and one whose segments were used many times and whose log goes on. */
const TREATMENTS: { readonly [N in KernelCase]?: readonly Damage[] } = {
  "k2-dirty": [...DAMAGES, ...LOG_DAMAGES],
  "k3-nocrc": LOG_DAMAGES.slice(-3),
  "k4-gc": [...CHAIN_DAMAGES, ...DAMAGES.filter(({ what }) => what.includes("generations"))],
};

for (const name of KERNEL_CASES) {
  const damages = TREATMENTS[name] ?? [];
  Deno.test(`${name} has no error and needs no repair; damaged in ${damages.length} ways`, async () => {
    const patient = await Patient.load(name);
    const { memory, options, anatomy } = patient;
    const { findings, log, cache } = checkCache(memory, options);
    assertEquals(findings.list.filter(({ severity }) => severity === "error"), []);
    assertEquals(log!.ksets, anatomy.ksets.length);
    if (cache!.data_crc) {
      checkData(cache!, memory, options.size_bytes, findings);
      assertEquals(findings.errors, 0);
    }
    const plan = planRepair(memory, options);
    assertEquals(plan.losses, []);
    assertEquals(plan.repairs.length, findings.warnings);
    for (const damage of damages) await examine(patient, damage);
  });
}

Deno.test("damaged data: dirty data is an error, clean data a warning, none is a finding of the log", async () => {
  for (const [name, severity] of [["k2-dirty", "error"], ["k1-clean", "warning"]] as const) {
    const { memory, options, anatomy, rangesOf } = await Patient.load(name).then((patient) => ({
      ...patient,
      options: patient.options,
      rangesOf: patient.rangesOf.bind(patient),
    }));
    const { addr, keys } = anatomy.ksets.at(-1)!;
    const words = new Uint32Array(memory.bytes.slice(addr, addr + 24 + keys * 40).buffer);
    const at = (KSET_HEADER_BYTES + (keys - 1) * KEY_BYTES) / 4;
    const data_addr = anatomy.cache.dataAddr(keySeg(words, at), keySegOff(words, at));
    memory.bytes[data_addr] = memory.bytes[data_addr]! ^ 1;
    const { findings, cache } = checkCache(memory, options);
    assertEquals(findings.errors, 0);
    const before = findings.list.length;
    const report = checkData(cache!, memory, options.size_bytes, findings);
    const [found] = findings.list.slice(before);
    assertEquals([found!.severity, found!.part], [severity, "data"]);
    const { first, count } = rangesOf(addr, keys).at(-1)!;
    assertStringIncludes(found!.text, `data of sectors ${first}+`);
    assert(report.damaged_bytes <= count * SECTOR_BYTES && report.damaged_bytes > 0);
  }
});
