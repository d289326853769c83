/**
 * What a disk holds after a power cut, from the log that device-mapper's log-writes target kept of it: a write is in the log
 * once a flush that came after its end has ended, or its FUA has.
 *
 * @module
 */

const MAGIC = 0x6a736677736872n;
const SECTOR = 512;
const DISCARD = 1n << 2n;
const MARK = 1n << 3n;
const FLUSH = 1n << 0n;

/** What was found up to a mark. */
export interface Replayed {
  readonly writes: number;
  readonly flushes: number;
  /** Writes behind the mark: the disk had them, and no flush covered them. */
  readonly lost: number;
}

/** Writes to `to`, which holds what the disk held at first, what the log of `from` has before the mark. */
export function replayWrites(from: string, to: string, mark: string): Replayed {
  using log = Deno.openSync(from);
  using disk = Deno.openSync(to, { write: true });
  const seen = { writes: 0, flushes: 0, lost: 0 };
  const head = words(read(log, 0, SECTOR));
  if (head[0] !== MAGIC || head[1] !== 1n) throw new Error(`${from}: not a log of writes`);
  const count = Number(head[2]);
  let is_cut = false;
  let sector = 1;
  for (let i = 0; i < count; i++) {
    const bytes = read(log, sector++, SECTOR);
    const [at, sectors, flags, text_bytes] = words(bytes);
    if ((flags! & MARK) !== 0n) {
      const text = bytes.subarray(32, 32 + Number(text_bytes));
      is_cut ||= new TextDecoder().decode(text).startsWith(mark);
      continue;
    }
    if ((flags! & DISCARD) !== 0n) throw new Error(`${from}: a discard, which is not known here`);
    if ((flags! & FLUSH) !== 0n && !is_cut) seen.flushes++;
    if (sectors === 0n) continue;
    if (is_cut) seen.lost++;
    else {
      seen.writes++;
      write(disk, Number(at), read(log, sector, Number(sectors) * SECTOR));
    }
    sector += Number(sectors);
  }
  if (!is_cut) throw new Error(`${from}: ${count} entries, and no mark "${mark}"`);
  return seen;
}

function words(bytes: Uint8Array): BigUint64Array {
  return new BigUint64Array(bytes.buffer, bytes.byteOffset, 4);
}

function read(file: Deno.FsFile, sector: number, len_bytes: number): Uint8Array {
  const bytes = new Uint8Array(len_bytes);
  file.seekSync(sector * SECTOR, Deno.SeekMode.Start);
  for (let got = 0; got < len_bytes;) {
    const part = file.readSync(bytes.subarray(got));
    if (part === null) throw new Error(`the log ends in sector ${sector}`);
    got += part;
  }
  return bytes;
}

function write(file: Deno.FsFile, sector: number, bytes: Uint8Array): void {
  file.seekSync(sector * SECTOR, Deno.SeekMode.Start);
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
