/**
 * The device process as a script, for carry.ts.
 *
 * @module
 */

import { runDeviceProcess } from "../cli/device_process.ts";
import { EXIT_FAILED, EXIT_OK } from "../cli/output.ts";

runDeviceProcess().then((is_ok) => Deno.exit(is_ok ? EXIT_OK : EXIT_FAILED));
