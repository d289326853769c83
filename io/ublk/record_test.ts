import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../../core/errors.ts";
import type { TableConfig } from "../control_protocol.ts";
import {
  moveRecord,
  readRecord,
  recordedNames,
  recordPath,
  removeRecord,
  stagedPath,
  writeRecord,
} from "./record.ts";
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
    const path = recordPath({ name: "a.ublk", run_dir: `${root}/a.ublk` });
    const record = { dev_id: 3, cookie: [1, 2] as const, table: TABLE };
    assertEquals(readRecord(path), null);
    writeRecord(path, record);
    mapStagedFile(stagedPath(path), false).close();
    Deno.mkdirSync(`${root}/a.ublk`);
    assertEquals(recordedNames(root), ["a.ublk"]);
    const moved = recordPath({ name: "b", run_dir: `${root}/b` });
    moveRecord(path, moved);
    assertEquals(recordedNames(root), ["b"]);
    assertEquals(readRecord(moved), record);
    mapStagedFile(stagedPath(moved), true).close();
    removeRecord(moved);
    removeRecord(moved);
    assertEquals([...Deno.readDirSync(root)].map(({ name }) => name), ["a.ublk"]);
  });
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
