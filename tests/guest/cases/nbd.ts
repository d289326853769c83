/**
 * In the guest: the demo, whole, and the kernel's own NBD client on a device.
 *
 * @module
 */

import { must } from "../../device.ts";

Deno.test("guest: the demo", async () => {
  console.log(await must(Deno.execPath(), "run", "-A", "--no-prompt", "tests/demo.ts"));
});
