/**
 * The commands as a script, for carry.ts: what cli/main.ts is without the device process.
 *
 * @module
 */

import { main } from "../cli/main.ts";

main(Deno.args).then(Deno.exit);
