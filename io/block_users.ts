/**
 * Who uses a block device, as far as the kernel shows it: mounts, devices on top of it, swap; of the whole device and of
 * its partitions. A program that just has it open does not show.
 *
 * @module
 */

/** Counts them. */
export function userCount(node: { major: number; minor: number }): number {
  const sys = `/sys/dev/block/${node.major}:${node.minor}`;
  const numbers = new Set([`${node.major}:${node.minor}`]);
  const names = new Set<string>();
  let count = namesIn(`${sys}/holders`).length;
  for (const name of namesIn(sys)) {
    const number = textOf(`${sys}/${name}/dev`).trim();
    if (number === "" || textOf(`${sys}/${name}/partition`) === "") continue;
    numbers.add(number);
    names.add(name);
    count += namesIn(`${sys}/${name}/holders`).length;
  }
  // The third field of a line is the number of the device that is mounted.
  for (const line of textOf("/proc/self/mountinfo").split("\n")) {
    if (numbers.has(line.split(" ")[2] ?? "")) count += 1;
  }
  const own_name = /^DEVNAME=(.*)$/m.exec(textOf(`${sys}/uevent`))?.[1];
  if (own_name !== undefined) names.add(own_name);
  for (const line of textOf("/proc/swaps").split("\n")) {
    if (names.has(line.split(/\s/)[0]!.replace(/^\/dev\//, ""))) count += 1;
  }
  return count;
}

function namesIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map((entry) => entry.name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** "" when there is no such file. */
function textOf(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}
