// The controls of a request: prompt, seed and the sliders under the pictures.

import { $, isOn, press } from "./dom.js";
import { TakeBack } from "./takeback.js";

const IDEAS = ["a red heart", "a sunflower", "a frog", "a panda", "a rainbow", "a hamburger"];
const DICE_MS = 900;
const LARGEST = 2 ** 31 - 1;
/** The page's own prompts, used until the person types or chooses one. The camera's picture changes no other more but a clown (benchmarks/follow.py).
 * @type {Record<string, string>} */
const PROPOSED = { camera: "a robot" };

export class Knobs {
  /** @param {(stamp?: number) => void} changed @param {(sentence: string) => void} tell */
  constructor(changed, tell) {
    this.changed = changed;
    this.tell = tell;
    this.touched = false; // the person typed or chose the prompt
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

  /** The request fields that these controls set. */
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

  /** Change the seed from time to time, unless it is locked. @param {() => boolean} live */
  play(live) {
    setInterval(() => !isOn("lock") && live() && $("dice").click(), DICE_MS);
  }

  /** Set a prompt as if the person had typed it. @param {string} prompt */
  type(prompt) {
    this.touched = true;
    $("prompt").value = prompt;
  }

  /** Show the tab's own prompt, unless the person typed or chose one. @param {string} tab */
  open(tab) {
    if (!this.touched) $("prompt").value = PROPOSED[tab] ?? IDEAS[0];
  }

  /** @param {KeyboardEvent} e @param {number} drawn when the canvas was touched last @returns {boolean} whether an earlier prompt was restored */
  key(e, drawn) {
    const back = this.takeBack.key(e, drawn);
    if (back) this.changed(e.timeStamp);
    return back;
  }

  /** Make the field show the seed in use. */
  _clamp() {
    const { value } = $("seed");
    if (value === String(this.seed)) return;
    $("seed").value = String(this.seed);
    this.tell(`Seeds are whole numbers from 0 to ${LARGEST}: this one is now ${this.seed}.`);
  }

  /** Show each slider's value beside it. */
  show() {
    const { smoothing, blend } = this.header;
    $("smoothing-out").textContent = smoothing.toFixed(1);
    $("blend-out").textContent = `${Math.round(100 * blend)} %`;
  }
}
