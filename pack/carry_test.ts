import { assertEquals } from "@std/assert";
import { carry } from "./carry.ts";

/** Says what reaches a program that is carried. */
const SHOW = `console.log(JSON.stringify({
  half: HALF,
  args: Deno.args,
  env: Deno.env.toObject(),
  cwd: Deno.cwd(),
  own: Deno.execPath(),
  strict: (function () { return this === undefined; })(),
}));`;

/** A folder with a carried program in it. */
function makeProgram(): { dir: string; path: string } {
  const dir = Deno.makeTempDirSync({ prefix: "carry " });
  const path = `${dir}/the program`;
  const parts = carry(Deno.readFileSync(Deno.execPath()), {
    commands: SHOW.replace("HALF", '"commands \u00e9 \u6f22"'),
    device: `"use strict"; ${SHOW.replace("HALF", '"device"')}`,
  });
  for (const part of parts) Deno.writeFileSync(path, part, { append: true });
  Deno.chmodSync(path, 0o755);
  return { dir, path };
}

async function show(path: string, args: string[], env: Record<string, string>, cwd = "/") {
  const { stdout, stderr } = await new Deno.Command(path, { args, env, cwd, clearEnv: true })
    .output();
  assertEquals(new TextDecoder().decode(stderr), "");
  return JSON.parse(new TextDecoder().decode(stdout));
}

Deno.test("a carried program gets its arguments, and its environment, and the runtime does not", async () => {
  const { dir, path } = makeProgram();
  try {
    const args = ["", "a b", "--allow-net", "-h", "--", "\u00e9\u6f22\n", "x".repeat(100_000)];
    const env = {
      A: "",
      DENO_V8_FLAGS: "--x",
      NODE_OPTIONS: "--require=x\n",
      NODE_: "",
      DENOTE: "1",
      D: "2",
      NODES: "3",
    };
    const shown = await show(path, args, env);
    assertEquals(shown.args, args);
    assertEquals(shown.env, env);
    assertEquals(shown.own, path);
    assertEquals([shown.half, shown.strict], ["commands \u00e9 \u6f22", false]);
    const device = await show(path, ["device-process"], {});
    assertEquals([device.half, device.strict], ["device", true]);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("a carried program reads no configuration where it runs, and needs no folder to be in", async () => {
  const { dir, path } = makeProgram();
  try {
    for (const name of ["deno.json", "deno.jsonc", "package.json", ".npmrc", "import_map.json"]) {
      Deno.writeTextFileSync(`${dir}/${name}`, "{ not what it should be ${");
    }
    const before = [...Deno.readDirSync(dir)].length;
    assertEquals((await show(path, ["x"], { HOME: dir }, dir)).cwd, dir);
    assertEquals([...Deno.readDirSync(dir)].length, before);

    const script = 'mkdir "$0.gone" && cd "$0.gone" && rmdir "$0.gone" && exec "$0" "$@"';
    const { stdout, stderr } = await new Deno.Command("sh", { args: ["-c", script, path, "x"] })
      .output();
    assertEquals(new TextDecoder().decode(stderr), "");
    const shown = JSON.parse(new TextDecoder().decode(stdout));
    assertEquals([shown.cwd, shown.args], ["/", ["x"]]);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("a carried program that may not read its own file says so", async () => {
  const { dir, path } = makeProgram();
  try {
    Deno.truncateSync(path, Deno.statSync(path).size - 1);
    const { code, stderr } = await new Deno.Command(path, { args: ["device-process"] }).output();
    assertEquals(code, 1);
    const message = "pcache: cannot read its own file: it ends too early\n";
    assertEquals(new TextDecoder().decode(stderr), message);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});
