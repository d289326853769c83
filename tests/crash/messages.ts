/**
 * Messages in the simulator: settings, and the jobs that a device does beside its requests, a step after each turn of the loop.
 *
 * What has to hold when one is done: after `flush` and `drop_clean` the backing device has every write that was answered before the
 * message came; `scrub` has found nothing damaged.
 *
 * @module
 */

import { Jobs } from "../../io/jobs.ts";
import { applySetting } from "../../io/settings.ts";
import { BUSY, type ControlReply } from "../../io/control_protocol.ts";
import type { Simulation } from "../simulation.ts";

const CLIENT = 1;

/** The messages of one device. */
export class Messages {
  readonly #simulation: Simulation;
  readonly #jobs: Jobs;
  #word = "";
  /** When it came, on the model's clock. */
  #begin = 0;
  #looks_at_clock = 0;

  constructor(simulation: Simulation) {
    this.#simulation = simulation;
    this.#jobs = new Jobs({
      get engine() {
        return simulation.engine;
      },
      backingTrouble: () => "",
      // Each look costs a millisecond: no step does more than one part.
      now_ms: () => simulation.now_ms + this.#looks_at_clock++,
    });
    simulation.beside = {
      step: () => this.#step(),
      nextTimerMs: () => this.#jobs.nextTimerMs(),
    };
  }

  get is_under_way(): boolean {
    return this.#jobs.is_under_way;
  }

  /** A message comes. One that is done beside the requests is refused while another one is under way. */
  send(words: readonly string[]): void {
    const was_under_way = this.#jobs.is_under_way;
    const begun = this.#jobs.ask(words, CLIENT);
    if (begun === undefined) return applySetting(this.#simulation.engine, words);
    if (begun === null) {
      this.#word = words[0]!;
      this.#begin = this.#simulation.model.beginFlush();
    } else if (!was_under_way) throw new Error(`${words.join(" ")}: ${JSON.stringify(begun)}`);
  }

  /** The device is about to end: a job ends unfinished. */
  cancel(): void {
    this.#jobs.cancel();
  }

  #step(): void {
    const { engine, now_ms } = this.#simulation;
    const reply = this.#jobs.step(now_ms)?.reply;
    engine.pump(now_ms);
    if (reply !== undefined) this.#check(reply);
  }

  #check(reply: ControlReply): void {
    const { model, backing } = this.#simulation;
    const text = JSON.stringify(reply);
    if (this.#word === "invalidate" && !reply.ok && reply.error.startsWith(BUSY)) return;
    if (!reply.ok) throw new Error(`${this.#word}: ${text}`);
    if (this.#word === "scrub" && !text.includes("healed 0 lost 0")) {
      throw new Error(`scrub, with nothing damaged: ${text}`);
    }
    if (this.#word !== "flush" && this.#word !== "drop_clean") return;
    model.crashRule((write) => write.end < this.#begin).check(backing.bytes);
  }
}
