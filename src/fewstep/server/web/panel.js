// The Budget panel: where the time goes, against the target, live.

import { $ } from "./dom.js";
const NAMES = {
  wait: "waiting", decode: "decode", text: "text", codec_in: "codec in", network: "network", codec_out: "codec out",
  watermark: "watermark", encode: "encode", other: "other", wire: "travel",
};
const ALSO = { safety_prompt: "filter, words", safety_picture: "filter, picture", glass_to_glass: "to the eye" };
const SHED = { encoder: "a lighter format", backend: "less precision", steps: "fewer steps", size: "smaller" };
const KEPT = 120;
const LATELY = 12; // the big number is the median of this many pictures

/** Slider position 0-100 <-> milliseconds 10-1000, on a logarithmic scale. */
const toMs = (/** @type {number} */ v) => {
  const ms = 10 * 100 ** (v / 100);
  return ms < 100 ? Math.round(ms) : Math.round(ms / 5) * 5;
};
const toPlace = (/** @type {number} */ ms) => (100 * Math.log(ms / 10)) / Math.log(100);
const shown = (/** @type {number} */ ms) => (ms < 9.95 ? ms.toFixed(1) : String(Math.round(ms)));

export class Panel {
  /** @param {() => void} changed */
  constructor(changed) {
    /** @type {number[]} */
    this.glass = [];
    /** @type {number[]} */
    this.times = [];
    /** @type {Record<string, number>} */
    this.stages = {};
    /** Of the newest picture. */
    this.task = "";
    /** @type {Record<string, any> | undefined} */
    this.last = undefined;
    /** Width and height of the pictures of every size. @type {[number, number][]} */
    this.shapes = [];
    this.touched = false;
    this.targetMs = 100;
    this.pinned = 0; // the fixed steps from before a reload; the model's own steps are not known yet
    $("target").oninput = (/** @type {any} */ e) => {
      this.aim(toMs(Number(e.target.value)));
      changed();
    };
    $("pin-steps").onchange = changed;
    $("tails").open = matchMedia("(min-width: 1101px) and (min-height: 960px)").matches;
  }

  /** Set the target that the person wants. @param {number} ms */
  aim(ms) {
    this.touched = true;
    this.targetMs = ms;
    if (toMs(Number($("target").value)) !== ms) $("target").value = String(toPlace(ms));
    this._target();
  }

  get steps() {
    return Number($("pin-steps").value);
  }

  /** @param {Record<string, any>} hello */
  meet(hello) {
    this.shapes = hello.shapes ?? this.shapes;
    if (!this.touched) {
      this.targetMs = hello.target_ms;
      $("target").value = String(toPlace(this.targetMs));
    }
    this._target();
    const pin = $("pin-steps");
    if (hello.model && pin.length === 1) {
      for (const n of hello.model.steps) pin.append(new Option(String(n), String(n)));
      if (hello.model.steps.includes(this.pinned)) pin.value = String(this.pinned);
    }
  }

  _target() {
    $("target-out").textContent = `${this.targetMs} ms`;
    $("target").setAttribute("aria-valuetext", `${this.targetMs} ms`);
  }

  /** Count a picture that was shown on the screen. @param {Record<string, any>} h @param {number} glassMs @param {string} task */
  note(h, glassMs, task) {
    const now = performance.now();
    this.glass.push(glassMs);
    this.times.push(now);
    if (this.glass.length > KEPT) this.glass.shift();
    while (this.times.length && now - this.times[0] > 2000) this.times.shift();
    const stages = { ...h.stages_ms, wire: Math.max(0, glassMs - h.server_ms) };
    if (task !== this.task) this.stages = {}; // another kind of picture has other stages
    this.task = task;
    for (const name of Object.keys(NAMES)) {
      const ms = stages[name] ?? 0;
      this.stages[name] = ms && 0.8 * (this.stages[name] || ms) + 0.2 * ms; // a stage that was skipped disappears at once
    }
    this.last = h;
    if (!this._due) this._due = requestAnimationFrame(() => this._show());
  }

  /** Show a picture that was drawn once more at rest. Its time includes that rest, so it is not counted. @param {Record<string, any>} h */
  better(h) {
    this.last = { ...h, fits: true };
    if (!this._due) this._due = requestAnimationFrame(() => this._show());
  }

  _show() {
    this._due = 0;
    const h = /** @type {Record<string, any>} */ (this.last);
    const sorted = [...this.glass].sort((a, b) => a - b);
    const at = (/** @type {number} */ q) => sorted[Math.round(q * (sorted.length - 1))];
    const lately = this.glass.slice(-LATELY).sort((a, b) => a - b);
    $("glass").textContent = shown(lately[lately.length >> 1]);
    $("fact-tail").textContent = [0.5, 0.95, 0.99].map((q) => shown(at(q))).join(" / ") + " ms";
    $("fact-steps").textContent = h.steps;
    const [width, height] = this.shapes.find(([w]) => w === h.size) ?? [h.size, h.size];
    $("fact-size").textContent = width === height ? `${width} px` : `${width}×${height} px`;
    $("fact-backend").textContent = h.backend;
    $("fact-encoder").textContent = h.encoder.toUpperCase();
    $("fact-drops").textContent = h.drops;
    $("fact-flicker").textContent = h.flicker === undefined ? "–" : h.flicker === 0 ? "none" : `${(100 * h.flicker).toFixed(2)} %`;
    const covered = (performance.now() - this.times[0]) / 1000;
    $("fact-fps").textContent = this.times.length > 2 ? ((this.times.length - 1) / Math.max(covered, 0.2)).toFixed(1) : "–";
    const shed = $("shed");
    shed.hidden = h.fits && !h.shed.length;
    const given = h.shed.map((/** @type {keyof typeof SHED} */ name) => SHED[name]).join(", ");
    shed.textContent = h.fits ? given : "over target";
    shed.title = given ? `Given up to come nearer to the target: ${given}.` : "The quickest way there is.";
    this._bar();
    this._spark(at(0.5));
  }

  _bar() {
    const full = Math.max(this.targetMs / 0.8, Object.values(this.stages).reduce((a, b) => a + b, 0));
    $("mark").style.left = `${(100 * this.targetMs) / full}%`;
    const parts = Object.keys(NAMES).filter((name) => this.stages[name] >= 0.05);
    sync($("segments"), parts, (name, el) => {
      el.style.width = `${(100 * this.stages[name]) / full}%`;
      el.style.background = `var(--s-${name})`;
    }, "i");
    sync($("legend"), parts, (name, el) => {
      if (!el.firstChild) el.append(document.createElement("i"), document.createElement("span"), document.createElement("b"));
      const [dot, label, ms] = /** @type {any} */ (el.children);
      dot.style.background = `var(--s-${name})`;
      label.textContent = NAMES[/** @type {keyof typeof NAMES} */ (name)];
      ms.textContent = shown(this.stages[name]);
    }, "li");
    const said = parts.map((name) => `${NAMES[/** @type {keyof typeof NAMES} */ (name)]} ${shown(this.stages[name])}`);
    $("bar").setAttribute("aria-label", `Milliseconds by stage, against a target of ${this.targetMs}: ${said.join(", ")}`);
  }

  /** @param {number} median */
  _spark(median) {
    const top = Math.max(this.targetMs * 1.25, median * 1.5);
    const y = (/** @type {number} */ ms) => (48 - (46 * Math.min(ms, top)) / top).toFixed(1);
    const step = 240 / (KEPT - 1);
    $("spark-line").setAttribute("d", this.glass.map((ms, i) => `${i ? "L" : "M"}${(i * step).toFixed(1)} ${y(ms)}`).join(""));
    for (const side of ["y1", "y2"]) $("spark-target").setAttribute(side, y(this.targetMs));
  }

  /** Show the server's own numbers. @param {Record<string, any>} stats */
  stats(stats) {
    const waiting = stats.queue_length ? `, ${stats.queue_length} waiting` : "";
    $("fact-people").textContent = `${stats.room.inside} of ${stats.room.places}${waiting}`;
    const names = Object.entries({ ...NAMES, ...ALSO });
    const timed = names.filter(([name]) => stats.stages_ms[name]?.[2] >= 0.05);
    sync($("tails-rows"), timed.map(([name]) => name), (name, row) => {
      if (!row.firstChild) row.innerHTML = '<th scope="row"><i></i><span></span></th><td></td><td></td><td></td>';
      row.querySelector("i").style.background = `var(--s-${name}, transparent)`;
      row.querySelector("span").textContent = Object.fromEntries(names)[name];
      row.querySelectorAll("td").forEach((/** @type {any} */ cell, /** @type {number} */ i) => {
        cell.textContent = shown(stats.stages_ms[name][i]);
      });
    }, "tr");
  }
}

/** Keep a list of elements in step with a list of names. @param {Element} box @param {string[]} names
 * @param {(name: string, el: any) => void} set @param {string} tag */
function sync(box, names, set, tag) {
  while (box.children.length > names.length) box.lastChild?.remove();
  while (box.children.length < names.length) box.append(document.createElement(tag));
  names.forEach((name, i) => set(name, box.children[i]));
}
