import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import type { TableConfig } from "./control_protocol.ts";
import { checkTable, NodeRecord, recordedNames } from "./node_record.ts";
import { mapStagedFile } from "./staged_file.ts";

const TABLE = { cache_path: "/c", backing_path: "/b" } as TableConfig;

/** Runs `act` with a run directory that is removed in the end. */
function withRoot(act: (root: string) => void): void {
  const root = Deno.makeTempDirSync();
  try {
    act(root);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
}

Deno.test("a record is found by its name, moves with what belongs to it, and goes whole", () => {
  withRoot((root) => {
    assertEquals(recordedNames(`${root}/none`), []);
    const home = { name: "a.ublk", run_dir: `${root}/a.ublk` };
    const record = new NodeRecord(home, "ublk");
    const noted = { dev_id: 3, cookie: [1, 2] as const, table: TABLE };
    assertEquals(record.read(), null);
    record.write(noted);
    mapStagedFile(record.staged_path, false).close();
    Deno.mkdirSync(`${root}/a.ublk`);
    assertEquals(recordedNames(root), ["a.ublk"]);
    Object.assign(home, { name: "b", run_dir: `${root}/b` });
    record.renamed();
    assertEquals(recordedNames(root), ["b"]);
    assertEquals([record.read(), new NodeRecord(home, "ublk").read()], [noted, noted]);
    mapStagedFile(record.staged_path, true).close();
    record.remove();
    record.remove();
    assertEquals([...Deno.readDirSync(root)].map(({ name }) => name), ["a.ublk"]);
  });
});

Deno.test("records of both drivers are found; what is none is refused", () => {
  withRoot((root) => {
    const record = new NodeRecord({ name: "n", run_dir: `${root}/n` }, "nbd");
    record.write({ index: 2, backend: "x", table: TABLE });
    new NodeRecord({ name: "u", run_dir: `${root}/u` }, "ublk").write(
      { dev_id: 3, cookie: [1, 2], table: TABLE },
    );
    assertEquals(recordedNames(root), ["n", "u"]);
    Deno.writeTextFileSync(`${root}/~n.nbd`, "{");
    assertThrows(() => record.read(), CacheError, "~n.nbd: not a record of a block device");
  });
});

Deno.test("a block device is taken over with the table it was made for only", () => {
  checkTable("/dev/nbd0", TABLE, { ...TABLE });
  for (
    const [key, value] of [["cache_path", "/x"], ["backing_path", "/x"], ["data_crc", true], [
      "read_only",
      true,
    ]]
  ) {
    const other = { ...TABLE, [String(key)]: value } as TableConfig;
    const words = `/dev/nbd0 was created with ${key}`;
    assertThrows(() => checkTable("/dev/nbd0", TABLE, other), CacheError, words);
  }
});

Deno.test("staged keys are there for the next process, and a new file has none", () => {
  withRoot((root) => {
    const path = `${root}/staged`;
    const first = mapStagedFile(path, false);
    first.staging.ring[7] = 77;
    first.staging.setAppended(1);
    first.close();
    const second = mapStagedFile(path, true);
    assertEquals([second.staging.appended, second.staging.ring[7]], [1, 77]);
    second.close();
    const third = mapStagedFile(path, false);
    assertEquals([third.staging.appended, third.staging.ring[7]], [0, 0]);
    third.close();
  });
});

Deno.test("a file of staged keys that is gone or too short is refused", () => {
  withRoot((root) => {
    const path = `${root}/staged`;
    assertThrows(() => mapStagedFile(path, true), CacheError, "No such file or directory");
    Deno.writeFileSync(path, new Uint8Array(4096));
    assertThrows(() => mapStagedFile(path, true), CacheError, "has 4096 bytes, wanted 10489856");
    assertThrows(() => mapStagedFile(`${root}/none/x`, false), CacheError, "No such file");
  });
});
