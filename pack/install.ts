/**
 * `deno task install` and `deno task uninstall`: `dist/pcache`, its manual, its completions and its unit under a
 * prefix. `$DESTDIR` is put before it, for packages.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { bashCompletion, fishCompletion, zshCompletion } from "./completion.ts";
import { commandPage, tablePage } from "./manual.ts";

const PROGRAM = new URL("../dist/pcache", import.meta.url).pathname;
const UNIT = new URL("pcache@.service", import.meta.url);
const SOCKET_UNIT = new URL("pcache@.socket", import.meta.url);
const USAGE = `Usage: deno task install [--prefix /usr/local] [--program dist/pcache]
       deno task uninstall [--prefix /usr/local]
The environment variable DESTDIR is put before the prefix.`;

/** Something went wrong that the user can put right. */
class InstallError extends Error {
  override readonly name = "InstallError";
}

interface InstalledFile {
  /** Under the prefix. */
  readonly path: string;
  readonly mode: number;
  readonly content: () => string | Uint8Array;
}

/** Everything that is installed. */
function files(prefix: string, program: string): InstalledFile[] {
  const text = (path: string, content: () => string) => ({ path, mode: 0o644, content });
  return [
    { path: "bin/pcache", mode: 0o755, content: () => readProgram(program) },
    text("share/man/man8/pcache.8", commandPage),
    text("share/man/man5/pcache.5", tablePage),
    text("share/bash-completion/completions/pcache", bashCompletion),
    text("share/zsh/site-functions/_pcache", zshCompletion),
    text("share/fish/vendor_completions.d/pcache.fish", fishCompletion),
    text("lib/systemd/system/pcache@.service", () => unit(prefix)),
    text("lib/systemd/system/pcache@.socket", () => Deno.readTextFileSync(SOCKET_UNIT)),
  ];
}

function readProgram(path: string): Uint8Array {
  try {
    return Deno.readFileSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new InstallError(`${path} is not there: run "deno task compile" first`);
  }
}

/** The unit names the program by its path; systemd wants `%` doubled and has no other way to write a blank. */
function unit(prefix: string): string {
  const bindir = `${prefix}/bin`.replaceAll("%", "%%").replaceAll(" ", "\\x20");
  return Deno.readTextFileSync(UNIT).replaceAll("@bindir@", bindir);
}

/** Writes each file under another name first: one that is in use stays whole. */
function install(dest: string, prefix: string, files: readonly InstalledFile[]): void {
  for (const { path, mode, content } of files) {
    const target = `${dest}${prefix}/${path}`;
    const bytes = content();
    Deno.mkdirSync(target.replace(/[^/]*$/, ""), { recursive: true });
    const data = typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes;
    Deno.writeFileSync(`${target}.new`, data);
    Deno.chmodSync(`${target}.new`, mode);
    Deno.renameSync(`${target}.new`, target);
    console.log(target);
  }
}

/** Removes the files; the folders may be others', too. */
function uninstall(dest: string, prefix: string, files: readonly InstalledFile[]): void {
  for (const { path } of files) {
    const target = `${dest}${prefix}/${path}`;
    try {
      Deno.removeSync(target);
      console.log(target);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

function main(): void {
  const { prefix: given, program, _: [action, ...rest] } = parseArgs(Deno.args, {
    string: ["prefix", "program", "_"],
    default: { prefix: "/usr/local", program: PROGRAM },
    unknown: (arg: string, key?: string) => {
      if (key === undefined) return true;
      throw new InstallError(`Unknown argument: ${arg}\n${USAGE}`);
    },
  });
  if (rest.length > 0) throw new InstallError(`Unknown argument: ${rest[0]}\n${USAGE}`);
  if (!given.startsWith("/")) {
    throw new InstallError(`--prefix "${given}": wanted a path that begins with "/"\n${USAGE}`);
  }
  const dest = Deno.env.get("DESTDIR") ?? "";
  const prefix = given.replace(/\/+$/, "");
  const act = action === "install" ? install : uninstall;
  act(dest, prefix, files(prefix, program));
}

try {
  main();
} catch (error) {
  const is_expected = error instanceof InstallError ||
    error instanceof Deno.errors.PermissionDenied;
  if (!is_expected) throw error;
  console.error((error as Error).message);
  Deno.exit(1);
}
