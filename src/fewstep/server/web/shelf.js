// Variations and earlier pictures under the pictures of the Draw and the Camera tab; the Type tab has its own.

import { $ } from "./dom.js";

const STILL_MS = 1200;
const KEPT = 40;
const SEEDS = [1, 2, 3, 4]; // added to the seed of the picture on the screen

/** @typedef {import("./wire.js").Part} Part */

export class Shelf {
  /** @param {import("./wire.js").Link} link @param {(at: number, seed: number) => import("./wire.js").Ask | null} ask
   * @param {{seed: (seed: number) => void, onto: (picture: Blob) => void, tell: (sentence: string) => void}} acts */
  constructor(link, ask, acts) {
    this.link = link;
    this.ask = ask;
    this.acts = acts;
    this.run = 0; // the newest set of variations
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.still = undefined;
    link.addEventListener("picture", (event) => {
      const { part, ask: asked } = /** @type {CustomEvent} */ (event).detail;
      clearTimeout(this.still);
      if (!asked || asked.header.task === "text") return;
      this.still = setTimeout(() => this._keep(part, asked.header.prompt), STILL_MS);
    });
  }

  /** @param {boolean} on */
  show(on) {
    $("shelf").hidden = !on;
    if (on) this.vary();
  }

  /** Draw the present input with four other seeds, one after the other; a new set ends the one before. */
  async vary() {
    const run = ++this.run;
    const box = $("shelf-variations");
    clear(box);
    const first = this.ask(performance.now(), 0);
    if (!first) return;
    const [image, mask] = first.parts.map(({ data, width = 0, height = 0 }) => new ImageData(new Uint8ClampedArray(data), width, height));
    const from = Number($("seed").value) || 0;
    for (const seed of SEEDS.map((n) => (from + n) % 2 ** 31)) {
      try {
        const made = await this.link.draw({ ...first.header, seed, image, mask });
        if (run !== this.run) return;
        box.append(thumb(made.blob, `Seed ${seed}`, () => this.acts.seed(seed)));
      } catch (error) {
        return this.acts.tell(/** @type {Error} */ (error).message);
      }
    }
  }

  /** @param {Part} part @param {string} prompt */
  _keep(part, prompt) {
    const blob = new Blob([/** @type {any} */ (part.data)], { type: part.mime });
    const strip = $("shelf-earlier");
    strip.prepend(thumb(blob, `${prompt || "Picture"}: put it on the canvas`, () => this.acts.onto(blob)));
    while (strip.children.length > KEPT) forget(strip.lastElementChild);
  }
}

/** @param {Blob} blob @param {string} title @param {() => void} onclick */
function thumb(blob, title, onclick) {
  const made = Object.assign(document.createElement("button"), { className: "thumb", title, onclick });
  made.setAttribute("aria-label", title);
  made.append(Object.assign(new Image(), { src: URL.createObjectURL(blob), alt: "" }));
  return made;
}

/** @param {Element} box */
const clear = (box) => [...box.children].forEach(forget);

/** @param {Element} made */
function forget(made) {
  URL.revokeObjectURL(made.querySelector("img")?.src ?? "");
  made.remove();
}
