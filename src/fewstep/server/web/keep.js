// Keeps drawing, prompt, settings and history over a reload, in the browser's local storage: about five million characters a page.
// Without storage (a private window, cookies switched off) the page works, keeps nothing, and says so.

import { layer, NAMES, pen } from "./layers.js";

const MOST = { drawing: 3_000_000, history: 1_000_000 }; // characters
const LATER_MS = 400;
const THUMB = 128; // pixels

/** @typedef {"localStorage"|"sessionStorage"} Store */

/** @param {string} key @param {Store} store @returns {string | null} null if nothing is kept, or nothing can be */
export function read(key, store = "localStorage") {
  try {
    return globalThis[store].getItem(key); // naming the storage throws if cookies are switched off
  } catch {
    return null;
  }
}

/** @param {string} key @param {string} value @param {Store} store @returns {boolean} whether it is kept now */
export function write(key, value, store = "localStorage") {
  try {
    globalThis[store].setItem(key, value);
    return true;
  } catch {
    return false; // there is no storage, or it is full
  }
}

/** @param {string} src of a picture @returns {Promise<HTMLImageElement | null>} null if it is not a picture */
async function picture(src) {
  const image = Object.assign(new Image(), { src });
  return image.decode().then(() => image, () => null);
}

/** A layer of the canvas as text. A photo is opaque, so it may be stored with loss. @param {HTMLCanvasElement} c @param {boolean} photo */
const asText = (c, photo) => (photo ? c.toDataURL("image/webp", 0.9) : c.toDataURL());

/** @typedef {{prompt: string, seed: number, src: string}} Past */

export class Keep {
  /** @param {(sentence: string) => void} tell */
  constructor(tell) {
    this.tell = tell;
    this.told = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    /** Functions that return what to keep, by name; called just before it is stored. @type {Record<string, () => any>} */
    this.sources = {};
    /** @type {Set<string>} */
    this.due = new Set();
    addEventListener("pagehide", () => this.now());
    document.addEventListener("visibilitychange", () => document.hidden && this.now());
  }

  /** A key of this studio alone: several may share one origin, each below its own path. @param {string} name */
  _key(name) {
    return `fewstep ${location.pathname} ${name}`;
  }

  /** What was kept under a name; null if there is nothing that can be read. @param {string} name @returns {any} */
  load(name) {
    try {
      return JSON.parse(read(this._key(name)) ?? "null");
    } catch {
      return null;
    }
  }

  /** Note a change; it is stored once changes have stopped. @param {string} name one of `sources` */
  changed(name) {
    this.due.add(name);
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.now(), LATER_MS); // each further change, such as one of a stroke, puts it off
  }

  /** Store everything that has changed. */
  now() {
    clearTimeout(this._timer);
    for (const name of this.due) this._keep(name, this.sources[name]());
    this.due.clear();
  }

  /** @param {string} name @param {any} value */
  _keep(name, value) {
    const most = /** @type {Record<string, number>} */ (MOST)[name] ?? Infinity;
    let text = JSON.stringify(value);
    const kept = () => text.length <= most && write(this._key(name), text);
    let done = kept();
    while (!done && Array.isArray(value) && value.length > 1) { // drop the oldest
      value = value.slice(0, Math.floor(value.length / 2));
      text = JSON.stringify(value);
      done = kept();
    }
    if (done || this.told) return;
    this.told = true;
    this.tell(`The browser keeps no more for this page: a reload loses the ${name}. Download what you want to have.`);
  }

  /** @param {import("./layers.js").Layers} layers */
  static drawing({ now, shown }) {
    const texts = Object.entries(now).map(([name, c]) => [name, c && asText(c, name === "photo")]);
    return { layers: Object.fromEntries(texts), shown };
  }

  /** Read a drawing back, in the shape that it had. @param {any} kept @returns {Promise<import("./layers.js").State>} */
  static async layers(kept) {
    const made = NAMES.map(async (name) => {
      const src = kept.layers?.[name];
      const image = typeof src === "string" ? await picture(src) : null;
      const c = image && layer(image.naturalWidth, image.naturalHeight);
      if (image && c) pen(c).drawImage(image, 0, 0);
      return [name, c];
    });
    return Object.fromEntries(await Promise.all(made));
  }

  /** The pictures of a strip, made small. @param {Element} strip @returns {Past[]} */
  static history(strip) {
    return [...strip.children].flatMap((thumb) => {
      const image = thumb.querySelector("img");
      const { prompt, seed } = /** @type {HTMLElement} */ (thumb).dataset;
      if (!image?.naturalWidth) return [];
      const scale = Math.min(1, THUMB / Math.max(image.naturalWidth, image.naturalHeight));
      const [width, height] = [image.naturalWidth, image.naturalHeight].map((n) => Math.max(1, Math.round(n * scale)));
      const c = Object.assign(document.createElement("canvas"), { width, height });
      c.getContext("2d")?.drawImage(image, 0, 0, width, height);
      return [{ prompt: prompt ?? "", seed: Number(seed), src: c.toDataURL("image/webp", 0.9) }];
    });
  }
}
