/**
 * What tests in the guest ask the kernel about a block device.
 *
 * @module
 */

import { must, until } from "../device.ts";

/** The ublk driver of older kernels does not know who has a device open (no TRY_STOP_DEV): they see exclusive users only. */
const FIRST_TO_SEE_USERS = 7;

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

/** Whether a block device of the ublk driver can become larger on this kernel: UPDATE_SIZE, Linux 6.16. */
export function canGrow(): boolean {
  const [major, minor] = Deno.osRelease().split(".").map(Number);
  return major! > 6 || (major === 6 && minor! >= 16);
}

/** Somebody who uses a block device, so that this kernel can tell. */
export async function useDevice(node: string): Promise<{ end(): Promise<void> }> {
  if (Number(Deno.osRelease().split(".")[0]) >= FIRST_TO_SEE_USERS) {
    const file = Deno.openSync(node);
    return { end: () => Promise.resolve(file.close()) };
  }
  const dmsetup = "/usr/sbin/dmsetup";
  await must(dmsetup, "create", "user", "--table", `0 8 linear ${node} 0`);
  return { end: async () => void await must(dmsetup, "remove", "--retry", "user") };
}
