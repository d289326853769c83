/**
 * fio as the client: its arguments, and what its report says.
 *
 * @module
 */

import { run } from "../tests/device.ts";

/** What a run of fio measured. Latencies are those of completion, in microseconds. */
export interface Load {
  readonly requests: number;
  /** Requests a second, of both directions. */
  readonly iops: number;
  readonly bytes_per_second: number;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly p999_us: number;
  /** Processor time that fio itself took for a request, in microseconds. */
  readonly client_us: number;
}

interface Direction {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly clat_ns?: { readonly percentile?: Record<string, number> };
}

interface Report {
  readonly jobs: readonly {
    readonly error: number;
    /** Percent of `job_runtime`, which is the sum of the jobs of a group, in ms. */
    readonly usr_cpu: number;
    readonly sys_cpu: number;
    readonly job_runtime: number;
    readonly read: Direction;
    readonly write: Direction;
  }[];
}

/**
 * Reads the one group of a report in fio's JSON. The latencies of a mixed load are its reads'. Throws when there
 * is no group, when it failed, or when it did nothing.
 */
export function parseReport(text: string): Load {
  const job = (JSON.parse(text) as Report).jobs[0];
  if (job === undefined) throw new Error("fio's report holds no job");
  if (job.error !== 0) throw new Error(`fio's job ended with error ${job.error}`);
  const { read, write } = job;
  if (read.total_ios + write.total_ios === 0) throw new Error("fio's job did nothing");
  const percentile = (read.total_ios > 0 ? read : write).clat_ns?.percentile ?? {};
  const requests = read.total_ios + write.total_ios;
  const client_ms = (job.usr_cpu + job.sys_cpu) / 100 * job.job_runtime;
  const us = (name: string) => (percentile[name] ?? NaN) / 1000;
  return {
    requests,
    iops: read.iops + write.iops,
    bytes_per_second: read.bw_bytes + write.bw_bytes,
    p50_us: us("50.000000"),
    p99_us: us("99.000000"),
    p999_us: us("99.900000"),
    client_us: client_ms * 1000 / requests,
  };
}

/** Runs one group of jobs. `job` is in fio's own options, without the leading dashes. */
export async function fio(dir: string, job: readonly string[]): Promise<Load> {
  // Some engines print before the report: it goes into a file of its own.
  const output = await Deno.makeTempFile({ dir, prefix: "fio-" });
  try {
    const args = [
      "name=bench",
      "group_reporting",
      "percentile_list=50:99:99.9",
      "output-format=json",
      `output=${output}`,
      ...job,
    ].map((option) => `--${option}`);
    const { code, stdout, stderr } = await run("fio", args);
    const report = await Deno.readTextFile(output);
    if (code !== 0) {
      throw new Error(`fio ${args.join(" ")}: status ${code}\n${stdout}${stderr}${report}`);
    }
    return parseReport(report);
  } finally {
    await Deno.remove(output);
  }
}

/** The options that make a job a client of an NBD server, with so many connections. */
export function nbdJob(uri: string, size_bytes: number, connections: number): string[] {
  return ["ioengine=nbd", `uri=${uri}`, `size=${size_bytes}`, `numjobs=${connections}`];
}
