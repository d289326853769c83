import { assertEquals } from "@std/assert";
import * as ublk from "./protocol.ts";
import { whyUnusable } from "./target.ts";

Deno.test("a driver without what is needed is not used, and what it lacks is said", () => {
  const all = ublk.F_CMD_IOCTL_ENCODE | ublk.F_USER_COPY | ublk.F_USER_RECOVERY |
    ublk.F_USER_RECOVERY_REISSUE;
  assertEquals(whyUnusable({ features: all }), "");
  assertEquals(whyUnusable({ features: ~0 }), "");
  assertEquals(
    whyUnusable({ features: all & ~ublk.F_USER_COPY }),
    "the kernel's ublk driver lacks USER_COPY, Linux 6.5",
  );
  assertEquals(
    whyUnusable({ features: 0 }), // what kernels say that do not know the question
    "the kernel's ublk driver lacks ioctl-encoded commands, Linux 6.4; USER_COPY, Linux 6.5; " +
      "USER_RECOVERY, Linux 6.1; USER_RECOVERY_REISSUE, Linux 6.1",
  );
});
