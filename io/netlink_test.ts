import { assertEquals } from "@std/assert";
import { Netlink } from "./netlink.ts";
import { CONTROL_FAMILY, CONTROL_FAMILY_NAME, text } from "./netlink_messages.ts";

Deno.test("netlink: the kernel knows its families, and says what it does not know", () => {
  using netlink = new Netlink();
  assertEquals(netlink.family("nlctrl"), CONTROL_FAMILY);
  assertEquals(netlink.family("no_such_family"), null);
  assertEquals(netlink.family("nlctrl"), CONTROL_FAMILY, "one failure does not concern the next");
});

Deno.test("netlink: a command that there is not ends in an error", () => {
  using netlink = new Netlink();
  const { errno, replies } = netlink.call(CONTROL_FAMILY, 99, [[CONTROL_FAMILY_NAME, text("x")]]);
  assertEquals([errno, replies], [95, []]); // EOPNOTSUPP
});
