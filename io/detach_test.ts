import { assertEquals, assertStringIncludes } from "@std/assert";

Deno.test("what a process writes after it was detached goes to the log alone", async () => {
  const dir = Deno.makeTempDirSync();
  try {
    const module = new URL("./detach.ts", import.meta.url);
    const code = `import { detachStreams } from ${JSON.stringify(module.href)};
      console.log("before");
      detachStreams(${JSON.stringify(`${dir}/log`)});
      console.log("after");
      throw new Error("its last words");`;
    const ended = await new Deno.Command(Deno.execPath(), { args: ["eval", code] }).output();
    assertEquals(ended.code, 1);
    assertEquals(new TextDecoder().decode(ended.stdout), "before\n");
    assertEquals(new TextDecoder().decode(ended.stderr), "");
    assertStringIncludes(Deno.readTextFileSync(`${dir}/log`), "its last words");
    assertEquals(Deno.statSync(`${dir}/log`).mode! & 0o777, 0o600);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});
