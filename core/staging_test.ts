import { assert, assertEquals, assertThrows } from "@std/assert";
import { fillFor } from "../tests/random.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { SmallDevice } from "../tests/small_device.ts";
import { CacheError } from "./errors.ts";
import { STAGED_KEYS } from "./log.ts";
import { Staging } from "./staging.ts";

const KIB = 1024;
const STAGED_BYTES = Staging.bytesFor(STAGED_KEYS);
const MEMORY = { cache_bytes: 0x5000 + 32 * 256 * KIB, buffer_bytes: 8192 * KIB };
/** Words of the header, as numbers of 64 bits. */
const APPENDED = 0;
const TURN = 1;

function content(id: number, bytes: number): Uint8Array {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

/** A device of which two writes were answered, the second over the first one's end, and none is in the log. */
function newDevice(memory?: SimMemory): SmallDevice {
  const device = new SmallDevice({ staged: new ArrayBuffer(STAGED_BYTES) }, memory);
  device.write(4096, content(1, 8192));
  device.write(8192, content(2, 8192));
  assertEquals(staging(device).appended - staging(device).durable, 2);
  return device;
}

function staging(device: SmallDevice): Staging {
  return new Staging(device.staged!, STAGED_KEYS);
}

function header(device: SmallDevice): Float64Array {
  return new Float64Array(device.staged!, 0, 8);
}

function wanted(): Uint8Array {
  const bytes = content(1, 12288);
  bytes.set(content(1, 8192));
  bytes.set(content(2, 8192), 4096);
  return bytes;
}

Deno.test("what was answered and not committed is there after a kill, and is committed then", () => {
  const device = newDevice();
  for (let kill = 0; kill < 3; kill++) {
    device.reopen();
    assertEquals(device.read(4096, 12288).bytes, wanted());
  }
  device.flush();
  assertEquals(staging(device).durable, staging(device).appended);
  device.write(4096, content(3, 512));
  device.reopen(null); // as by a power cut: what is staged is lost, and nothing else
  assertEquals(device.read(4096, 12288).bytes, wanted());
});

Deno.test("a staged write that was not there is not made up", () => {
  const device = newDevice();
  device.reopen(null);
  assertEquals(device.read(4096, 12288).bytes, content(0, 16384).subarray(4096));
});

Deno.test("keys that a commit has stored before it was cut off are not staged again", () => {
  const device = newDevice();
  const numbers = header(device).slice();
  device.flush();
  const { keys } = device.engine.replayed;
  header(device).set(numbers); // the commit ended, and nobody noted that
  device.reopen();
  assertEquals(device.engine.replayed.keys, keys + 2);
  assertEquals(staging(device).durable, staging(device).appended);
  assertEquals(device.read(4096, 12288).bytes, wanted());
});

Deno.test("the ring goes round", () => {
  const device = newDevice();
  const start = header(device);
  const turned = STAGED_KEYS - 1;
  // As if the ring had been filled once before.
  device.flush();
  device.engine.close();
  start[APPENDED] = turned;
  start[2 + (start[TURN]! % 2) * 3] = turned;
  device.reopen();
  for (let i = 0; i < 4; i++) device.write(i * 4096, content(10 + i, 4096));
  device.reopen();
  for (let i = 0; i < 4; i++) {
    assertEquals(device.read(i * 4096, 4096).bytes, content(10 + i, 4096));
  }
  device.flush();
  device.reopen(null);
  for (let i = 0; i < 4; i++) {
    assertEquals(device.read(i * 4096, 4096).bytes, content(10 + i, 4096));
  }
});

Deno.test("bytes that a killed process may not have written back are, before a commit names them", () => {
  const persisted: [number, number][] = [];
  class Noting extends SimMemory {
    override persist(addr: number, len_bytes: number): void {
      persisted.push([addr, addr + len_bytes]);
      super.persist(addr, len_bytes);
    }
  }
  const memory = new Noting({ ...MEMORY, barrier_is_cheap: true });
  const device = newDevice(memory);
  persisted.length = 0;
  device.reopen();
  const second = content(2, 8192);
  const at = memory.cache.findIndex((_, i) =>
    second.every((byte, k) => memory.cache[i + k] === byte)
  );
  assert(at > 0 && persisted.some(([from, to]) => from <= at && at + 8192 <= to));
});

Deno.test("staged keys are refused where the cache was used since", () => {
  const device = newDevice();
  device.reopen(null);
  device.write(65536, content(9, 4096));
  device.flush();
  assertThrows(() => device.reopen(), CacheError, "the cache was used since they were left");
  device.reopen(null);
});

Deno.test("staged keys that nobody left so are refused", () => {
  const forge = (act: (numbers: Float64Array, ring: Uint32Array) => void, message: string) => {
    const device = newDevice();
    act(header(device), staging(device).ring);
    assertThrows(() => device.reopen(), CacheError, message);
    device.reopen(null);
  };
  forge((numbers) => numbers[APPENDED] = NaN, "no process has left so");
  forge((numbers) => numbers[APPENDED] = STAGED_KEYS + 1, "no process has left so");
  forge((numbers) => numbers[APPENDED] = -1, "no process has left so");
  forge((numbers) => numbers[TURN] = 0.5, "no process has left so");
  forge((numbers) => numbers.fill(1000, 3), "no process has left so"); // the segment
  forge((_, ring) => ring[2] = 0, "staged key 0: length 0");
  forge((_, ring) => ring[4] = 77, "staged key 0: segment 77, but there are 32");
});
