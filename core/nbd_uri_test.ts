import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "./errors.ts";
import {
  formatNbdUri,
  isNbdUri,
  type NbdAddress,
  type NbdTlsProof,
  parseNbdUri,
} from "./nbd_uri.ts";

const tcp = (host: string, port: number, export_name: string): NbdAddress => ({
  transport: "tcp",
  host,
  port,
  export_name,
  tls: null,
});
const unix = (socket_path: string, export_name: string): NbdAddress => ({
  transport: "unix",
  socket_path,
  export_name,
  tls: null,
});
/** The same under TLS. */
const secure = (address: NbdAddress, tls: NbdTlsProof): NbdAddress => ({ ...address, tls });

const GOOD: [uri: string, address: NbdAddress, formatted: string][] = [
  // The examples of the specification.
  ["nbd://example.com/disk", tcp("example.com", 10809, "disk"), "nbd://example.com/disk"],
  ["nbd+unix:///disk?socket=sock", unix("sock", "disk"), "nbd+unix:///disk?socket=sock"],
  ["nbd://example.com/", tcp("example.com", 10809, ""), "nbd://example.com/"],
  ["nbd://example.com", tcp("example.com", 10809, ""), "nbd://example.com/"],
  ["nbd://example.com//disk", tcp("example.com", 10809, "/disk"), "nbd://example.com//disk"],
  [
    "nbd://example.com/hello%20world",
    tcp("example.com", 10809, "hello world"),
    "nbd://example.com/hello%20world",
  ],
  ["nbd://h:10809/x", tcp("h", 10809, "x"), "nbd://h/x"],
  ["NBD://Storage-1.Example:7/X", tcp("storage-1.example", 7, "X"), "nbd://storage-1.example:7/X"],
  ["nbd://127.0.0.1:65535", tcp("127.0.0.1", 65535, ""), "nbd://127.0.0.1:65535/"],
  ["nbd://[FD00::1]:1/a/b", tcp("fd00::1", 1, "a/b"), "nbd://[fd00::1]:1/a/b"],
  ["nbd://[::1]", tcp("::1", 10809, ""), "nbd://[::1]/"],
  [
    "nbd+unix:///?socket=/run/a%20b%26c+d",
    unix("/run/a b&c+d", ""),
    "nbd+unix:///?socket=/run/a%20b%26c%2Bd",
  ],
  [
    "nbd+unix:///%E2%82%AC%3F?socket=/s=1",
    unix("/s=1", "\u20ac?"),
    "nbd+unix:///%E2%82%AC%3F?socket=/s%3D1",
  ],
  ["nbd+unix://?socket=/s", unix("/s", ""), "nbd+unix:///?socket=/s"],
  [
    "nbds://Storage.example/x",
    secure(tcp("storage.example", 10809, "x"), {
      certificates_dir: null,
      hostname: "storage.example",
    }),
    "nbds://storage.example/x",
  ],
  [
    "NBDS://[::1]:7/x?tls-hostname=store&tls-certificates=/etc/a%20b",
    secure(tcp("::1", 7, "x"), { certificates_dir: "/etc/a b", hostname: "store" }),
    "nbds://[::1]:7/x?tls-certificates=/etc/a%20b&tls-hostname=store",
  ],
  [
    "nbds://al%40ice@h/?tls-psk-file=keys",
    secure(tcp("h", 10809, ""), { user: "al@ice", psk_path: "keys" }),
    "nbds://al%40ice@h/?tls-psk-file=keys",
  ],
  [
    "nbds://h/?tls-psk-file=keys&tls-username=alice",
    secure(tcp("h", 10809, ""), { user: "alice", psk_path: "keys" }),
    "nbds://alice@h/?tls-psk-file=keys",
  ],
  [
    "nbds+unix://alice@/x?tls-psk-file=/k&socket=/s",
    secure(unix("/s", "x"), { user: "alice", psk_path: "/k" }),
    "nbds+unix://alice@/x?socket=/s&tls-psk-file=/k",
  ],
  [
    "nbds+unix:///x?socket=/s&tls-hostname=store&tls-certificates=c",
    secure(unix("/s", "x"), { certificates_dir: "c", hostname: "store" }),
    "nbds+unix:///x?socket=/s&tls-certificates=c&tls-hostname=store",
  ],
];

for (const [uri, address, formatted] of GOOD) {
  Deno.test(`parseNbdUri takes ${uri}`, () => {
    assert(isNbdUri(uri));
    assertEquals(parseNbdUri(uri), address);
    assertEquals(formatNbdUri(address), formatted);
    assertEquals(parseNbdUri(formatted), address);
  });
}

const BAD: [uri: string, why: string][] = [
  ["nbds+unix:///x?socket=/s", "tls-hostname is wanted"],
  ["nbds+unix://me@/x?socket=/s", "with a user tls-psk-file is wanted"],
  ["nbds://h/x?tls-psk-file=/k", "with tls-psk-file a user is wanted"],
  ["nbds://@h/x?tls-psk-file=/k", "with tls-psk-file a user is wanted"],
  ["nbds://me@h/x?tls-psk-file=/k&tls-username=you", "a user is given twice"],
  ["nbds://me@h/x?tls-psk-file=/k&tls-certificates=/c", "one of them is wanted"],
  ["nbds://me@h/x?tls-psk-file=/k&tls-hostname=n", "one of them is wanted"],
  ["nbds://me@h/x?tls-certificates=/c", "with a user tls-psk-file is wanted"],
  ["nbds://h/x?tls-certificates=", "tls-certificates is empty"],
  ["nbds://h/x?tls-certificates=/a&tls-certificates=/b", "tls-certificates is given twice"],
  ["nbds://h/x?tls-verify-peer=false", 'unknown parameter "tls-verify-peer=false"'],
  ["nbds://h/x?socket=/s", 'unknown parameter "socket=/s"'],
  ["nbd+vsock://2/x", '"nbd+vsock" is not known'],
  ["nbd:///x", "a host is wanted"],
  ["nbd://:10809/x", "is no HOST or HOST:PORT"],
  ["nbd://h:/x", "is no HOST or HOST:PORT"],
  ["nbd://h:0/x", "port 0: 1..65535 is wanted"],
  ["nbd://h:65536/x", "port 65536: 1..65535 is wanted"],
  ["nbd://h:1x/x", "is no HOST or HOST:PORT"],
  ["nbd://::1/x", "an IPv6 address stands in brackets"],
  ["nbd://[fe80::1%25eth0]/x", "is no HOST or HOST:PORT"],
  ["nbd://h%41/x", "is no HOST or HOST:PORT"],
  ["nbd://me@h/x", "a user has a meaning with TLS only"],
  [`nbd://${"h".repeat(254)}/x`, "is no HOST or HOST:PORT"],
  ["nbd://h/x#f", '"#f" means nothing there'],
  ["nbd://h/x?", 'unknown parameter "": none is known for nbd://'],
  ["nbd://h/x?socket=/s", 'unknown parameter "socket=/s": none is known for nbd://'],
  ["nbd://h/x?tls-type=psk", "it has a meaning with TLS only"],
  ["nbd+unix:///x", "?socket=PATH is wanted"],
  ["nbd+unix:///x?socket=", "socket is empty"],
  ["nbd+unix:///x?socket", "socket is empty"],
  ["nbd+unix:///x?Socket=/s", 'unknown parameter "Socket=/s": socket is known'],
  ["nbd+unix:///x?socket=/s&x-a=1", 'unknown parameter "x-a=1"'],
  ["nbd+unix:///x?socket=/s&socket=/s", "socket is given twice"],
  ["nbd+unix://h/x?socket=/s", 'a host ("h") has no place there'],
  ["nbd+unix:///x?socket=%00abstract", "its socket holds a zero byte"],
  ["nbd+unix:///x%00?socket=/s", "its export name holds a zero byte"],
  ["nbd://h/%ff", "its export name is not UTF-8"],
  ["nbd://h/a b", "it holds what no URI may hold"],
  ["nbd://h/%4", "it holds what no URI may hold"],
  ["nbd://h/\u20ac", "it holds what no URI may hold"],
  [`nbd://h/${"x".repeat(4097)}`, "the export name has 4097 bytes, at most 4096"],
];

for (const [uri, why] of BAD) {
  Deno.test(`parseNbdUri refuses ${uri.slice(0, 60)}`, () => {
    assert(isNbdUri(uri));
    const error = assertThrows(() => parseNbdUri(uri), CacheError, why);
    assert(error.message.startsWith(`Error opening backing device: ${uri}: `), error.message);
  });
}

Deno.test("paths are not NBD URIs", () => {
  for (const path of ["/dev/sda", "nbd", "nbd:/x", "./nbd://h", "8:16", "http://h", "xnbd://h"]) {
    assert(!isNbdUri(path), path);
  }
});
