/** What only io_uring can do; what every ring does is in ring_test.ts. */

import { assert, assertEquals } from "@std/assert";
import { Arena } from "./arena.ts";
import { cString, libc, O_CLOEXEC, O_RDWR } from "./libc.ts";
import { UringRing } from "./uring.ts";

/** The kernel's threads that do this thread's requests; they stay for a while after one. */
function helpers(): number {
  const tid = Deno.readLinkSync("/proc/thread-self").split("/").at(-1)!;
  const tasks = [...Deno.readDirSync("/proc/self/task")].map(({ name }) => {
    try {
      return Deno.readTextFileSync(`/proc/self/task/${name}/comm`).trim();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return ""; // it has ended meanwhile
      throw error;
    }
  });
  return tasks.filter((comm) => comm === `iou-wrk-${tid}`).length;
}

Deno.test("io_uring ring: a write aside is done by a thread of the kernel's, another at once", () => {
  const arena = new Arena({ cache_bytes: 0, buffer_bytes: 1 << 20, io_bytes: 1 << 20 });
  const ring = UringRing.open(arena, 8);
  if (typeof ring === "number") throw new Error(`io_uring is refused here: errno ${ring}`);
  // What never keeps a writer waiting: a thread does not come by itself.
  const fd = libc.open(cString("/dev/null"), O_RDWR | O_CLOEXEC, 0);
  try {
    const iovec_addr = arena.alloc(16), iovecs = arena.words(iovec_addr, 16);
    iovecs[2] = 512;
    const write = (is_aside: boolean) => {
      ring.writev(1, fd, iovec_addr, 1, 0, is_aside);
      ring.wait(10_000);
      assert(ring.next());
      assertEquals([ring.user, ring.result], [1, 512]);
    };
    write(false);
    assertEquals(helpers(), 0);
    write(true);
    assertEquals(helpers(), 1);
  } finally {
    ring.close();
    libc.close(fd);
    arena.close();
  }
});
