import { assert, assertEquals } from "@std/assert";
import { VERBS } from "../cli/verbs.ts";
import { CACHE_MODES } from "../core/cache_mode.ts";
import { bashCompletion, fishCompletion, zshCompletion } from "./completion.ts";

const NAMES = VERBS.flatMap(({ name, alias }) => alias === undefined ? [name] : [name, alias]);

/** Command lines up to the cursor, and what has to be offered: all of it, or `...` and more. */
const CASES: [line: string, offered: string[]][] = [
  ["pcache ", NAMES],
  ["pcache tar", ["target-version", "targets"]],
  ["pcache -v remo", ["remove", "remove_all"]],
  ["pcache --v", ["--verbose", "--version"]],
  ["pcache remove --fl", ["--flush"]],
  ["pcache remove_all --ret", []],
  ["pcache remove ", ["vol", "vol2"]],
  ["pcache remove --retry vol vol", ["vol", "vol2"]],
  ["pcache status --target p", ["pcache"]],
  ["pcache status --target=p", ["pcache"]],
  ["pcache status --target pcache v", ["vol", "vol2"]],
  ["pcache message ", ["vol", "vol2"]],
  ["pcache message vol ", []],
  ["pcache message vol 0 s", ["scrub", "sequential_cutoff"]],
  ["pcache create ", []],
  ["pcache create vol -u x ta", ["table one", "table two"]],
  ["pcache check ta", ["table one", "table two"]],
  ["pcache writeback /a ta", ["table one", "table two"]],
  ["pcache target-version ", ["pcache"]],
  ["pcache deps -o blk", ["blkdevname"]],
  ["pcache info -c -o maj", ["major"]],
  ["pcache info -c -o name,maj", ["major"]],
  ["pcache info -c --sort=name,maj", ["major"]],
  ['pcache create vol --table "pc', ["pcache"]],
  ['pcache create vol --table "pcache tab', ["table one", "table two"]],
  ['pcache create vol --table "pcache /a ', ["cache/", "table one", "table two"]],
  ['pcache create vol --table "pcache /a /b ', ["cache_mode", "data_crc", "eviction"]],
  ['pcache create vol --table "0 8 pcache /a /b da', ["data_crc"]],
  ['pcache create vol --table "pcache /a /b data_crc ', ["false", "true"]],
  ['pcache create vol --table "pcache /a /b 4 cache_mode ', [...CACHE_MODES]],
];

interface Place {
  readonly dir: string;
  readonly script: string;
  readonly env: Record<string, string>;
}

/** A folder with a script, files to complete, and a pcache that lists two devices. */
async function inFolder(script: string, use: (place: Place) => Promise<void>): Promise<void> {
  const dir = Deno.makeTempDirSync({ prefix: "completion-" });
  try {
    const bin = `${dir}/bin`;
    const work = `${dir}/work`;
    for (const folder of [bin, work, `${work}/cache`]) Deno.mkdirSync(folder);
    const list = '#!/bin/sh\n[ "$*" = ls ] && printf "vol\\t(0:0)\\nvol2\\t(0:1)\\n"\n';
    Deno.writeTextFileSync(`${bin}/pcache`, list, { mode: 0o755 });
    for (const name of ["table one", "table two"]) Deno.writeTextFileSync(`${work}/${name}`, "");
    Deno.writeTextFileSync(`${dir}/_pcache`, script);
    const env = { PATH: `${bin}:/usr/bin:/bin`, HOME: dir, TERM: "dumb", LC_ALL: "C.UTF-8" };
    await use({ dir: work, script: `${dir}/_pcache`, env });
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

async function shell({ dir, env }: Place, program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args,
    cwd: dir,
    env,
    clearEnv: true,
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  assertEquals(decoder.decode(stderr), "");
  assertEquals(code, 0);
  return decoder.decode(stdout);
}

/** The last word of what was offered, as it would stand in the line: what is before it is known. */
function assertOffered(text: string, line: string, wanted: string[], kept = ""): void {
  const offered = text.split("\n").filter((word) => word !== "").map((word) =>
    word.startsWith(kept) ? word.slice(kept.length) : word
  );
  assertEquals([...new Set(offered)].sort(), [...wanted].sort(), line);
}

/** What a shell replaces is the whole word, and a table is one; what is offered then begins with this. */
function keptPart(line: string): string {
  const table = /"(.*[ ])[^ ]*$/.exec(line)?.[1];
  return table ?? /[ =]([^ =]*,)[^, =]*$/.exec(line)?.[1] ?? "";
}

Deno.test("bash completes verbs, options, devices and tables", async () => {
  await inFolder(bashCompletion(), async (place) => {
    // Bash parts words at blanks that are not quoted, and at each = and :.
    const driver = `
      source "$1"; COMP_LINE=$2; COMP_POINT=\${#2}; shift 2; COMP_WORDS=("$@")
      COMP_CWORD=$(($# - 1)); last=\${COMP_WORDS[-1]}
      [[ $last == "=" ]] && last=""
      _pcache pcache "\${last#\\"}" ""
      printf '%s\\n' "\${COMPREPLY[@]}"`;
    for (const [line, wanted] of CASES) {
      const words: string[] = line.match(/"[^"]*$|=|[^\s="]+/g) ?? [];
      if (line.endsWith(" ") && !line.includes('"')) words.push("");
      const text = await shell(place, "bash", "-c", driver, "bash", place.script, line, ...words);
      assertOffered(text, line, wanted.map((word) => word.replace(/\/$/, "")), keptPart(line));
    }
  });
});

Deno.test("bash completes device names with colons, of which it replaces the last part", async () => {
  await inFolder(bashCompletion(), async (place) => {
    const driver = `source "$1"; COMP_LINE="pcache remove vol:a"; COMP_POINT=\${#COMP_LINE}
      ls_output=$'vol:ab\\t(0:0)'; other() { printf '%s\\n' "$ls_output"; }
      COMP_WORDS=(other remove vol : a); COMP_LINE="other remove vol:a"; COMP_CWORD=4
      _pcache other a :; printf '%s\\n' "\${COMPREPLY[@]}"`;
    assertEquals(await shell(place, "bash", "-c", driver, "bash", place.script), "ab\n");
  });
});

Deno.test("fish completes verbs, options, devices and tables", async () => {
  await inFolder(fishCompletion(), async (place) => {
    for (const [line, wanted] of CASES) {
      const command = "source $argv[1]; complete -C $argv[2]";
      const text = await shell(place, "fish", "-N", "-c", command, place.script, line);
      const words = text.replaceAll(/\t.*$/gm, "").replaceAll(/^--[a-z]+=/gm, "");
      assertOffered(words, line, wanted, keptPart(line));
    }
  });
});

/** What the shell under test is told: it writes down what is added to the offers, and when a line is finished. */
const ZSH_SETUP = `PS1= PROMPT_EOL_MARK= LISTMAX=10000
fpath=($HOME $fpath)
autoload -U compinit
compinit -u -D
compadd() {
  if [[ -z \${(M)@:#-[OAD]} ]]; then
    local -a hits
    builtin compadd -O hits "$@"
    print -rl -- $hits >>$HOME/hits
  fi
  builtin compadd "$@"
}
finish-line() { touch $HOME/finished }
zle -N finish-line
bindkey '^T' finish-line
bindkey '^U' kill-whole-line
touch $HOME/ready
`;

Deno.test("zsh completes verbs, options, devices and tables", async () => {
  await inFolder(zshCompletion(), async (place) => {
    // A shell of its own in a pseudo-terminal, where the key for completion is pressed; compadd tells what it adds.
    const driver = `
      zmodload zsh/zpty
      zpty shell zsh -f -i
      drain() { while zpty -r -t shell output; do :; done }
      wait_for() { while [[ ! -e $HOME/$1 ]]; do drain; sleep 0.01; done }
      zpty -w shell "source $HOME/setup"
      wait_for ready
      for line in "\${@[2,-1]}"; do
        rm -f $HOME/hits $HOME/finished
        touch $HOME/hits
        zpty -w -n shell "$line"$'\t\x14\x15'
        wait_for finished
        cat $HOME/hits
        print -r -- "== end"
      done
      zpty -d shell`;
    Deno.writeTextFileSync(`${place.env.HOME}/setup`, ZSH_SETUP);
    const lines = CASES.map(([line]) => line);
    const text = await shell(place, "zsh", "-f", "-c", driver, "zsh", place.script, ...lines);
    const answers = text.split("== end\n");
    assertEquals(answers.length, CASES.length + 1);
    for (const [i, [line, wanted]] of CASES.entries()) {
      const words = wanted.map((word) => word.replace(/\/$/, ""));
      assertOffered(answers[i]!.replaceAll(/\\(.)/g, "$1"), line, words);
    }
  });
});

Deno.test("every option of every verb is in the scripts", () => {
  for (const script of [bashCompletion(), zshCompletion(), fishCompletion()]) {
    for (const { options } of VERBS) {
      for (const name of options) {
        assert(script.includes(`--${name}`) || script.includes(`-l ${name}`), name);
      }
    }
  }
});
