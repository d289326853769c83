/**
 * In the guest: the demo, whole, over NBD.
 *
 * @module
 */

import { must } from "../../device.ts";

Deno.test("guest: the demo", async () => {
  console.log(await must(Deno.execPath(), "run", "-A", "--no-prompt", "tests/demo.ts"));
});
