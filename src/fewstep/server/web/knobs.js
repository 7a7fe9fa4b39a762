// How to draw it: the prompt, the seed and the sliders under the pictures.

import { $, isOn, press } from "./dom.js";
import { TakeBack } from "./takeback.js";

const IDEAS = ["a red heart", "a sunflower", "a frog", "a panda", "a rainbow", "a hamburger"];
const DICE_MS = 900;
const LARGEST = 2 ** 31 - 1;
/** What the page itself proposes where nothing was typed or chosen. benchmarks/follow.py: what the camera sees moves this most.
 * @type {Record<string, string>} */
const PROPOSED = { camera: "a robot" };

export class Knobs {
  /** @param {(stamp?: number) => void} changed @param {(sentence: string) => void} tell */
  constructor(changed, tell) {
    this.changed = changed;
    this.tell = tell;
    this.touched = false; // the prompt is the person's
    this.takeBack = new TakeBack();
    $("prompt").value = IDEAS[0];
    $("prompt").addEventListener("input", (/** @type {Event} */ e) => {
      this.touched = true;
      changed(e.timeStamp);
    });
    $("prompt").addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => e.key === "Enter" && $("prompt").blur());
    for (const id of ["blend-prompt", "blend", "smoothing", "seed"]) {
      $(id).addEventListener("input", (/** @type {Event} */ e) => {
        this.show();
        changed(e.timeStamp);
      });
    }
    for (const idea of IDEAS) {
      const set = () => this.set({ prompt: idea });
      $("ideas").append(Object.assign(document.createElement("button"), { textContent: idea, onclick: set }));
    }
    $("seed").addEventListener("change", () => this._clamp());
    $("dice").onclick = () => this.set({ seed: Math.floor(Math.random() * (LARGEST + 1)) });
    $("lock").onclick = () => press("lock");
    this.show();
  }

  get prompt() {
    return $("prompt").value.trim();
  }

  get seed() {
    return Math.min(LARGEST, Math.max(0, Math.floor(Number($("seed").value)) || 0));
  }

  /** The fields of a request that stand here. */
  get header() {
    return {
      prompt: this.prompt,
      blend_prompt: $("blend-prompt").value.trim(),
      blend: Number($("blend").value),
      smoothing: Number($("smoothing").value),
    };
  }

  /** @param {{prompt?: string, seed?: number}} to */
  set({ prompt, seed }) {
    if (prompt !== undefined) {
      this.touched = true;
      this.takeBack.replace(prompt);
    }
    if (seed !== undefined) $("seed").value = seed;
    this.changed();
  }

  /** Every now and then another seed, where it is not locked. @param {() => boolean} live */
  play(live) {
    setInterval(() => !isOn("lock") && live() && $("dice").click(), DICE_MS);
  }

  /** A prompt as if it had been typed. @param {string} prompt */
  type(prompt) {
    this.touched = true;
    $("prompt").value = prompt;
  }

  /** Where nothing was typed or chosen, the prompt is the tab's own. @param {string} tab */
  open(tab) {
    if (!this.touched) $("prompt").value = PROPOSED[tab] ?? IDEAS[0];
  }

  /** @param {KeyboardEvent} e @param {number} drawn when the canvas was touched last @returns {boolean} whether a prompt came back */
  key(e, drawn) {
    const back = this.takeBack.key(e, drawn);
    if (back) this.changed(e.timeStamp);
    return back;
  }

  /** What stands in the field is the seed that is used. */
  _clamp() {
    const { value } = $("seed");
    if (value === String(this.seed)) return;
    $("seed").value = String(this.seed);
    this.tell(`Seeds are whole numbers from 0 to ${LARGEST}: this one is now ${this.seed}.`);
  }

  /** The values beside their sliders. */
  show() {
    const { smoothing, blend } = this.header;
    $("smoothing-out").textContent = smoothing.toFixed(1);
    $("blend-out").textContent = `${Math.round(100 * blend)} %`;
  }
}
