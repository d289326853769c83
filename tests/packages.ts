/**
 * Installs the Debian packages that tests and benches need, where they are missing.
 *
 * @module
 */

/** Names of the packages in a list: one a line, `#` begins a comment. */
export function packageNames(list: string): string[] {
  return list.split("\n").map((line) => line.replace(/#.*/, "").trim()).filter((name) =>
    name !== ""
  );
}

function isInstalled(name: string): boolean {
  const { code, stdout } = new Deno.Command("dpkg-query", {
    args: ["-W", "-f", "${Status}", name],
    stderr: "null",
  }).outputSync();
  return code === 0 && new TextDecoder().decode(stdout) === "install ok installed";
}

function apt(...args: string[]): boolean {
  console.log(`apt-get ${args.join(" ")}`);
  return new Deno.Command("apt-get", {
    args: ["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=5", ...args],
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
  }).outputSync().success;
}

/** Installs what is missing of the packages listed in the file; says what cannot be had, and returns false. */
export function installPackages(list: URL): boolean {
  const missing = packageNames(Deno.readTextFileSync(list)).filter((name) => !isInstalled(name));
  if (missing.length === 0) return true;
  if (Deno.uid() !== 0) {
    console.error(
      `missing Debian packages: ${missing.join(" ")}; run as root to have them installed`,
    );
    return false;
  }
  apt("update");
  if (apt("install", "-y", "--no-install-recommends", ...missing)) return true;
  console.error(`could not install: ${missing.join(" ")}`);
  return false;
}
