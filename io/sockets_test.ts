import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { F_GETFL, libc, O_NONBLOCK } from "./libc.ts";
import {
  close,
  listenTcp,
  listenUnix,
  socketAddress,
  startConnect,
  tcpAddresses,
  unixAddress,
} from "./sockets.ts";

const ENOENT = 2;
const ECONNREFUSED = 111;

Deno.test("a Unix socket listens, with mode 0600", async () => {
  const dir = Deno.makeTempDirSync();
  const path = `${dir}/s`;
  const fd = listenUnix(path);
  try {
    assertEquals(Deno.statSync(path).mode! & 0o777, 0o600);
    (await Deno.connect({ transport: "unix", path })).close();
    assertThrows(() => listenUnix(path), CacheError, `socket ${path}: Address already in use`);
  } finally {
    close(fd);
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("a path that is too long or does not exist is refused", () => {
  const long = "/tmp/" + "x".repeat(103);
  assertThrows(() => listenUnix(long), CacheError, "at most 107 are wanted");
  assertThrows(() => listenUnix("/nonexistent/s"), CacheError, "No such file or directory");
});

Deno.test("TCP listens at IPv4, IPv6 and localhost, and tells its port", async () => {
  for (const host of ["127.0.0.1", "::1", "localhost"]) {
    const listener = listenTcp(host, 0);
    try {
      assertEquals(listener.host, host === "localhost" ? "127.0.0.1" : host);
      (await Deno.connect({ hostname: listener.host, port: listener.port })).close();
      const taken = () => listenTcp(host, listener.port);
      assertThrows(taken, CacheError, `listening on ${host}:${listener.port}: Address already`);
    } finally {
      close(listener.fd);
    }
  }
});

Deno.test("names and ports that are none are refused", () => {
  for (const host of ["example.com", "", "1.2.3", "1.2.3.256", "01.2.3.4", ":::1", "fe80::1%lo"]) {
    assertThrows(() => listenTcp(host, 0), CacheError, "is wanted", host);
  }
  for (const port of [-1, 65536, 1.5, NaN]) {
    assertThrows(
      () => listenTcp("127.0.0.1", port),
      CacheError,
      "a port from 0 to 65535",
      `${port}`,
    );
  }
});

Deno.test("literal addresses become socket addresses", () => {
  const hex = (literal: string) => socketAddress(literal, 10809)?.toHex();
  assertEquals(hex("127.0.0.1"), "02002a39" + "7f000001" + "00".repeat(8));
  const v6 = (groups: string) => "0a002a39" + "00000000" + groups + "00000000";
  assertEquals(hex("::"), v6("00".repeat(16)));
  assertEquals(hex("::1"), v6("00".repeat(15) + "01"));
  assertEquals(hex("2001:db8::"), v6("20010db8" + "00".repeat(12)));
  assertEquals(hex("1:2:3:4:5:6:7:8"), v6("00010002000300040005000600070008"));
  assertEquals(hex("fe80::a:b"), v6("fe80" + "00".repeat(10) + "000a000b"));
  assertEquals(hex("::ffff:1.2.3.4"), v6("00".repeat(10) + "ffff01020304"));
});

Deno.test("hosts become addresses: literal ones as they are, names by the system's resolver", () => {
  for (const literal of ["127.0.0.1", "::1"]) {
    assertEquals(tcpAddresses(literal, 10809), [socketAddress(literal, 10809)!]);
  }
  const local = tcpAddresses("localhost", 10809).map((address) => address.toHex());
  const wanted = ["127.0.0.1", "::1"].map((literal) => socketAddress(literal, 10809)!.toHex());
  assert(local.length > 0 && local.every((address) => wanted.includes(address)), local.join());
  assertThrows(() => tcpAddresses("no-such-host.invalid", 1), CacheError, "no-such-host.invalid: ");
});

Deno.test("connecting does not wait, and says what is wrong at once where it can", () => {
  const dir = Deno.makeTempDirSync();
  const path = `${dir}/s`;
  assertEquals(startConnect(unixAddress(path)), -ENOENT);
  const listener = listenUnix(path);
  const tcp = listenTcp("127.0.0.1", 0);
  try {
    for (const address of [unixAddress(path), socketAddress("127.0.0.1", tcp.port)!]) {
      const fd = startConnect(address);
      assert(fd >= 0, `${fd}`);
      // It waits for its bytes like any other.
      assertEquals(libc.fcntl(fd, F_GETFL, 0) & O_NONBLOCK, 0);
      close(fd);
    }
  } finally {
    close(listener);
    close(tcp.fd);
    Deno.removeSync(dir, { recursive: true });
  }
  assertEquals(startConnect(unixAddress("/dev/null")), -ECONNREFUSED);
});
