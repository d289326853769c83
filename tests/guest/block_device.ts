/**
 * What tests in the guest ask the kernel about a block device.
 *
 * @module
 */

import { until } from "../device.ts";

/** Requests that a block device has answered: fields 1 and 5 of its `stat`, reads and writes. */
export function requestsOf(node: string): number {
  const name = node.replace("/dev/", "");
  const fields = Deno.readTextFileSync(`/sys/block/${name}/stat`).trim().split(/\s+/);
  return Number(fields[0]) + Number(fields[4]);
}

/** Waits until the kernel has looked for partitions on a new device: it does so when it likes, and has it open meanwhile. */
export async function untilScanned(node: string): Promise<void> {
  await until(`${node} is looked at`, () => requestsOf(node) > 0);
  Deno.openSync(node).close(); // waits for who looks
}
