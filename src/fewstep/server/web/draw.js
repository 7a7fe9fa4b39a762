// The Draw tab: pointer, keys and buttons. layers.js holds the layers that they change, stroke.js paints on them.

import { $, choose, press } from "./dom.js";
import { Layers, NAMES, shape, sheet } from "./layers.js";
import { Stroke } from "./stroke.js";

const COLOURS = {
  "#1d1b22": "black", "#ffffff": "white", "#e5484d": "red", "#f5a524": "orange", "#ffd84d": "yellow", "#46a758": "green",
  "#3b82f6": "blue", "#8b5cf6": "violet", "#ec6ea0": "pink", "#8b5e3c": "brown",
};
const FIRST = "#e5484d";

/** @typedef {import("./stroke.js").Point} Point */

export class Draw {
  /** @param {(stamp: number) => void} changed @param {(sentence: string) => void} complain */
  constructor(changed, complain) {
    this.changed = changed;
    this.complain = complain;
    this.view = $("canvas");
    this.layers = new Layers();
    this.brush = { tool: "brush", colour: FIRST, width: 36 };
    /** @type {Stroke | null} */
    this.stroke = null;
    this.at = { x: sheet.width / 2, y: sheet.height / 2 };
    this.touched = 0; // when the person last drew on it
    this.met = false; // whether the shape of the model's pictures is known
    this._palette();
    this._pointer();
    this._buttons();
    this._keys();
    this.use("brush");
    this._show();
  }

  /** Take the shape of the model's pictures. @param {Record<string, any>} hello */
  meet({ shapes }) {
    if (!shapes) return;
    this.met = true;
    this._shape(shapes[0]);
  }

  /** @param {[number, number]} size width and height */
  _shape([width, height]) {
    if (!shape(width, height)) return;
    this.end(performance.now());
    this.layers.refit();
    Object.assign(this.view, sheet);
    document.documentElement.style.setProperty("--ratio", String(sheet.width / sheet.height));
    this.at = { x: sheet.width / 2, y: sheet.height / 2 };
    this._show();
  }

  /** @param {Point} at @param {number} pressure @param {number} stamp */
  begin(at, pressure, stamp) {
    this.stroke = new Stroke(this.layers, this.brush, at, pressure);
    this._touch(stamp);
  }

  /** @param {Point} to @param {number} pressure @param {number} stamp */
  move(to, pressure, stamp) {
    if (!this.stroke) return;
    this.stroke.move(to, pressure);
    this._touch(stamp);
  }

  /** @param {number} stamp */
  end(stamp) {
    if (!this.stroke) return;
    this.stroke.end();
    this.stroke = null;
    this._touch(stamp);
  }

  /** Undo a stroke that was not meant; Redo brings it back. @param {number} stamp */
  cancel(stamp) {
    if (!this.stroke) return;
    this.stroke = null;
    this.layers.undo();
    this._touch(stamp);
  }

  /** @param {number} stamp */
  _touch(stamp) {
    this.touched = stamp;
    this._show();
    this.changed(stamp);
  }

  /** A step through the history. @param {"undo"|"redo"|"clear"} step */
  _go(step) {
    if (!this.layers[step]()) return;
    this.stroke = null;
    this._touch(performance.now());
  }

  /** @param {Blob} source */
  async place(source) {
    const bitmap = await createImageBitmap(source).catch(() => null);
    if (!bitmap) return this.complain("This file is not a picture that the browser can read: use PNG, JPEG or WebP.");
    this.layers.place(bitmap);
    this._touch(performance.now());
  }

  _show() {
    const { layers } = this;
    layers.show(this.view);
    $("undo").disabled = !layers.past.length;
    $("redo").disabled = !layers.future.length;
    $("clear").disabled = layers.empty;
    for (const name of NAMES) {
      $(`layer-${name}`).disabled = !layers.now[name];
      press(`layer-${name}`, layers.shown[name]);
    }
    $("canvas-empty").hidden = !layers.empty;
  }

  // pointer and keys

  _pointer() {
    const { view } = this;
    /** @type {number | null} */
    let finger = null; // the one that draws
    /** @type {Set<number>} */
    const down = new Set(); // all fingers on the canvas: two of them zoom the page, and draw nothing
    const place = (/** @type {PointerEvent} */ e) => {
      const box = view.getBoundingClientRect();
      return { x: ((e.clientX - box.left) / box.width) * sheet.width, y: ((e.clientY - box.top) / box.height) * sheet.height };
    };
    view.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => {
      if (e.button) return;
      if (e.pointerType === "touch") down.add(e.pointerId);
      if (down.size > 1 && finger !== null && down.has(finger)) {
        finger = null;
        this.cancel(e.timeStamp);
      }
      if (finger !== null || down.size > 1) return;
      finger = e.pointerId;
      view.setPointerCapture(finger);
      this.begin(place(e), e.pressure, e.timeStamp);
      this._ring(place(e), true);
    });
    view.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => {
      if (finger !== null && e.pointerId !== finger) return;
      if (finger !== null) {
        const seen = e.getCoalescedEvents?.() ?? [];
        for (const one of seen.length ? seen : [e]) this.move(place(one), one.pressure, e.timeStamp);
      }
      if (e.pointerType !== "touch") this._ring(place(e), finger !== null);
    });
    for (const over of ["pointerup", "pointercancel"]) {
      view.addEventListener(over, (/** @type {PointerEvent} */ e) => {
        down.delete(e.pointerId);
        if (e.pointerId !== finger) return;
        finger = null;
        if (over === "pointercancel" && e.pointerType === "touch") this.cancel(e.timeStamp); // the browser zooms the page
        else this.end(e.timeStamp);
        if (e.pointerType === "touch") $("pen").hidden = true;
        else this._ring(place(e), false);
      });
    }
    view.addEventListener("pointerleave", () => finger === null && ($("pen").hidden = true));
  }

  /** The outline of the brush where it would paint. @param {Point} at @param {boolean} down */
  _ring(at, down) {
    const mark = $("pen");
    const scale = this.view.clientWidth / sheet.width;
    const width = Math.max(6, this.brush.width * scale);
    mark.hidden = false;
    mark.dataset.down = String(down);
    mark.style.width = mark.style.height = `${width}px`;
    mark.style.transform = `translate(${at.x * scale - width / 2}px, ${at.y * scale - width / 2}px)`;
  }

  _keys() {
    this.view.addEventListener("blur", () => {
      this.end(performance.now());
      $("pen").hidden = true;
    });
    this.view.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
      /** @type {Record<string, number[]>} */
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const way = moves[e.key];
      if (e.key === " ") this.stroke ? this.end(e.timeStamp) : this.begin({ ...this.at }, 0, e.timeStamp);
      else if (way) {
        const step = e.shiftKey ? 4 : 14;
        const within = (/** @type {number} */ v, /** @type {number} */ most) => Math.min(most, Math.max(0, v));
        this.at = { x: within(this.at.x + way[0] * step, sheet.width), y: within(this.at.y + way[1] * step, sheet.height) };
        this.move(this.at, 0, e.timeStamp);
      } else return;
      e.preventDefault();
      this._ring(this.at, this.stroke !== null);
    });
  }

  /** @param {KeyboardEvent} e @returns {boolean} whether the key was one of this tab's */
  key(e) {
    const mod = e.ctrlKey || e.metaKey;
    const key = e.key.toLowerCase();
    if (mod && key === "z") this._go(e.shiftKey ? "redo" : "undo");
    else if (mod && key === "y") this._go("redo");
    else if (mod || e.altKey) return false;
    else if (key === "b" || key === "e" || key === "r") this.use({ b: "brush", e: "eraser", r: "region" }[key]);
    else if (key === "[" || key === "]") {
      this.brush.width = Math.min(120, Math.max(4, this.brush.width + (key === "]" ? 6 : -6)));
      $("brush").value = String(this.brush.width);
    } else return false;
    return true;
  }

  /** Restore what the canvas held before a reload, unless the person has drawn meanwhile. @param {import("./layers.js").State} state @param {any} shown */
  restore(state, shown) {
    if (!this.layers.empty || this.stroke) return;
    const one = NAMES.map((name) => state[name]).find(Boolean);
    if (one && !this.met) this._shape([one.width, one.height]); // the model's, most likely, which is not known yet
    this.layers.restore(state, shown ?? {});
    this.layers.refit();
    this._touch(performance.now());
  }

  // controls

  /** @param {string} tool */
  use(tool) {
    this.end(performance.now());
    this.brush.tool = tool;
    choose(document.querySelectorAll("[data-tool]"), (b) => b.dataset.tool === tool);
  }

  /** Restore the brush. @param {any} colour @param {number} width */
  take(colour, width) {
    if (width >= 4 && width <= 120) $("brush").value = String((this.brush.width = width));
    const swatch = $("swatches").querySelector(`[data-colour="${CSS.escape(String(colour))}"]`);
    const own = $("swatches").querySelector("input");
    if (swatch) swatch.click();
    else if (/^#[0-9a-f]{6}$/.test(String(colour))) {
      own.value = colour;
      own.oninput();
    }
  }

  _palette() {
    const box = $("swatches");
    /** @param {string} colour @param {Element} chosen */
    const pick = (colour, chosen) => {
      this.brush.colour = colour;
      if (this.brush.tool === "eraser") this.use("brush");
      choose(box.children, (b) => b === chosen);
    };
    for (const [colour, name] of Object.entries(COLOURS)) {
      const b = Object.assign(document.createElement("button"), { title: name, onclick: () => pick(colour, b) });
      b.dataset.colour = colour;
      b.style.background = colour;
      b.setAttribute("role", "radio");
      b.setAttribute("aria-label", name);
      box.append(b);
    }
    const own = Object.assign(document.createElement("input"), { type: "color", value: "#00c2a8", title: "Another colour" });
    own.setAttribute("aria-label", "Another colour");
    own.oninput = own.onclick = () => pick(own.value, own);
    box.append(own);
    choose(box.children, (b) => b.title === COLOURS[FIRST]);
  }

  _buttons() {
    for (const b of document.querySelectorAll("[data-tool]")) {
      const button = /** @type {HTMLElement} */ (b);
      button.onclick = () => this.use(button.dataset.tool ?? "brush");
    }
    $("brush").oninput = (/** @type {any} */ e) => (this.brush.width = Number(e.target.value));
    for (const step of /** @type {const} */ (["undo", "redo", "clear"])) $(step).onclick = () => this._go(step);
    $("open").onclick = () => $("file").click();
    $("file").onchange = (/** @type {any} */ e) => {
      if (e.target.files[0]) this.place(e.target.files[0]);
      e.target.value = ""; // lets the person open the same file again
    };
    for (const name of NAMES) {
      $(`layer-${name}`).onclick = () => {
        this.layers.shown[name] = !this.layers.shown[name];
        this._touch(performance.now());
      };
    }
  }
}
