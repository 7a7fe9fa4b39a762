// The canvas's three layers (photo, ink, region) and their history. Nothing here knows the page.
// A layer in the history never changes: each stroke first copies the layers that it will paint on.

export const SIZE = 512;
const UNDO = 40;

/** @typedef {"photo"|"ink"|"region"} Name */
/** @typedef {Record<Name, HTMLCanvasElement | null>} State  null: an empty layer */

/** @type {Name[]} */
export const NAMES = ["photo", "ink", "region"];
/** @type {State} */
const NOTHING = { photo: null, ink: null, region: null };

export const layer = (size = SIZE) => Object.assign(document.createElement("canvas"), { width: size, height: size });
/** @param {HTMLCanvasElement} c */
export const pen = (c) => /** @type {CanvasRenderingContext2D} */ (c.getContext("2d", { willReadFrequently: true }));

export class Layers {
  constructor() {
    this.now = NOTHING;
    this.shown = { photo: true, ink: true, region: true };
    /** @type {State[]} */
    this.past = [];
    /** @type {State[]} */
    this.future = [];
    this._veil = layer();
    this._small = layer(1);
  }

  get empty() {
    return NAMES.every((name) => !this.now[name]);
  }

  /** The layer, or null if it is empty or hidden. @param {Name} name */
  seen(name) {
    return this.shown[name] ? this.now[name] : null;
  }

  /** Change the state; Undo takes it back. @param {Partial<State>} changed */
  change(changed) {
    this.past.push(this.now);
    if (this.past.length > UNDO) this.past.shift();
    this.future = [];
    this.now = { ...this.now, ...changed };
  }

  undo() {
    return this._step(this.past, this.future);
  }

  redo() {
    return this._step(this.future, this.past);
  }

  /** @param {State[]} from @param {State[]} to @returns {boolean} whether there was a step to take */
  _step(from, to) {
    const state = from.pop();
    if (!state) return false;
    to.push(this.now);
    this.now = state;
    return true;
  }

  /** @returns {boolean} whether there was something */
  clear() {
    const some = !this.empty;
    if (some) this.change(NOTHING);
    return some;
  }

  /** Put a picture onto its layer so that it fills the square. @param {ImageBitmap} bitmap */
  place(bitmap) {
    const scale = Math.max(SIZE / bitmap.width, SIZE / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    const photo = layer();
    pen(photo).imageSmoothingQuality = "high";
    pen(photo).drawImage(bitmap, (SIZE - w) / 2, (SIZE - h) / 2, w, h);
    this.change({ photo });
    this.shown.photo = true;
  }

  /** Restore a state from before a reload; Undo does not go further back. @param {State} state @param {Partial<Record<Name, boolean>>} shown */
  restore(state, shown) {
    this.now = state;
    for (const name of NAMES) this.shown[name] = shown[name] !== false;
  }

  /** @param {CanvasRenderingContext2D} c @param {number} size */
  _compose(c, size) {
    c.globalCompositeOperation = "source-over";
    c.fillStyle = "#fff";
    c.fillRect(0, 0, size, size);
    c.imageSmoothingQuality = "high";
    for (const name of /** @type {Name[]} */ (["photo", "ink"])) {
      const seen = this.seen(name);
      if (seen) c.drawImage(seen, 0, 0, size, size);
    }
  }

  /** Paint all layers onto the visible canvas, the region as a translucent cover. @param {HTMLCanvasElement} view */
  show(view) {
    const c = pen(view);
    this._compose(c, SIZE);
    const region = this.seen("region");
    if (!region) return;
    const v = pen(this._veil);
    v.globalCompositeOperation = "copy";
    v.drawImage(region, 0, 0);
    v.globalCompositeOperation = "source-in";
    v.fillStyle = "#ff7a59";
    v.fillRect(0, 0, SIZE, SIZE);
    c.globalAlpha = 0.38;
    c.drawImage(this._veil, 0, 0);
    c.globalAlpha = 1;
  }

  /** The parts of a request at the model's size. @param {number} size */
  parts(size) {
    if (this._small.width !== size) this._small = layer(size);
    const c = pen(this._small);
    /** @param {string} name */
    const part = (name) => {
      const data = new Uint8Array(c.getImageData(0, 0, size, size).data.buffer);
      return { name, mime: "pixels/rgba", data, width: size, height: size };
    };
    this._compose(c, size);
    const parts = [part("image")];
    const region = this.seen("region");
    if (region) {
      c.fillStyle = "#000";
      c.fillRect(0, 0, size, size);
      c.drawImage(region, 0, 0, size, size);
      parts.push(part("mask"));
    }
    return parts;
  }
}
