/**
 * Device names taken apart, as `splitname` does.
 *
 * @module
 */

/** The subsystem whose names are taken apart when none is given. */
export const LVM = "LVM";

/** The parts of a device name. */
export interface NameParts {
  readonly subsystem: string;
  readonly vg_name: string;
  readonly lv_name: string;
  readonly lv_layer: string;
}

/** Names of LVM are volume group, logical volume and layer, a hyphen apart; other names are left whole. */
export function splitName(name: string, subsystem: string): NameParts {
  if (subsystem !== LVM) return { subsystem, vg_name: "", lv_name: "", lv_layer: "" };
  const [vg_name, after_vg] = takePart(name);
  const [lv_name, after_lv] = takePart(after_vg);
  const [lv_layer] = takePart(after_lv);
  return { subsystem, vg_name, lv_name, lv_layer };
}

/** Takes what stands before the first single hyphen; a doubled one stands for a hyphen, and so does one at the end. */
function takePart(text: string): [part: string, rest: string] {
  let part = "";
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "-" && at + 1 < text.length) {
      if (text[at + 1] !== "-") return [part, text.slice(at + 1)];
      at++;
    }
    part += text[at]!;
  }
  return [part, ""];
}
