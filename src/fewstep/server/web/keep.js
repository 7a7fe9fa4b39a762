// What outlives a reload: drawing, prompt, settings, history. In the browser's local storage, of which a page has some five
// million characters; where there is none (a private window, cookies switched off), the page goes on without, and says so.

import { layer, NAMES, pen, SIZE } from "./layers.js";

const MOST = { drawing: 3_000_000, history: 1_000_000 }; // characters
const LATER_MS = 400;
const THUMB = 128; // pixels

/** @typedef {"localStorage"|"sessionStorage"} Store */

/** @param {string} key @param {Store} store @returns {string | null} null where there is nothing, and where nothing can be kept */
export function read(key, store = "localStorage") {
  try {
    return globalThis[store].getItem(key); // the name alone throws where cookies are switched off
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
    return false; // there is no storage here, or no room in it
  }
}

/** @param {string} src of a picture @returns {Promise<HTMLImageElement | null>} null where it is none */
async function picture(src) {
  const image = Object.assign(new Image(), { src });
  return image.decode().then(() => image, () => null);
}

/** A layer of the canvas as text: a photo, which is opaque, may lose a little. @param {HTMLCanvasElement} c @param {boolean} photo */
const asText = (c, photo) => (photo ? c.toDataURL("image/webp", 0.9) : c.toDataURL());

/** @typedef {{prompt: string, seed: number, src: string}} Past */

export class Keep {
  /** @param {(sentence: string) => void} tell */
  constructor(tell) {
    this.tell = tell;
    this.told = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    /** What there is to keep, by name: it is asked for when it is time. @type {Record<string, () => any>} */
    this.sources = {};
    /** @type {Set<string>} */
    this.due = new Set();
    addEventListener("pagehide", () => this.now());
    document.addEventListener("visibilitychange", () => document.hidden && this.now());
  }

  /** Studios behind one address, each below its own path, keep apart. @param {string} name */
  _key(name) {
    return `fewstep ${location.pathname} ${name}`;
  }

  /** What was kept under a name; null where there is nothing that can be read. @param {string} name @returns {any} */
  load(name) {
    try {
      return JSON.parse(read(this._key(name)) ?? "null");
    } catch {
      return null;
    }
  }

  /** Something is another: keep it when it has come to rest. @param {string} name one of `sources` */
  changed(name) {
    this.due.add(name);
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.now(), LATER_MS); // and not while a stroke goes on
  }

  /** Keep all that has changed. */
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
    while (!done && Array.isArray(value) && value.length > 1) { // the oldest go
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

  /** The other way. @param {any} kept @returns {Promise<import("./layers.js").State>} */
  static async layers(kept) {
    const made = NAMES.map(async (name) => {
      const src = kept.layers?.[name];
      const image = typeof src === "string" ? await picture(src) : null;
      const c = image && layer();
      if (image && c) pen(c).drawImage(image, 0, 0, SIZE, SIZE);
      return [name, c];
    });
    return Object.fromEntries(await Promise.all(made));
  }

  /** A strip of pictures, small. @param {Element} strip @returns {Past[]} */
  static history(strip) {
    return [...strip.children].flatMap((thumb) => {
      const image = thumb.querySelector("img");
      const { prompt, seed } = /** @type {HTMLElement} */ (thumb).dataset;
      if (!image?.naturalWidth) return [];
      const side = Math.min(THUMB, image.naturalWidth);
      const c = Object.assign(document.createElement("canvas"), { width: side, height: side });
      c.getContext("2d")?.drawImage(image, 0, 0, side, side);
      return [{ prompt: prompt ?? "", seed: Number(seed), src: c.toDataURL("image/webp", 0.9) }];
    });
  }
}
