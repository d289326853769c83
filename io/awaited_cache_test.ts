import { assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { checkNotAwaited } from "./awaited_cache.ts";
import type { TableConfig } from "./control_protocol.ts";
import { NodeRecord } from "./node_record.ts";

Deno.test("a cache that a killed device's block device waits for is for that device alone", () => {
  const root = Deno.makeTempDirSync();
  try {
    const cache_path = `${root}/cache`;
    Deno.writeTextFileSync(cache_path, "");
    Deno.writeTextFileSync(`${root}/other`, "");
    Deno.symlinkSync(cache_path, `${root}/link`);
    const check = (path: string, own_name: string | null) => checkNotAwaited(root, path, own_name);
    check(cache_path, null);
    const record = new NodeRecord({ name: "killed", run_dir: `${root}/killed` }, "ublk");
    record.write({ dev_id: 3, cookie: [1, 2], table: { cache_path } as TableConfig });
    check(cache_path, "killed");
    check(`${root}/other`, null);
    check(`${root}/missing`, null);
    for (const path of [cache_path, `${root}/link`]) {
      for (const own_name of [null, "new"]) {
        assertThrows(
          () => check(path, own_name),
          CacheError,
          `Error opening cache device: ${path}: the block device of killed, whose process was killed, waits for it`,
        );
      }
    }
    checkNotAwaited(null, cache_path, null);
    Deno.removeSync(cache_path); // a record whose cache has gone concerns nobody else
    check(`${root}/other`, null);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});
