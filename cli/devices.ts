/**
 * Finding devices and asking their processes. A device whose process was killed is not there.
 *
 * @module
 */

import { callControl } from "../io/control_client.ts";
import type { ControlRequest, InfoReply, ReplyOf } from "../io/control_protocol.ts";
import { checkName, controlPath, isPublished, publishedNames, runRoot } from "../io/run_dir.ts";
import { failedOn } from "./failure.ts";
import type { Options } from "./options.ts";
import { print, warn } from "./output.ts";
import { CacheError } from "../core/errors.ts";

/** What one device answered. */
export interface Answer<R extends ControlRequest> {
  readonly name: string;
  readonly reply: ReplyOf[R["verb"]];
}

/** What all devices that were asked answered. */
export interface Answers<R extends ControlRequest> {
  readonly answers: Answer<R>[];
  /** False when a device that was named did not answer; the reason has been printed. */
  readonly is_ok: boolean;
}

/**
 * Sends a request to a device's process.
 *
 * @param verb The word that the user typed, for messages.
 * @throws {CacheError} There is no such device, or it refused, in dmsetup's words.
 */
export async function ask<R extends ControlRequest>(
  verb: string,
  name: string,
  request: R,
): Promise<ReplyOf[R["verb"]]> {
  checkName(name);
  const reply = await tryAsk(name, request);
  if (reply === null) throw noDevice(verb, name);
  if (!reply.ok) throw failedOn(verb, name, reply.error);
  return reply;
}

/** There is no device of that name: `info` and `status` say it in words of their own. */
export function noDevice(verb: string, name: string): CacheError {
  if (verb === "info" || verb === "status") return new CacheError("Device does not exist.");
  return failedOn(verb, name, "No such device or address");
}

/**
 * Sends a request to each device named, or to all of them; says which ones did not answer, and why. Without
 * any device the user is told.
 */
export async function askAll<R extends ControlRequest>(
  verb: string,
  names: string[],
  request: R,
): Promise<Answers<R>> {
  if (names.length === 0) return { answers: await askLiving(request), is_ok: true };
  const answers: Answer<R>[] = [];
  let is_ok = true;
  for (const name of names) {
    try {
      answers.push({ name, reply: await ask(verb, name, request) });
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      warn(error.message);
      is_ok = false;
    }
  }
  return { answers, is_ok };
}

/** Everything that is known about the living devices, by name. */
export async function livingDevices(): Promise<InfoReply[]> {
  return (await askLiving({ verb: "info" })).map((answer) => answer.reply);
}

/**
 * The name of the device that `-u`, or `-j` and `-m`, stand for.
 *
 * @throws {CacheError} There is none.
 */
export async function findDevice(verb: string, options: Options): Promise<string> {
  const { uuid, major, minor } = options;
  const found = (await livingDevices()).find((info) =>
    uuid !== undefined ? info.uuid === uuid : `${info.major} ${info.minor}` === `${major} ${minor}`
  );
  if (found === undefined) throw noDevice(verb, uuid ?? `${major}:${minor}`);
  return found.name;
}

/** What is put before a device's line: its name, when several devices are printed. */
export function linePrefix(name: string, names: string[], answer_count: number): string {
  return names.length > 1 || answer_count > 1 ? `${name}: ` : "";
}

/** Says that there is nothing to list, as dmsetup does: on the standard output, and it is no failure. */
export function printNoDevices(): void {
  print("No devices found");
}

async function askLiving<R extends ControlRequest>(request: R): Promise<Answer<R>[]> {
  const answers: Answer<R>[] = [];
  for (const name of publishedNames(runRoot())) {
    const reply = await tryAsk(name, request);
    if (reply !== null && reply.ok) answers.push({ name, reply });
  }
  return answers;
}

/** The device's reply, or null when no process answers under that name. */
async function tryAsk<R extends ControlRequest>(name: string, request: R) {
  const root = runRoot();
  if (!isPublished(root, name)) return null;
  try {
    return await callControl(controlPath(root, name), request);
  } catch (error) {
    if (isGone(error)) return null;
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new CacheError(`Cannot reach device ${name}: Permission denied; run as its owner`);
    }
    throw error;
  }
}

/** True for every way in which a device process may turn out to be gone. */
export function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound ||
    error instanceof Deno.errors.ConnectionRefused ||
    error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.UnexpectedEof;
}
