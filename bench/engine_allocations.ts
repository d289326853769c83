/**
 * What a request in steady state allocates in the engine, on the JavaScript heap: a part of `deno task bench:core`, which runs it once
 * for a cache with data_crc and once for one without: `true` or `false` is its argument.
 *
 * @module
 */

import { allocatedWhenCompiled } from "./allocations.ts";
import { Dice } from "./dice.ts";
import { BLOCK_BYTES, EngineRig, LOGGED_BYTES } from "./engine_rig.ts";

const EXTENTS = 1_000_000;
const OPS = 400_000;
/** What is compiled allocates less than this for an operation: V8 puts a sample's whole interval on one function now and then. */
const COMPILED_BYTES = 0.03;
/** Where the modules lie whose allocations count. */
const CORE = new URL("../core/", import.meta.url).href;

const data_crc = Deno.args[0] === "true";
if (!data_crc && Deno.args[0] !== "false") {
  console.error(`engine_allocations: ${Deno.args[0]}: data_crc, true or false, is wanted`);
  Deno.exit(1);
}
const dice = new Dice();
const rig = new EngineRig(EXTENTS, data_crc);
rig.populate(EXTENTS);
const offset = () => rig.blocks.at(dice.below(EXTENTS)) * BLOCK_BYTES;
const read = () => rig.read(offset(), BLOCK_BYTES);
const write = () => rig.write(offset(), BLOCK_BYTES);
const kinds: [string, () => void][] = [
  ["hit", read],
  ["overwrite", write],
  ["70/30", () => dice.below(10) < 7 ? read() : write()],
];
for (const [name, act] of kinds) {
  const found = await allocatedWhenCompiled(CORE, OPS * COMPILED_BYTES, () => {
    rig.memory.reserve(OPS * LOGGED_BYTES);
    for (let n = 0; n < OPS; n++) act();
  });
  const [most] = [...found].sort(([, a], [, b]) => b - a);
  const sum = found.values().reduce((sum, bytes) => sum + bytes, 0);
  const each = (sum / OPS).toFixed(2);
  const where = sum > 0 ? `most of it in ${most![0]}` : "";
  console.log(`${name.padEnd(10)} data_crc ${String(data_crc).padEnd(5)} ${each} ${where}`);
}
