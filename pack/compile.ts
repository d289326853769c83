/**
 * `deno task compile`: makes `dist/pcache` (or `--output FILE`), one executable that needs neither Deno nor this folder.
 *
 * `deno compile` makes it where it finds its base binary, in `$DENORT_BIN` or over the network. Otherwise, and with
 * `--carry`, the file carries the Deno that runs this (carry.ts).
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import config from "../deno.json" with { type: "json" };
import { V8_FLAGS } from "../io/runtime.ts";
import { carry } from "./carry.ts";
import { ElfError } from "./elf.ts";

const ROOT = new URL("..", import.meta.url).pathname;
const MIB = 2 ** 20;

/** What is to be done could not be; the message says why. */
class CompileError extends Error {
  override readonly name = "CompileError";
}

function deno(...args: string[]): { success: boolean; stdout: string; stderr: string } {
  const { success, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).outputSync();
  const decoder = new TextDecoder();
  return { success, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Lets `deno compile` make the file. Returns why it could not, or null. */
function denoCompile(path: string): string | null {
  const flags = ["--allow-all", "--no-prompt", "--no-check", "--quiet", V8_FLAGS, "--output", path];
  const { success, stderr } = deno("compile", ...flags, "cli/main.ts");
  if (success) return null;
  const [text] = stderr.split("Stack backtrace:");
  const causes = text!.split("\n").map((line) => line.replace(/^\s*(?:\d+:|error:)?\s*/, ""));
  const [what, ...why] = causes.filter((line) => line !== "" && line !== "Caused by:");
  return why.find((line) => /^error sending request/.test(line)) ?? why.at(-1) ?? what ??
    "no reason";
}

/** A module and all that it imports, as a script in strict mode. */
function script(entry: string, name: string): string {
  const { success, stdout, stderr } = deno("bundle", "--quiet", "--format", "iife", entry);
  if (!success) throw new CompileError(`deno bundle ${entry} failed:\n${stderr}`);
  return `"use strict";\n${stdout}\n//# sourceURL=${name}\n`;
}

/** Writes the file that carries the runtime. */
function writeCarried(path: string): void {
  const sources = {
    commands: script("pack/commands.ts", "pcache-commands.js"),
    device: script("pack/device.ts", "pcache-device.js"),
  };
  const runtime = Deno.execPath();
  try {
    const parts = carry(Deno.readFileSync(runtime), sources);
    {
      using file = Deno.openSync(path, { write: true, createNew: true });
      for (const part of parts) {
        for (let at = 0; at < part.length;) at += file.writeSync(part.subarray(at));
      }
    }
    Deno.chmodSync(path, 0o755);
  } catch (error) {
    if (!(error instanceof ElfError)) throw error;
    throw new CompileError(`${runtime} cannot carry a program: ${error.message}; set DENORT_BIN`);
  }
}

/** Runs the new file from another directory, without an environment. */
function checkRuns(path: string): void {
  const { success, stdout, stderr } = new Deno.Command(path, {
    args: ["version"],
    cwd: "/",
    clearEnv: true,
    stdin: "null",
  }).outputSync();
  const decoder = new TextDecoder();
  if (success && decoder.decode(stdout).includes(config.version)) return;
  throw new CompileError(`the new file does not run: ${decoder.decode(stderr)}`);
}

/** Makes the file under another name, so that one that is in use, or that runs, stays whole. */
function make(target: string, is_carried: boolean): void {
  const folder = Deno.makeTempDirSync({ dir: dirname(target), prefix: ".compile-" });
  const path = `${folder}/pcache`;
  try {
    const problem = is_carried ? "--carry" : denoCompile(path);
    if (problem !== null) {
      const base = Deno.env.get("DENORT_BIN");
      if (base && !is_carried) throw new CompileError(`DENORT_BIN ${base}: ${problem}`);
      console.log(`deno compile is not used: ${problem}`);
      writeCarried(path);
    }
    checkRuns(path);
    Deno.renameSync(path, target);
    const form = problem === null ? "made by deno compile" : `carries Deno ${Deno.version.deno}`;
    console.log(`${target}: ${(Deno.statSync(target).size / MIB).toFixed(1)} MiB, ${form}`);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

function dirname(path: string): string {
  return path.includes("/") ? path.replace(/[^/]*$/, "") : ".";
}

function main(): void {
  const { carry: is_carried, output } = parseArgs(Deno.args, {
    boolean: ["carry"],
    string: ["output"],
    default: { output: `${ROOT}dist/pcache` },
    unknown: (arg: string) => {
      throw new CompileError(
        `Unknown argument: ${arg}\nUsage: deno task compile [--carry] [--output FILE]`,
      );
    },
  });
  Deno.mkdirSync(`${ROOT}dist`, { recursive: true });
  make(output, is_carried);
}

try {
  main();
} catch (error) {
  if (!(error instanceof CompileError)) throw error;
  console.error(error.message);
  Deno.exit(1);
}
