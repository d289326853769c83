/**
 * What a part of the program allocates on the JavaScript heap, by V8's sampling profiler: it says who asked for the bytes, so the
 * measuring code's own do not count.
 *
 * @module
 */

import { Session } from "node:inspector";

/** One sample in so many bytes, on average: V8 scales the sums up. */
const INTERVAL_BYTES = 4096;
/** What is not compiled by then never will be. */
const COMPILED_MS = 60_000;

interface Node {
  readonly callFrame: { readonly url: string; readonly functionName: string };
  readonly selfSize: number;
  readonly children?: readonly Node[];
}

/** Bytes by function, `name (file)`. */
function collect(node: Node, part: string, into: Map<string, number>): Map<string, number> {
  const { url, functionName } = node.callFrame;
  if (node.selfSize > 0 && url.includes(part)) {
    const name = `${functionName} (${url.slice(url.lastIndexOf("/") + 1)})`;
    into.set(name, (into.get(name) ?? 0) + node.selfSize);
  }
  for (const child of node.children ?? []) collect(child, part, into);
  return into;
}

/** Bytes allocated while `act` runs, collected since or not, by each function whose module's URL holds `part`. */
export async function allocatedIn(part: string, act: () => void): Promise<Map<string, number>> {
  const session = new Session();
  session.connect();
  const post = (method: string, params: object = {}) =>
    new Promise<unknown>((resolve, reject) =>
      session.post(method, params, (error, reply) => error ? reject(error) : resolve(reply))
    );
  await post("HeapProfiler.enable");
  await post("HeapProfiler.startSampling", {
    samplingInterval: INTERVAL_BYTES,
    includeObjectsCollectedByMajorGC: true,
    includeObjectsCollectedByMinorGC: true,
  });
  act();
  const { profile } = await post("HeapProfiler.stopSampling") as { profile: { head: Node } };
  session.disconnect();
  return collect(profile.head, part, new Map());
}

/**
 * As `allocatedIn`, once what allocates most does not reach `limit_bytes`: V8 compiles beside the program, when it gets a processor for
 * that, and numbers are objects before. What allocates after that, too, is returned in the end.
 */
export async function allocatedWhenCompiled(
  part: string,
  limit_bytes: number,
  act: () => void,
): Promise<Map<string, number>> {
  const end_ms = Date.now() + COMPILED_MS;
  for (;;) {
    const found = await allocatedIn(part, act);
    if (Math.max(0, ...found.values()) < limit_bytes || Date.now() > end_ms) return found;
  }
}
