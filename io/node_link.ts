/**
 * A link with a device's name that leads to its node: `/dev/pcache/NAME`, or `device` in the device's folder where /dev
 * cannot have one or has one of another device.
 *
 * @module
 */

const LINK_DIR = "/dev/pcache";
const DIR_MODE = 0o755;

export class NodeLink {
  readonly path: string;
  readonly #node_path: string;

  /** Makes a link; one that leads nowhere any more is replaced. */
  static make(home: { name: string; run_dir: string }, node_path: string): NodeLink {
    try {
      Deno.mkdirSync(LINK_DIR, { recursive: true });
      Deno.chmodSync(LINK_DIR, DIR_MODE); // whatever the umask is
      return new NodeLink(`${LINK_DIR}/${home.name}`, node_path);
    } catch (error) {
      if (!isExpected(error)) throw error;
      return new NodeLink(`${home.run_dir}/device`, node_path);
    }
  }

  private constructor(path: string, node_path: string) {
    this.path = path;
    this.#node_path = node_path;
    if (leadsNowhere(path, node_path)) Deno.removeSync(path);
    Deno.symlinkSync(node_path, path);
  }

  /** Removes the link, unless it leads elsewhere by now. */
  remove(): void {
    try {
      if (Deno.readLinkSync(this.path) === this.#node_path) Deno.removeSync(this.path);
    } catch (error) {
      if (!isExpected(error)) throw error;
    }
  }
}

/** Nobody may write there, or something is in the way, or it is gone already. */
function isExpected(error: unknown): boolean {
  return error instanceof Deno.errors.PermissionDenied ||
    error instanceof Deno.errors.AlreadyExists || error instanceof Deno.errors.NotFound ||
    error instanceof Deno.errors.NotADirectory ||
    /read-only file system/i.test(String(error));
}

/** A link that was left: to this node, or to one that is not there. */
function leadsNowhere(path: string, node_path: string): boolean {
  try {
    const to = Deno.readLinkSync(path);
    return to === node_path || !exists(to);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
