// Reads the page's settings from its fields, and restores them after a reload.

import { $, isOn, press } from "./dom.js";

const FIELDS = ["blend-prompt", "blend", "smoothing", "seed", "format"];
const TOGGLES = ["lock", "with-prompt"];

/** @typedef {{knobs: import("./knobs.js").Knobs, follow: import("./follow.js").Follow, draw: import("./draw.js").Draw,
 * panel: import("./panel.js").Panel}} Parts */

/** @param {Parts} parts @param {string} tab */
export function settings({ knobs, follow, draw, panel }, tab) {
  return {
    tab,
    prompt: knobs.touched ? $("prompt").value : null, // the page's own prompt may change, so it is not kept
    fields: Object.fromEntries(FIELDS.map((id) => [id, $(id).value])),
    toggles: Object.fromEntries(TOGGLES.map((id) => [id, isOn(id)])),
    crisp: isOn("crisp"),
    strength: follow.chosen,
    brush: { colour: draw.brush.colour, width: draw.brush.width },
    targetMs: panel.touched ? panel.targetMs : null,
    steps: panel.steps,
  };
}

/** @param {any} kept of `settings`, or what somebody else left under its name @param {Parts} parts */
export function restore(kept, { knobs, follow, draw, panel }) {
  for (const id of FIELDS) if (typeof kept.fields?.[id] === "string") $(id).value = kept.fields[id];
  for (const id of TOGGLES) if (typeof kept.toggles?.[id] === "boolean") press(id, kept.toggles[id]);
  if (kept.crisp) $("crisp").click();
  if (typeof kept.prompt === "string") knobs.type(kept.prompt);
  for (const [tab, time] of Object.entries(kept.strength ?? {})) if (time > 0 && time <= 1) follow.chosen[tab] = time;
  draw.take(kept.brush?.colour, Number(kept.brush?.width));
  if (kept.targetMs >= 10) panel.aim(kept.targetMs);
  panel.pinned = Number(kept.steps) || 0;
  knobs.show();
}
