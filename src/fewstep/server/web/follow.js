// Strength: how far the result may differ from the given picture. It offers the model's own times, in words, and a default for each tab.

import { $ } from "./dom.js";

/** Each tab's default; the nearest of the model's times is used. benchmarks/follow.py measured them (docs/log.md).
 * @type {Record<string, number>} */
const FIRST = { draw: 0.25, camera: 0.25 };
const ROUND = [0.2, 0.4, 0.6, 0.8, 1]; // for a model that has many times, or does not name them

/** @param {number} time in (0, 1] @param {string} it what is given */
function words(time, it) {
  if (time >= 1) return "ignore it";
  if (time > 0.8) return "hardly look at it";
  if (time > 0.55) return "take a hint of it";
  if (time > 0.3) return "keep some of it";
  return `follow ${it}`;
}

export class Follow {
  /** @param {(stamp?: number) => void} changed */
  constructor(changed) {
    this.slider = $("strength");
    this.times = [0.25, 0.5, 0.75, 1];
    this.tab = "draw";
    /** The person's choice in each tab. @type {Record<string, number>} */
    this.chosen = {};
    this.slider.addEventListener("input", (/** @type {Event} */ e) => {
      this.chosen[this.tab] = this.times[Number(this.slider.value)];
      this._show();
      changed(e.timeStamp);
    });
    this._show();
  }

  /** The strength to ask for: one of the model's times. */
  get strength() {
    return this.times[Number(this.slider.value)];
  }

  /** @param {Record<string, any>} hello */
  meet({ model }) {
    if (!model) return;
    this.times = model.times?.length ? [...model.times].sort((a, b) => a - b) : ROUND;
    this.slider.max = String(this.times.length - 1);
    this.open(this.tab);
  }

  /** @param {string} tab */
  open(tab) {
    this.tab = tab;
    const wanted = this.chosen[tab] ?? FIRST[tab] ?? 1;
    const away = this.times.map((time) => Math.abs(time - wanted));
    this.slider.value = String(away.indexOf(Math.min(...away)));
    this._show();
  }

  _show() {
    const time = this.strength;
    const said = words(time, this.tab === "camera" ? "the camera" : "my drawing");
    const alone = this.times.filter((other) => words(other, "") === words(time, "")).length === 1;
    $("strength-out").textContent = alone ? said : `${said}, ${time.toFixed(2)}`;
    this.slider.setAttribute("aria-valuetext", $("strength-out").textContent);
    for (const note of document.querySelectorAll(".ignored")) /** @type {HTMLElement} */ (note).hidden = time < 1;
  }
}
