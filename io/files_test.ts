import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { closeDevice, openDevice, openDirect } from "./files.ts";
import { libc } from "./libc.ts";
import { sparseFile, withDir, withLoop } from "./testing.ts";

Deno.test("openDevice: a file is described as it is, and nothing is written", () => {
  withDir("/var/tmp", (dir) => {
    const path = sparseFile(`${dir}/cache`, 1_000_001);
    const before = Deno.statSync(path);
    const file = openDevice("cache", path);
    assertEquals([file.role, file.path, file.kind], ["cache", path, "file"]);
    assertEquals(file.size_bytes, 1_000_001);
    const dev = before.dev;
    assertEquals(file.minor & 0xff, dev & 0xff);
    assertEquals(file.major, dev >> 8 & 0xfff);
    closeDevice(file);
    assertEquals(Deno.statSync(path).mtime, before.mtime);
    assertEquals(Deno.statSync(path).blocks, before.blocks);
  });
});

Deno.test("openDevice: what is not a device is refused, in the target's words", () => {
  withDir("/var/tmp", (dir) => {
    const refused = (path: string, why: string, role: "cache" | "backing" = "cache") =>
      assertThrows(
        () => openDevice(role, path),
        CacheError,
        `Error opening ${role} device: ${path}: ${why}`,
      );
    refused(`${dir}/missing`, "No such file or directory");
    refused(`${dir}/missing`, "No such file or directory", "backing");
    refused(dir, "Is a directory");
    refused("/dev/null", "neither a file nor a block device nor a device DAX");
    refused("/dev/null", "neither a file nor a block device nor a device DAX", "backing");
    refused(sparseFile(`${dir}/empty`, 511), "511 bytes long: at least 512 are wanted");
    const fifo = `${dir}/fifo`;
    new Deno.Command("mkfifo", { args: [fifo] }).outputSync();
    refused(fifo, "neither a file nor a block device nor a device DAX");
    Deno.symlinkSync("loop", `${dir}/loop`);
    refused(`${dir}/loop`, "Too many levels of symbolic links");
  });
});

Deno.test("openDevice: one user at a time, whatever the path", () => {
  withDir("/var/tmp", (dir) => {
    const path = sparseFile(`${dir}/device`, 4096);
    Deno.linkSync(path, `${dir}/hard`);
    Deno.symlinkSync(path, `${dir}/soft`);
    const file = openDevice("cache", path);
    for (const other of [path, `${dir}/hard`, `${dir}/soft`]) {
      assertThrows(
        () => openDevice("backing", other),
        CacheError,
        `Error opening backing device: ${other}: Device or resource busy`,
      );
      assertThrows(
        () => openDevice("backing", other, file),
        CacheError,
        `${other}: it is the cache device too: two devices are wanted`,
      );
    }
    closeDevice(file);
    closeDevice(openDevice("backing", `${dir}/hard`));
  });
});

Deno.test("openDevice: a refused open leaves no descriptor and no lock", () => {
  withDir("/var/tmp", (dir) => {
    const path = sparseFile(`${dir}/short`, 100);
    // Of this file: the runtime opens and closes others when it likes.
    const open_files = () =>
      Array.from(Deno.readDirSync("/proc/self/fd")).filter(({ name }) => targetOf(name) === path);
    assertThrows(() => openDevice("cache", path), CacheError);
    assertEquals(open_files(), []);
    Deno.truncateSync(path, 4096);
    const device = openDevice("cache", path);
    assert(open_files().length > 0);
    closeDevice(device);
    assertEquals(open_files(), []);
  });
});

/** What a descriptor of this process leads to; "": it was closed meanwhile. */
function targetOf(fd: string): string {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}

Deno.test("openDevice: block devices, their sectors and their one user", () => {
  withDir("/var/tmp", (dir) => {
    const image = sparseFile(`${dir}/image`, 1 << 20);
    for (const sector_bytes of [512, 4096]) {
      withLoop(image, sector_bytes, (device) => {
        const file = openDevice("cache", device);
        assertEquals([file.kind, file.size_bytes, file.major], ["block", 1 << 20, 7]);
        assertEquals(`/dev/loop${file.minor}`, device);
        assertEquals(file.direct_unit_bytes, sector_bytes);
        assertThrows(
          () => openDevice("backing", device),
          CacheError,
          `${device}: Device or resource busy`,
        );
        const direct_fd = openDirect(file);
        assert(direct_fd >= 0);
        libc.close(direct_fd);
        closeDevice(file);
      });
    }
  });
});
