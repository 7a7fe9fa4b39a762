// How to draw it: the prompt, the seed and the sliders under the pictures.

import { $, isOn, press } from "./dom.js";

const IDEAS = ["a red heart", "a sunflower", "a frog", "a panda", "a rainbow", "a hamburger"];
const DICE_MS = 900;

export class Knobs {
  /** @param {(stamp?: number) => void} changed */
  constructor(changed) {
    this.changed = changed;
    /** @type {number | undefined} */
    this.used = undefined;
    $("prompt").value = IDEAS[0];
    $("prompt").addEventListener("input", (/** @type {Event} */ e) => changed(e.timeStamp));
    $("prompt").addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => e.key === "Enter" && $("prompt").blur());
    for (const id of ["blend-prompt", "blend", "strength", "smoothing", "seed"]) {
      $(id).addEventListener("input", (/** @type {Event} */ e) => {
        this.show();
        changed(e.timeStamp);
      });
    }
    for (const idea of IDEAS) {
      const set = () => this.set({ prompt: idea });
      $("ideas").append(Object.assign(document.createElement("button"), { textContent: idea, onclick: set }));
    }
    $("dice").onclick = () => this.set({ seed: Math.floor(Math.random() * 2 ** 31) });
    $("lock").onclick = () => press("lock");
    this.show();
  }

  get prompt() {
    return $("prompt").value.trim();
  }

  get seed() {
    return Math.min(2 ** 31 - 1, Math.max(0, Math.floor(Number($("seed").value)) || 0));
  }

  /** The fields of a request that stand here. */
  get header() {
    return {
      prompt: this.prompt,
      blend_prompt: $("blend-prompt").value.trim(),
      blend: Number($("blend").value),
      smoothing: Number($("smoothing").value),
      strength: Number($("strength").value),
    };
  }

  /** @param {{prompt?: string, seed?: number}} to */
  set({ prompt, seed }) {
    if (prompt !== undefined && $("prompt").value !== prompt) $("prompt").value = prompt;
    if (seed !== undefined) $("seed").value = seed;
    this.changed();
  }

  /** Every now and then another seed, where it is not locked. @param {() => boolean} live */
  play(live) {
    setInterval(() => !isOn("lock") && live() && $("dice").click(), DICE_MS);
  }

  /** The values beside their sliders. @param {number | undefined} used the strength of the newest picture: the student's own time
   * nearest to what was asked for */
  show(used = this.used) {
    this.used = used;
    const { strength, smoothing, blend } = this.header;
    const mapped = used && Math.abs(used - strength) > 0.004 ? ` → ${used.toFixed(2)}` : "";
    $("strength-out").textContent = strength.toFixed(2) + mapped;
    $("smoothing-out").textContent = smoothing.toFixed(1);
    $("blend-out").textContent = `${Math.round(100 * blend)} %`;
  }
}
