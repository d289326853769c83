import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../../core/errors.ts";
import type { Outcome } from "../netlink.ts";
import { type Attribute, request, u32 } from "../netlink_messages.ts";
import { NbdKernelClient } from "./kernel_client.ts";
import { nodeIndex, nodePath } from "./node_path.ts";

const FAMILY = 0x1f;

/** A kernel that answers what it is told to, and the bytes that it was asked. */
function clientOf(outcome: Outcome): { client: NbdKernelClient; asked: Uint8Array[] } {
  const asked: Uint8Array[] = [];
  const call = (family: number, command: number, attributes: readonly Attribute[]) => {
    assertEquals(family, FAMILY);
    asked.push(request(family, command, 1, attributes).subarray(16));
    return outcome;
  };
  return { client: new NbdKernelClient({ call }, FAMILY, "/nowhere"), asked };
}

function hex(bytes: string): Uint8Array {
  return Uint8Array.from(bytes.trim().split(/\s+/), (byte) => parseInt(byte, 16));
}

const SPEC = { size_bytes: 1 << 30, flags: 0x16d, backend: "pcache x", fds: [5, 6] };

Deno.test("kernel client: connect, byte for byte, and the index that comes back", () => {
  const { client, asked } = clientOf({ errno: 0, replies: [new Map([[1, u32(3)]])] });
  assertEquals(client.connect({ ...SPEC, index: null }), 3);
  const all_but_index = `
    0c 00 02 00  00 00 00 40  00 00 00 00
    0c 00 03 00  00 02 00 00  00 00 00 00
    0c 00 04 00  1e 00 00 00  00 00 00 00
    0c 00 08 00  80 51 01 00  00 00 00 00
    0c 00 05 00  6d 01 00 00  00 00 00 00
    0d 00 0a 00  70 63 61 63  68 65 20 78  00 00 00 00
    1c 00 07 80
      0c 00 01 80  08 00 01 00  05 00 00 00
      0c 00 01 80  08 00 01 00  06 00 00 00`;
  assertEquals(asked.pop(), hex(`01 01 00 00 ${all_but_index}`));
  assertEquals(client.connect({ ...SPEC, index: 9 }), 3);
  assertEquals(asked.pop(), hex(`01 01 00 00  08 00 01 00  09 00 00 00 ${all_but_index}`));
});

Deno.test("kernel client: what it refuses has a reason", () => {
  for (
    const [errno, index, words] of [
      [16, 4, "/dev/nbd4: Device or resource busy: it is connected already"],
      [1, null, "a free /dev/nbdN: Operation not permitted: CAP_SYS_ADMIN is wanted"],
      [22, 4, "/dev/nbd4: Invalid argument"],
      [0, 4, "/dev/nbd4: the kernel does not say which device it has made"],
    ] as const
  ) {
    const { client } = clientOf({ errno, replies: [] });
    assertThrows(() => client.connect({ ...SPEC, index }), CacheError, words);
  }
});

Deno.test("kernel client: reconfigure names the device by index and by what was said when it was made", () => {
  const { client, asked } = clientOf({ errno: 22, replies: [] });
  const ours = "08 00 01 00  02 00 00 00  06 00 0a 00  78 00 00 00";
  assertEquals(client.reconnect(2, "x", [7]), 22);
  assertEquals(
    asked.pop(),
    hex(`03 01 00 00 ${ours} 10 00 07 80  0c 00 01 80  08 00 01 00  07 00 00 00`),
  );
  assertEquals(client.disconnectOnClose(2, "x", true), 22);
  assertEquals(
    asked.pop(),
    hex(`03 01 00 00 ${ours} 0c 00 06 00  02 00 00 00  00 00 00 00`),
  );
  client.disconnectOnClose(2, "x", false);
  assertEquals(
    asked.pop(),
    hex(`03 01 00 00 ${ours} 0c 00 06 00  00 00 00 00  00 00 00 00`),
  );
  client.disconnect(2);
  assertEquals(asked.pop(), hex("02 01 00 00  08 00 01 00  02 00 00 00"));
});

Deno.test("kernel client: sysfs says what a device is, or nothing", () => {
  const dir = Deno.makeTempDirSync();
  try {
    Deno.mkdirSync(`${dir}/nbd1`);
    for (const [name, text] of [["dev", "43:32"], ["size", "2048"], ["backend", "pcache x"]]) {
      Deno.writeTextFileSync(`${dir}/nbd1/${name}`, `${text}\n`);
    }
    const client = new NbdKernelClient({ call: () => ({ errno: 0, replies: [] }) }, FAMILY, dir);
    assertEquals(client.numberOf(1), { major: 43, minor: 32 });
    assertEquals(client.sizeOf(1), 1 << 20);
    assertEquals(client.backendOf(1), "pcache x");
    assertEquals([client.isConnected(1), client.backendOf(2)], [false, ""]);
    assertThrows(() => client.numberOf(2), CacheError, "nbd2: not to be seen here");
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("kernel client: paths of nodes", () => {
  assertEquals(nodePath(12), "/dev/nbd12");
  for (const index of [0, 7, 15, 99999]) assertEquals(nodeIndex(nodePath(index)), index);
  for (const path of ["/dev/nbd", "/dev/nbd07", "/dev/nbd1p1", "nbd1", "/dev/nbd123456", ""]) {
    assertEquals(nodeIndex(path), null, path);
  }
});
