/**
 * `ls --tree`: devices and what they stand on, or the other way round.
 *
 * @module
 */

import type { InfoReply } from "../io/control_protocol.ts";
import { dependencies, type Dependency, shortPath } from "./device_fields.ts";
import { CommandLineError } from "./failure.ts";

/** Words that `-o` takes with `--tree`, as dmsetup has them, but for those that draw the tree otherwise. */
const WORDS = [
  "ascii",
  "utf",
  "inverted",
  "notrunc",
  "device",
  "nodevice",
  "blkdevname",
  "active",
  "open",
  "rw",
  "uuid",
] as const;
type Word = (typeof WORDS)[number];

/** How a tree looks. */
export type TreeForm = ReadonlySet<Word>;

const ASCII = { branch: " |-", last: " `-" };
const UTF = { branch: " ├─", last: " └─" };

/**
 * Reads the words. Lines are never cut, so `notrunc` is always so.
 *
 * @throws {CommandLineError} One of them is not known.
 */
export function parseTreeForm(text: string): TreeForm {
  const words = text.split(",").filter((word) => word !== "");
  const unknown = words.find((word) => !WORDS.some((known) => known === word));
  if (unknown !== undefined) {
    throw new CommandLineError(`Tree options not recognised: ${unknown}.`);
  }
  return new Set(words as Word[]);
}

interface Node {
  readonly label: string;
  readonly children: readonly string[];
}

/** The tree's lines. `is_utf`: the terminal's characters, unless the form says otherwise. */
export function formatTree(
  devices: readonly InfoReply[],
  form: TreeForm,
  is_utf: boolean,
): string[] {
  const signs = form.has("ascii") || !(is_utf || form.has("utf")) ? ASCII : UTF;
  const nodes = form.has("inverted") ? inverted(devices, form) : devices.map((info) => ({
    label: deviceLabel(info, form),
    children: dependencies(info).map((dep) => dependencyLabel(dep, form)),
  }));
  return nodes.flatMap(({ label, children }) => [
    label,
    ...children.map((child, at) => (at + 1 < children.length ? signs.branch : signs.last) + child),
  ]);
}

function inverted(devices: readonly InfoReply[], form: TreeForm): Node[] {
  const users = new Map<string, string[]>();
  for (const info of devices) {
    for (const dep of dependencies(info)) {
      const label = dependencyLabel(dep, form).trimStart();
      users.set(label, [...users.get(label) ?? [], deviceLabel(info, form)]);
    }
  }
  return [...users].map(([label, children]) => ({ label, children }));
}

function deviceLabel(info: InfoReply, form: TreeForm): string {
  const facts: string[] = [];
  if (form.has("active")) facts.push(info.is_suspended ? "SUSPENDED" : "ACTIVE");
  if (form.has("rw")) facts.push(info.read_only ? "RO" : "RW");
  if (form.has("open")) facts.push(`OPEN:${info.open_count}`);
  if (form.has("uuid") && info.uuid !== "") facts.push(info.uuid);
  const device = form.has("nodevice") ? "" : ` (${info.major}:${info.minor})`;
  return info.name + device + (facts.length > 0 ? ` [${facts.join(", ")}]` : "");
}

function dependencyLabel(dep: Dependency, form: TreeForm): string {
  const has_number = dep.major !== null;
  const name = form.has("blkdevname") || !has_number ? ` <${shortPath(dep.path)}>` : "";
  if (!has_number) return name;
  return name + (form.has("nodevice") ? "" : ` (${dep.major}:${dep.minor})`);
}
