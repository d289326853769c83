/**
 * The states that a power cut at one moment may leave, enumerated: all of them where they are few, else a seeded choice.
 *
 * A unit is what is old or new by itself: an atom or a page of the cache device, a sector of one volatile write of the backing
 * device. A unit that was stored to several times may hold any of its versions.
 *
 * @module
 */

import type { Random } from "../random.ts";
import type { CrashBacking } from "./crash_backing.ts";
import { type CrashMemory, LINE_SHIFT, PAGE_SHIFT } from "./crash_memory.ts";

const SECTOR = 512;
/** How likely a unit is to be new, when units are chosen. */
const ODDS = [0.03, 0.15, 0.5, 0.5, 0.85, 0.97];

/** A place where crash states are made and looked at. */
export interface Lab {
  readonly memory: CrashMemory;
  readonly backing: CrashBacking;
}

/** How one state is chosen: for each record of the cache device, and each sector of a volatile write, whether it is there. */
export class CrashStates {
  readonly #memory: CrashMemory;
  readonly #backing: CrashBacking;
  readonly #random: Random;
  /** Unit of each record, and of each volatile sector behind them. */
  readonly #unit: Int32Array;
  /** How many versions each unit has, the old one included. */
  readonly #versions: number[] = [];
  /** Which version of its unit a record belongs to: 1 .. versions-1. */
  readonly #version: Int32Array;
  /** Cache line of each record, numbered from 0. */
  readonly #line: Int32Array;
  readonly #lines: number;
  /** Scratch: the version that each unit holds. */
  #chosen: Int32Array = new Int32Array(0);

  constructor(memory: CrashMemory, backing: CrashBacking, random: Random) {
    this.#memory = memory;
    this.#backing = backing;
    this.#random = random;
    const sectors = backing.volatile.reduce((sum, write) => sum + write.bytes.length / SECTOR, 0);
    this.#unit = new Int32Array(memory.count + sectors);
    this.#version = new Int32Array(memory.count + sectors);
    this.#line = new Int32Array(memory.count);
    const shift = memory.medium === "pages" ? PAGE_SHIFT : 0;
    this.#numberCache(shift);
    this.#lines = this.#numberLines();
    for (let i = memory.count; i < this.#unit.length; i++) {
      this.#unit[i] = this.#versions.length;
      this.#version[i] = 1;
      this.#versions.push(2);
    }
    this.#chosen = new Int32Array(this.#versions.length);
  }

  #numberCache(shift: number): void {
    const units = new Map<number, { unit: number; store: number }>();
    for (let i = 0; i < this.#memory.count; i++) {
      const key = this.#memory.atom[i]! >> shift;
      const store = this.#memory.store[i]!;
      let at = units.get(key);
      if (at === undefined) {
        at = { unit: this.#versions.length, store };
        units.set(key, at);
        this.#versions.push(2);
      } else if (at.store !== store) {
        at.store = store;
        this.#versions[at.unit] = this.#versions[at.unit]! + 1;
      }
      this.#unit[i] = at.unit;
      this.#version[i] = this.#versions[at.unit]! - 1;
    }
  }

  #numberLines(): number {
    const lines = new Map<number, number>();
    for (let i = 0; i < this.#memory.count; i++) {
      const key = this.#memory.atom[i]! >> LINE_SHIFT;
      const line = lines.get(key) ?? lines.size;
      lines.set(key, line);
      this.#line[i] = line;
    }
    return lines.size;
  }

  /** How many states there are; Infinity for very many. */
  get possible(): number {
    return this.#versions.reduce((product, versions) => product * versions, 1);
  }

  /** Makes states in `lab`, `most` at most, and calls `visit` after each. Returns whether that was all there are. */
  forEach(lab: Lab, most: number, visit: () => void): boolean {
    if (this.possible <= most) {
      this.#visitAll(lab, visit);
      return true;
    }
    let made = 0;
    if (this.#memory.medium === "pmem" && 2 ** this.#lines <= most) {
      for (; made < 2 ** this.#lines; made++) {
        this.#chooseSeeded(0.5);
        for (let i = 0; i < this.#memory.count; i++) {
          const unit = this.#unit[i]!;
          const is_new = (made >>> this.#line[i]!) & 1;
          this.#chosen[unit] = is_new * (this.#versions[unit]! - 1);
        }
        this.#make(lab);
        visit();
      }
    }
    for (most = Math.max(most, made + most / 4); made < most; made++) {
      this.makeOne(lab);
      visit();
    }
    return false;
  }

  #visitAll(lab: Lab, visit: () => void): void {
    const chosen = this.#chosen.fill(0);
    for (;;) {
      this.#make(lab);
      visit();
      let unit = 0;
      while (unit < chosen.length && chosen[unit] === this.#versions[unit]! - 1) chosen[unit++] = 0;
      if (unit === chosen.length) return;
      chosen[unit] = chosen[unit]! + 1;
    }
  }

  /** Makes one state, chosen at random. */
  makeOne(lab: Lab): void {
    const random = this.#random;
    this.#chooseSeeded(random.pick(ODDS));
    const grain = random.below(3);
    // Half of the states have whole stores, or whole cache lines, old or new: those are the likely ones.
    if (grain > 0) {
      const odds = random.pick(ODDS);
      const seed = random.u32();
      const of = grain === 1 ? this.#memory.store : this.#line;
      for (let i = 0; i < this.#memory.count; i++) this.#chosen[this.#unit[i]!] = 0;
      for (let i = 0; i < this.#memory.count; i++) {
        let mixed = Math.imul(of[i]! ^ seed, 0x9e3779b1);
        mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b);
        const is_new = ((mixed ^ (mixed >>> 13)) >>> 0) < odds * 0x1_0000_0000;
        if (is_new) this.#chosen[this.#unit[i]!] = this.#version[i]!;
      }
    }
    this.#make(lab);
  }

  /** Each unit by itself. The backing device's have odds of their own. */
  #chooseSeeded(odds: number): void {
    const random = this.#random;
    const backing_odds = random.pick([0, 0.1, 0.5, 0.9, 1]);
    const backing_from = this.#versions.length - (this.#unit.length - this.#memory.count);
    for (let unit = 0; unit < this.#chosen.length; unit++) {
      const is_new = random.chance(unit < backing_from ? odds : backing_odds);
      const versions = this.#versions[unit]!;
      this.#chosen[unit] = !is_new ? 0 : versions === 2 ? 1 : 1 + random.below(versions - 1);
    }
  }

  #make(lab: Lab): void {
    const memory = this.#memory;
    lab.memory.loadDurable(memory);
    lab.backing.loadDurable(this.#backing);
    let i = 0;
    for (; i < memory.count; i++) {
      if (this.#version[i]! > this.#chosen[this.#unit[i]!]!) continue;
      lab.memory.put(memory.atom[i]!, memory.lo[i]!, memory.hi[i]!);
    }
    for (const { off, bytes } of this.#backing.volatile) {
      for (let at = 0; at < bytes.length; at += SECTOR, i++) {
        if (this.#chosen[this.#unit[i]!] === 0) continue;
        lab.backing.put(off + at, bytes.subarray(at, at + SECTOR));
      }
    }
  }
}
