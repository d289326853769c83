/**
 * What a block device may answer, when many requests are under way at once: a plain byte array, and for each
 * sector where requests overlapped in time, every value it may hold.
 *
 * The rule is the one of an atomic register for each sector. A read sees the last write that was answered before
 * it began, or a write that was under way at some moment between its begin and its end. A write that was answered
 * before another one began is never seen again once that one is answered. Where a write covers a sector in part, the
 * rule holds byte by byte. After a crash a sector holds the last flushed write or a later one.
 *
 * @module
 */

const SECTOR = 512;

/** A write, from the moment its request was sent. */
export interface ModelWrite {
  readonly id: number;
  readonly off: number;
  readonly len: number;
  readonly bytes: Uint8Array;
  readonly begin: number;
  /** When it was answered; Infinity before. */
  end: number;
  /** A flush after its answer, or its FUA, has been answered. */
  durable: boolean;
  /** Its payload never came: it never happened. */
  lost: boolean;
}

/** A sector whose value depends on the order of writes that overlapped in time. */
interface Contest {
  /** Those that may be the last one. */
  writes: ModelWrite[];
  /** The value from before them cannot be seen any more. */
  base_gone: boolean;
  /** Grows with every change. */
  version: number;
}

/** A read, from the moment its request was sent, with all that it may see. */
export interface ModelRead {
  readonly off: number;
  readonly len: number;
  readonly snapshot: Uint8Array;
  /** Writes under way at some moment of it. */
  readonly during: ModelWrite[];
  /** The contested sectors of its range as they were at its begin. */
  readonly contests: Map<number, Contest & { of: Contest }>;
}

/** The content is not one that the rule allows. */
export class ModelViolation extends Error {}

function overlaps(a: { off: number; len: number }, b: { off: number; len: number }): boolean {
  return a.off < b.off + b.len && b.off < a.off + a.len;
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let i = 0;
  if ((a.byteOffset & 3) === 0 && (b.byteOffset & 3) === 0) {
    const words = a.length >>> 2;
    const x = new Uint32Array(a.buffer, a.byteOffset, words);
    const y = new Uint32Array(b.buffer, b.byteOffset, words);
    for (let k = 0; k < words; k++) if (x[k] !== y[k]) return false;
    i = words * 4;
  }
  for (; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** True when `write` covers all of [from, to). */
function covers(write: ModelWrite, from: number, to: number): boolean {
  return write.off <= from && write.off + write.len >= to;
}

/** The bytes of `write` in [from, to), which it covers. */
function part(write: ModelWrite, from: number, to: number): Uint8Array {
  return write.bytes.subarray(from - write.off, to - write.off);
}

/** The device, as its users may see it. */
export class Model {
  /** The value of every byte that is not contested. */
  readonly bytes: Uint8Array;
  /** What it was at the last moment when nothing was under way and everything was flushed. */
  readonly #flushed: Uint8Array;
  /** Writes since then, oldest first. */
  #history: ModelWrite[] = [];
  #clock = 0;
  #next_id: number;
  readonly #writes = new Set<ModelWrite>();
  readonly #reads = new Set<ModelRead>();
  readonly #contests = new Map<number, Contest>();

  /** Writes are numbered from `first_id` on, and their number is what they write. */
  constructor(initial: Uint8Array, first_id = 1) {
    this.#next_id = first_id;
    this.bytes = initial.slice();
    this.#flushed = initial.slice();
  }

  /** How many writes there were since the last quiet moment. */
  get history_length(): number {
    return this.#history.length;
  }

  /** A write's request is sent; `fill` makes its payload. */
  beginWrite(off: number, len: number, fill: (id: number, bytes: Uint8Array) => void): ModelWrite {
    const id = this.#next_id++;
    const bytes = new Uint8Array(len);
    fill(id, bytes);
    const begin = ++this.#clock;
    const write = { id, off, len, bytes, begin, end: Infinity, durable: false, lost: false };
    for (const other of this.#writes) {
      if (!overlaps(write, other)) continue;
      const from = Math.floor(Math.max(off, other.off) / SECTOR);
      const to = Math.ceil(Math.min(off + len, other.off + other.len) / SECTOR);
      for (let sector = from; sector < to; sector++) this.#contest(sector, other, write);
    }
    for (const read of this.#reads) if (overlaps(read, write)) read.during.push(write);
    this.#writes.add(write);
    this.#history.push(write);
    return write;
  }

  /** The write was answered without error. */
  endWrite(write: ModelWrite, fua: boolean): void {
    write.end = ++this.#clock;
    write.durable = fua;
    this.#writes.delete(write);
    if (this.#contests.size === 0) {
      this.bytes.set(write.bytes, write.off);
      return;
    }
    const end = write.off + write.len;
    for (let at = write.off; at < end;) {
      const sector = Math.floor(at / SECTOR);
      const to = Math.min((sector + 1) * SECTOR, end);
      const contest = this.#contests.get(sector);
      if (contest === undefined) this.bytes.set(part(write, at, to), at);
      else this.#endInContest(sector, contest, write);
      at = to;
    }
  }

  /** The write's payload never came. */
  loseWrite(write: ModelWrite): void {
    write.lost = true;
    this.#writes.delete(write);
    if (this.#contests.size === 0) return;
    const to = Math.ceil((write.off + write.len) / SECTOR);
    for (let sector = Math.floor(write.off / SECTOR); sector < to; sector++) {
      const contest = this.#contests.get(sector);
      if (contest === undefined) continue;
      contest.writes = contest.writes.filter((other) => other !== write);
      this.#settle(sector, contest);
    }
  }

  #contest(sector: number, ...writes: ModelWrite[]): void {
    let contest = this.#contests.get(sector);
    if (contest === undefined) {
      contest = { writes: [], base_gone: false, version: 0 };
      this.#contests.set(sector, contest);
    }
    for (const write of writes) if (!contest.writes.includes(write)) contest.writes.push(write);
    contest.version++;
  }

  #endInContest(sector: number, contest: Contest, write: ModelWrite): void {
    if (!contest.writes.includes(write)) contest.writes.push(write);
    const from = sector * SECTOR;
    const to = from + SECTOR;
    if (covers(write, from, to)) contest.base_gone = true;
    contest.writes = contest.writes.filter((other) => {
      const before = other.end < write.begin;
      return !(before &&
        covers(write, Math.max(from, other.off), Math.min(to, other.off + other.len)));
    });
    this.#settle(sector, contest);
  }

  /** Folds into the base what certainly comes first. */
  #settle(sector: number, contest: Contest): void {
    contest.version++;
    for (;;) {
      const first = contest.writes.find((write) =>
        contest.writes.every((other) => other === write || write.end < other.begin)
      );
      if (first === undefined || first.end === Infinity) break;
      const from = Math.max(sector * SECTOR, first.off);
      const to = Math.min((sector + 1) * SECTOR, first.off + first.len);
      this.bytes.set(part(first, from, to), from);
      if (to - from === SECTOR) contest.base_gone = false;
      contest.writes = contest.writes.filter((other) => other !== first);
    }
    if (contest.writes.length > 0) return;
    if (contest.base_gone) throw new Error(`model: sector ${sector} has no value`);
    this.#contests.delete(sector);
  }

  /** A read's request is sent. */
  beginRead(off: number, len: number): ModelRead {
    const read: ModelRead = {
      off,
      len,
      snapshot: this.bytes.slice(off, off + len),
      during: [...this.#writes].filter((write) => overlaps(write, { off, len })),
      contests: new Map(),
    };
    const first = Math.floor(off / SECTOR);
    const last = Math.floor((off + len - 1) / SECTOR);
    if (this.#contests.size < last - first) {
      for (const [sector, contest] of this.#contests) {
        if (sector >= first && sector <= last) this.#keepContest(read, sector, contest);
      }
    } else if (this.#contests.size > 0) {
      for (let sector = first; sector <= last; sector++) {
        const contest = this.#contests.get(sector);
        if (contest !== undefined) this.#keepContest(read, sector, contest);
      }
    }
    this.#reads.add(read);
    return read;
  }

  #keepContest(read: ModelRead, sector: number, contest: Contest): void {
    read.contests.set(sector, { ...contest, writes: contest.writes.slice(), of: contest });
  }

  /** The read was answered: from now on no further write can be in it. */
  endRead(read: ModelRead): void {
    this.#reads.delete(read);
  }

  /** Throws when `data` is not what the read may see. May be called some time after `endRead`. */
  checkRead(read: ModelRead, data: Uint8Array): void {
    const quiet = read.contests.size === 0;
    if (quiet && read.during.length === 0) {
      if (!equalBytes(data, read.snapshot)) this.#explain(read, data);
      return;
    }
    if (quiet && equalBytes(data, read.snapshot)) return;
    this.#explain(read, data);
    if (read.during.length === 0) this.#resolve(read, data);
  }

  /** Checks sector by sector; throws at the first one that holds what it may not. */
  #explain(read: ModelRead, data: Uint8Array): void {
    const end = read.off + read.len;
    for (let at = read.off; at < end;) {
      const sector = Math.floor(at / SECTOR);
      const to = Math.min((sector + 1) * SECTOR, end);
      const contest = read.contests.get(sector);
      const writes = (contest?.writes ?? []).concat(
        read.during.filter((write) => !(contest?.writes.includes(write))),
      ).filter((write) => !write.lost && write.off < to && at < write.off + write.len);
      const base = contest?.base_gone
        ? undefined
        : read.snapshot.subarray(at - read.off, to - read.off);
      const seen = data.subarray(at - read.off, to - read.off);
      if (!isAllowed(seen, at, base, writes)) {
        throw new ModelViolation(
          `read of ${read.len} bytes at ${read.off}: bytes ${at}..${to} (sector ${sector}) hold ` +
            `${this.#describe(seen, at)}, wanted ${
              base ? "what was there before" : ""
            } or one of ` +
            `[${writes.map((write) => `write ${write.id}`).join(", ")}]`,
        );
      }
      at = to;
    }
  }

  /** Which write the bytes come from, for a message. */
  #describe(seen: Uint8Array, at: number): string {
    const end = at + seen.length;
    if (seen.every((byte) => byte === 0)) return "zeros";
    for (const write of this.#history) {
      if (covers(write, at, end) && equalBytes(part(write, at, end).slice(), seen.slice())) {
        return `write ${write.id} (${write.len} bytes at ${write.off}, begun ${write.begin}, ` +
          `answered ${write.end}${write.lost ? ", lost" : ""})`;
      }
    }
    if (equalBytes(this.#flushed.slice(at, end), seen.slice())) return "an older, flushed value";
    return `bytes of no one write (${[...seen.subarray(0, 16)].join(" ")} ...)`;
  }

  /** A quiet read settles what its sectors hold. */
  #resolve(read: ModelRead, data: Uint8Array): void {
    for (const [sector, contest] of read.contests) {
      const from = sector * SECTOR;
      const to = from + SECTOR;
      if (from < read.off || to > read.off + read.len) continue;
      if (this.#contests.get(sector) !== contest.of || contest.of.version !== contest.version) {
        continue;
      }
      this.bytes.set(data.subarray(from - read.off, to - read.off), from);
      this.#contests.delete(sector);
    }
  }

  /** Sectors whose value only a read can tell, now that nothing is under way. */
  contestedSectors(): number[] {
    return [...this.#contests.keys()];
  }

  /** A flush's request is sent: give the result to `endFlush`. */
  beginFlush(): number {
    return ++this.#clock;
  }

  /** The flush that began at `begin` was answered. */
  endFlush(begin: number): void {
    for (const write of this.#history) if (write.end < begin) write.durable = true;
  }

  /** Nothing is under way or contested, and everything is flushed: what came before is over. */
  quiet(): void {
    if (this.#writes.size > 0 || this.#reads.size > 0 || this.#contests.size > 0) {
      throw new Error("model: not quiet");
    }
    for (const write of this.#history) {
      const from = write.off;
      const to = from + write.len;
      this.#flushed.set(this.bytes.subarray(from, to), from);
    }
    this.#history = [];
  }

  /** What a crash at this moment may leave, if the writes that `isDurable` says are so. */
  crashRule(isDurable: (write: ModelWrite) => boolean = wasFlushed): CrashRule {
    const sectors: CrashSector[] = [];
    for (let from = 0; from < this.bytes.length; from += SECTOR) {
      sectors.push(this.#after(from, isDurable));
    }
    return new CrashRule(sectors, (seen, from) => this.#describe(seen, from));
  }

  /** What a crash at this moment may leave of the sector at `from`. */
  #after(from: number, isDurable = wasFlushed): CrashSector {
    const to = from + SECTOR;
    const writes = this.#history.filter((write) =>
      !write.lost && write.off < to && from < write.off + write.len
    );
    const left = writes.filter((write) => {
      const a = Math.max(from, write.off);
      const b = Math.min(to, write.off + write.len);
      return !writes.some((later) =>
        isDurable(later) && write.end < later.begin && covers(later, a, b)
      );
    });
    const base_gone = writes.some((write) => isDurable(write) && covers(write, from, to));
    return { base: base_gone ? undefined : this.#flushed.slice(from, to), writes: left };
  }

  /** The device crashed and holds `data` now. Throws when it may not; takes it over when it may. */
  adoptAfterCrash(data: Uint8Array): void {
    for (let from = 0; from < data.length; from += SECTOR) {
      const to = from + SECTOR;
      const seen = data.subarray(from, to);
      const is_current = equalBytes(seen, this.bytes.subarray(from, to));
      if (is_current && !this.#contests.has(from / SECTOR)) continue;
      checkSector(this.#after(from), seen, from, this.#describe.bind(this));
    }
    this.bytes.set(data);
    this.#flushed.set(data);
    this.#history = [];
    this.#writes.clear();
    this.#reads.clear();
    this.#contests.clear();
  }
}

function wasFlushed(write: ModelWrite): boolean {
  return write.durable;
}

/** What a crash may leave of one sector: `base` (undefined: it is gone), or one of the writes, or bytes of several. */
interface CrashSector {
  readonly base: Uint8Array | undefined;
  readonly writes: readonly ModelWrite[];
}

/** What a crash at one moment may leave. The model may go on meanwhile. */
export class CrashRule {
  readonly #sectors: readonly CrashSector[];
  readonly #describe: Describe;

  constructor(sectors: readonly CrashSector[], describe: Describe) {
    this.#sectors = sectors;
    this.#describe = describe;
  }

  /** Throws `ModelViolation` when the device may not hold `data` after the crash. */
  check(data: Uint8Array): void {
    for (let sector = 0; sector < this.#sectors.length; sector++) {
      const from = sector * SECTOR;
      const seen = data.subarray(from, from + SECTOR);
      checkSector(this.#sectors[sector]!, seen, from, this.#describe);
    }
  }
}

/** Which write the bytes at an offset come from, for a message. */
type Describe = (seen: Uint8Array, from: number) => string;

function checkSector(
  { base, writes }: CrashSector,
  seen: Uint8Array,
  from: number,
  describe: Describe,
): void {
  if (isAllowed(seen, from, base, writes)) return;
  throw new ModelViolation(
    `after a crash: sector ${from / SECTOR} holds ${describe(seen, from)}, wanted ` +
      `${base ? "what was flushed before" : ""} or one of ` +
      `[${writes.map((write) => `write ${write.id}`).join(", ")}]`,
  );
}

/** May bytes from `at` on hold `seen`, when before them there was `base` and `writes` may have come over it? */
function isAllowed(
  seen: Uint8Array,
  at: number,
  base: Uint8Array | undefined,
  writes: readonly ModelWrite[],
): boolean {
  const end = at + seen.length;
  if (base !== undefined && equalBytes(seen, base)) return true;
  let partial = false;
  for (const write of writes) {
    if (!covers(write, at, end)) partial = true;
    else if (equalBytes(seen, part(write, at, end))) return true;
  }
  if (!partial) return false;
  for (let i = 0; i < seen.length; i++) {
    const byte = seen[i];
    if (base !== undefined && base[i] === byte) continue;
    const here = at + i;
    const found = writes.some((write) =>
      here >= write.off && here < write.off + write.len && write.bytes[here - write.off] === byte
    );
    if (!found) return false;
  }
  return true;
}
