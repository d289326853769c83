/**
 * A device's table, as commands hand it to the device process, in the words of the table line.
 *
 * @module
 */

import { isNbdUri } from "../core/nbd_uri.ts";
import type { Table } from "../core/table.ts";
import type { TableConfig } from "./control_protocol.ts";

/** The NBD URI of a backing device that is on a server; "": there is none. */
export function serverOf(config: TableConfig | null): string {
  return config !== null && isNbdUri(config.backing_path) ? config.backing_path : "";
}

/** The table that the configuration came from. */
export function tableOf(config: TableConfig): Table {
  return {
    length_sectors: config.length_sectors,
    cache_dev: config.cache_path,
    backing_dev: config.backing_path,
    cache_mode: config.cache_mode,
    eviction: config.eviction,
    data_crc: config.data_crc,
  };
}
