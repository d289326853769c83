/**
 * A share of what runs in a guest (`deno task test:guest` runs all of it), and one guest for all: booting takes its time.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { prepareGuest, runInGuest } from "./guest/guest.ts";

/** Cases of the share. */
const CASES = ["pmem", "recovery"];
/** A guest that takes longer hangs. */
const LIMIT_S = 800;

Deno.test("guest: a share of the cases passes on Debian's newest kernel", async () => {
  const suite = "sid";
  if (!prepareGuest(suite)) {
    console.log(
      "NOT TESTED: no guest could be had here, see above; nothing that needs its kernel was run",
    );
    return;
  }
  const outcome = await runInGuest({
    cases: CASES,
    suite,
    limit_s: LIMIT_S,
    env: { PCACHE_GUEST_SHARE: "1" },
  });
  assertEquals(outcome?.failed, 0);
});
