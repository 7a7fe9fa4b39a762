// The Type tab: variations of a prompt that has stopped changing, and a strip of earlier pictures.

import { $ } from "./dom.js";
const KEPT = 40;

/** @typedef {{data: Uint8Array, mime: string}} Part */

export class Typed {
  /** @param {(seed: number, prompt: string) => void} choose */
  constructor(choose) {
    this.choose = choose;
    /** Called when the strip changes. */
    this.kept = () => {};
    /** @type {number[]} seeds that are still to be drawn */
    this.wanted = [];
    this.first = 0;
    this._empty();
  }

  _empty() {
    for (const old of $("variations").children) forget(old);
    $("variations").replaceChildren(...[1, 2, 3, 4].map(() => {
      const b = Object.assign(document.createElement("button"), { className: "thumb waiting", disabled: true });
      b.setAttribute("aria-label", "Not drawn yet");
      return b;
    }));
  }

  /** The prompt has stopped changing: queue seeds near this one. @param {number} seed */
  begin(seed) {
    this._empty();
    this.first = seed + 1;
    this.wanted = [1, 2, 3, 4].map((i) => seed + i);
  }

  /** The prompt is changing again. */
  stop() {
    this.wanted = [];
  }

  /** @param {Part} part @param {number} seed @param {string} prompt */
  show(part, seed, prompt) {
    const place = $("variations").children[seed - this.first];
    if (!place || !this.wanted.includes(seed)) return;
    this.wanted = this.wanted.filter((s) => s !== seed);
    place.replaceWith(this._thumb(source(part), seed, prompt));
  }

  /** @param {Part} part @param {number} seed @param {string} prompt */
  settle(part, seed, prompt) {
    this._first(seed, prompt, () => this._kept(this._thumb(source(part), seed, prompt)));
    this.kept();
  }

  /** A picture can be kept once it is decoded. @param {HTMLElement} thumb */
  _kept(thumb) {
    /** @type {HTMLImageElement} */ (thumb.querySelector("img")).onload = () => this.kept();
    return thumb;
  }

  /** Replace a picture in the strip, if it is there, by a better one. @param {Part} part @param {number} seed @param {string} prompt */
  better(part, seed, prompt) {
    const old = [...$("history").children].find((b) => b.dataset.key === `${seed} ${prompt}`);
    if (!old) return;
    forget(old);
    old.querySelector("img").src = source(part);
    this._kept(old);
  }

  /** Restore the strip. @param {any} history newest first */
  restore(history) {
    if (!Array.isArray(history)) return;
    for (const { prompt, seed, src } of history.slice(0, KEPT).reverse()) {
      if (typeof prompt !== "string" || !Number.isInteger(seed) || !String(src).startsWith("data:image/")) continue;
      this._first(seed, prompt, () => this._thumb(src, seed, prompt));
    }
  }

  /** Put a picture at the strip's beginning. @param {number} seed @param {string} prompt @param {() => HTMLElement} make */
  _first(seed, prompt, make) {
    const strip = $("history");
    const key = `${seed} ${prompt}`;
    const old = [...strip.children].find((b) => b.dataset.key === key);
    if (old) strip.prepend(old);
    else {
      const made = make();
      Object.assign(made.dataset, { key, seed, prompt });
      strip.prepend(made);
    }
    strip.scrollTo(0, 0);
    while (strip.children.length > KEPT) {
      forget(strip.lastChild);
      strip.lastChild.remove();
    }
  }

  /** @param {string} src @param {number} seed @param {string} prompt */
  _thumb(src, seed, prompt) {
    const title = `${prompt}, seed ${seed}`;
    const made = Object.assign(document.createElement("button"), { className: "thumb", title });
    made.setAttribute("aria-label", title);
    made.append(Object.assign(new Image(), { src, alt: "" }));
    made.onclick = () => this.choose(seed, prompt);
    return made;
  }
}

/** @param {Part} part */
const source = (part) => URL.createObjectURL(new Blob([/** @type {any} */ (part.data)], { type: part.mime }));

/** @param {Element} thumb */
function forget(thumb) {
  const img = thumb.querySelector("img");
  if (img) URL.revokeObjectURL(img.src);
}
