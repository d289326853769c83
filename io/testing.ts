/**
 * What the tests of `io/` share: temporary files, loop devices, a file system on one; all gone when the body ends.
 *
 * @module
 */

/** Runs a program; returns what it printed. Throws with its words when it fails. */
export function run(program: string, ...args: string[]): string {
  const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${decode(stderr)}`);
  return decode(stdout);
}

/** Runs `body` with a new directory under `parent`. */
export function withDir(parent: string, body: (dir: string) => void): void {
  const dir = Deno.makeTempDirSync({ dir: parent, prefix: "pcache-test-" });
  try {
    body(dir);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

/** Makes a sparse file of this size; returns its path. */
export function sparseFile(path: string, size_bytes: number): string {
  Deno.writeFileSync(path, new Uint8Array(0));
  Deno.truncateSync(path, size_bytes);
  return path;
}

/** Runs `body` with a loop device over the file, of sectors of `sector_bytes`. */
export function withLoop(file: string, sector_bytes: number, body: (device: string) => void): void {
  const device = run("losetup", "--find", "--show", "--sector-size", String(sector_bytes), file);
  try {
    body(device);
  } finally {
    run("losetup", "--detach", device);
  }
}

/** Runs `body` with a directory in which a new file system of this type is mounted, 64 MiB large. */
export function withFileSystem(type: string, body: (dir: string) => void): void {
  withDir("/var/tmp", (dir) => {
    const image = sparseFile(`${dir}/image`, 64 << 20);
    const mounted = `${dir}/mounted`;
    Deno.mkdirSync(mounted);
    run(`mkfs.${type}`, "-q", image);
    run("mount", "-o", "loop", "-t", type, image, mounted);
    try {
      body(mounted);
    } finally {
      run("umount", mounted);
    }
  });
}

/** Runs `body` with a directory in which a tmpfs of this size is mounted. */
export function withTmpfs(size_bytes: number, body: (dir: string) => void): void {
  withDir("/var/tmp", (dir) => {
    run("mount", "-t", "tmpfs", "-o", `size=${size_bytes}`, "none", dir);
    try {
      body(dir);
    } finally {
      run("umount", dir);
    }
  });
}

/** Bytes that differ from place to place and from seed to seed. */
export function pattern(len_bytes: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(len_bytes);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < len_bytes; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
