/**
 * Messages that have a device do something, through the commands and a real client.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { KIB, MIB, Rig } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";
import { fillFor } from "./random.ts";

const PIECE_BYTES = 64 * KIB;
const PIECES = 100;

function piece(id: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(PIECE_BYTES);
  fillFor(id, bytes);
  return bytes;
}

/** A device with dirty data: piece `i` at `i * PIECE_BYTES`. */
async function dirtyDevice(): Promise<{ rig: Rig; backing: string; client: NbdClient }> {
  const rig = Rig.make();
  const backing = rig.file("backing", 64 * MIB);
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${backing} data_crc true`;
  await rig.ok("create", "d", "--table", table);
  const client = await NbdClient.connect(await rig.uri("d"));
  for (let i = 0; i < PIECES; i++) await client.write(i * PIECE_BYTES, piece(i + 1));
  return { rig, backing, client };
}

async function eventOf(rig: Rig): Promise<number> {
  return Number(await rig.info("d", "Event number"));
}

Deno.test("flush, scrub, invalidate and drop_clean, beside a client", async () => {
  const { rig, backing, client } = await dirtyDevice();
  await using _ = rig;
  await using _client = client;
  const before = await eventOf(rig);
  assertEquals(await rig.ok("message", "d", "0", "flush"), "");
  const written = Deno.readFileSync(backing);
  for (let i = 0; i < PIECES; i++) {
    assertEquals(written.slice(i * PIECE_BYTES, (i + 1) * PIECE_BYTES), piece(i + 1));
  }
  assert(await eventOf(rig) > before, "it is an event");
  const { key_head, dirty_tail } = await rig.status("d");
  assertEquals(dirty_tail, key_head);

  const scrubbed = await rig.ok("message", "d", "0", "scrub");
  assertEquals(scrubbed, `verified ${PIECES * PIECE_BYTES} healed 0 lost 0\n`);

  // Somebody changes the backing device: what is cached hides it, until it is told to forget it.
  {
    using file = Deno.openSync(backing, { write: true });
    for (const i of [0, 1]) {
      file.seekSync(i * PIECE_BYTES, Deno.SeekMode.Start);
      file.writeSync(piece(1000 + i));
    }
  }
  assertEquals(await client.read(0, PIECE_BYTES), piece(1));
  assertEquals(await rig.ok("message", "d", "0", "invalidate", "0", "128"), "");
  assertEquals(await client.read(0, PIECE_BYTES), piece(1000));
  assertEquals(await client.read(PIECE_BYTES, PIECE_BYTES), piece(2));
  await rig.ok("message", "d", "0", "writeback_rate", "pause"); // it stays dirty
  await client.write(2 * PIECE_BYTES, piece(50));
  const refused = await rig.pcache("message", "d", "0", "invalidate", "256", "256");
  assertMatch(
    refused.stderr,
    /message on d failed: Device or resource busy: 128 sectors of the range/,
  );
  await rig.ok("message", "d", "0", "writeback_rate", "max");
  await rig.ok("message", "d", "0", "drop_clean");
  assertEquals(await client.read(PIECE_BYTES, PIECE_BYTES), piece(1001));
  assertEquals(await client.read(2 * PIECE_BYTES, PIECE_BYTES), piece(50));
});

Deno.test("what was dropped does not come back after a kill", async () => {
  const { rig, backing, client } = await dirtyDevice();
  await using _ = rig;
  await client.close();
  await rig.ok("message", "d", "0", "drop_clean");
  const table = await rig.ok("table", "d");
  await rig.kill("d");
  {
    using file = Deno.openSync(backing, { write: true });
    file.writeSync(piece(7777));
  }
  await rig.ok("create", "d", "--table", table.trim());
  await using again = await NbdClient.connect(await rig.uri("d"));
  assertEquals(await again.read(0, PIECE_BYTES), piece(7777));
});

Deno.test("sequential_cutoff: a stream passes, what is read here and there is kept, until a re-open", async () => {
  await using rig = Rig.make();
  const backing = rig.file("backing", 64 * MIB);
  {
    using file = Deno.openSync(backing, { write: true });
    for (let i = 0; i < PIECES; i++) file.writeSync(piece(i + 1));
  }
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${backing}`;
  await rig.ok("create", "d", "--table", table);
  const before = await eventOf(rig);
  await rig.ok("message", "d", "0", "sequential_cutoff", `${4 * PIECE_BYTES}`);
  assert(await eventOf(rig) > before, "it is an event");
  const client = await NbdClient.connect(await rig.uri("d"));
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < 24; i++) {
      assertEquals(await client.read(i * PIECE_BYTES, PIECE_BYTES), piece(i + 1));
    }
    for (const i of [90, 50, 70]) {
      assertEquals(await client.read(i * PIECE_BYTES, PIECE_BYTES), piece(i + 1));
    }
  }
  await client.close();
  const [stats] = JSON.parse(await rig.ok("stats", "d", "--json"));
  assertEquals(stats.sequential_cutoff, 4 * PIECE_BYTES);
  assertEquals(stats.counters.passed_bytes, 2 * 20 * PIECE_BYTES);
  assertEquals([stats.counters.read_hits, stats.counters.read_misses], [4 + 3, 2 * 20 + 4 + 3]);
  const text = await rig.ok("stats", "d");
  assertStringIncludes(text, "2.5 MiB of streams passed, streams pass from 256.0 KiB on\n");
  await rig.ok("remove", "d");
  await rig.ok("create", "d", "--table", table);
  assertEquals(JSON.parse(await rig.ok("stats", "d", "--json"))[0].sequential_cutoff, 0);
});

Deno.test("messages that are refused say why", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  const cases: [words: string[], reason: string][] = [
    [["scrub"], "Invalid argument: scrub: the cache was made with data_crc false"],
    [["flush", "now"], "Invalid argument: flush takes no words but 1 are given"],
    [["invalidate"], "Invalid argument: invalidate takes <start> and <length>, in sectors, but 0"],
    [["invalidate", "0", "0"], "Invalid argument: invalidate"],
    [["invalidate", "131071", "2"], "Invalid argument: invalidate"],
    [
      ["writeback_rate", "4095"],
      "Invalid argument: writeback_rate 4095, but it must be 4096 bytes",
    ],
    [["writeback_rate", "0"], "Invalid argument: writeback_rate 0, but pause is meant"],
    [
      ["writeback_rate", "fast"],
      "Invalid argument: writeback_rate fast, but it must be bytes a sec",
    ],
    [
      ["sequential_cutoff", "4095"],
      "Invalid argument: sequential_cutoff 4095, but it must be 4096 bytes at least, or 0",
    ],
    [
      ["sequential_cutoff", "off"],
      "Invalid argument: sequential_cutoff off, but it must be bytes, or 0 for none",
    ],
    [["drop_clean", "1", "2"], "Invalid argument: drop_clean takes no words but 2 are given"],
  ];
  for (const [words, reason] of cases) {
    const { code, stderr } = await rig.pcache("message", "d", "0", ...words);
    assertEquals(code, 1);
    assertStringIncludes(stderr, `pcache: message on d failed: ${reason}`);
    assert(stderr.endsWith("Command failed.\n"));
  }
  for (
    const [value, text, json] of [["pause", ", paused", 0], [
      "65536",
      ", at most 64.0 KiB/s",
      65536,
    ]]
  ) {
    await rig.ok("message", "d", "0", "writeback_rate", `${value}`);
    assertStringIncludes(await rig.ok("stats", "d"), `${text}`);
    assertEquals(JSON.parse(await rig.ok("stats", "d", "--json"))[0].writeback_rate, json);
  }
  await rig.ok("message", "d", "0", "writeback_rate", "max");
  assertEquals(JSON.parse(await rig.ok("stats", "d", "--json"))[0].writeback_rate, null);
  await rig.ok("suspend", "d");
  await rig.ok("message", "d", "0", "drop_clean"); // nothing is dirty, and nothing is there to forget
  await rig.ok("resume", "d");
});
