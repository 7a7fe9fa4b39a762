// The canvas's three layers (photo, ink, region) and their history. Nothing here knows the page.
// A layer in the history never changes: each stroke first copies the layers that it will paint on.

const LONGER = 512; // the longer side of a layer, in pixels
/** Width and height of every layer, in the shape of the model's pictures. Only `shape` changes it. */
export const sheet = { width: LONGER, height: LONGER };
const UNDO = 40;

/** @typedef {"photo"|"ink"|"region"} Name */
/** @typedef {Record<Name, HTMLCanvasElement | null>} State  null: an empty layer */

/** @type {Name[]} */
export const NAMES = ["photo", "ink", "region"];
/** @type {State} */
const NOTHING = { photo: null, ink: null, region: null };

export const layer = (width = sheet.width, height = sheet.height) => Object.assign(document.createElement("canvas"), { width, height });
/** @param {HTMLCanvasElement} c */
export const pen = (c) => /** @type {CanvasRenderingContext2D} */ (c.getContext("2d", { willReadFrequently: true }));

/** Give all layers to come the shape of the model's pictures. @param {number} width @param {number} height of a picture
 * @returns {boolean} whether it is another shape than before */
export function shape(width, height) {
  const scale = LONGER / Math.max(width, height);
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  const other = w !== sheet.width || h !== sheet.height;
  Object.assign(sheet, { width: w, height: h });
  return other;
}

/** A layer filled by a picture: nothing is stretched, and what is too wide or too high is cut off on both sides. @param {CanvasImageSource} picture
 * @param {number} width @param {number} height of the picture */
export function filled(picture, width, height) {
  const scale = Math.max(sheet.width / width, sheet.height / height);
  const [w, h] = [width * scale, height * scale];
  const made = layer();
  pen(made).imageSmoothingQuality = "high";
  pen(made).drawImage(picture, (sheet.width - w) / 2, (sheet.height - h) / 2, w, h);
  return made;
}

export class Layers {
  constructor() {
    this.now = NOTHING;
    this.shown = { photo: true, ink: true, region: true };
    /** @type {State[]} */
    this.past = [];
    /** @type {State[]} */
    this.future = [];
    this._veil = layer();
    this._small = layer(1, 1);
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

  /** Put a picture onto its layer so that it fills it. @param {ImageBitmap} bitmap */
  place(bitmap) {
    this.change({ photo: filled(bitmap, bitmap.width, bitmap.height) });
    this.shown.photo = true;
  }

  /** Bring what there is to the sheet's new shape; Undo does not go further back. */
  refit() {
    const names = NAMES.map((name) => {
      const c = this.now[name];
      return [name, c && filled(c, c.width, c.height)];
    });
    this.now = /** @type {State} */ (Object.fromEntries(names));
    this.past = [];
    this.future = [];
    this._veil = layer();
  }

  /** Restore a state from before a reload; Undo does not go further back. @param {State} state @param {Partial<Record<Name, boolean>>} shown */
  restore(state, shown) {
    this.now = state;
    for (const name of NAMES) this.shown[name] = shown[name] !== false;
  }

  /** @param {CanvasRenderingContext2D} c @param {number} width @param {number} height */
  _compose(c, width, height) {
    c.globalCompositeOperation = "source-over";
    c.fillStyle = "#fff";
    c.fillRect(0, 0, width, height);
    c.imageSmoothingQuality = "high";
    for (const name of /** @type {Name[]} */ (["photo", "ink"])) {
      const seen = this.seen(name);
      if (seen) c.drawImage(seen, 0, 0, width, height);
    }
  }

  /** Paint all layers onto the visible canvas, the region as a translucent cover. @param {HTMLCanvasElement} view */
  show(view) {
    const c = pen(view);
    this._compose(c, sheet.width, sheet.height);
    const region = this.seen("region");
    if (!region) return;
    const v = pen(this._veil);
    v.globalCompositeOperation = "copy";
    v.drawImage(region, 0, 0);
    v.globalCompositeOperation = "source-in";
    v.fillStyle = "#ff7a59";
    v.fillRect(0, 0, sheet.width, sheet.height);
    c.globalAlpha = 0.38;
    c.drawImage(this._veil, 0, 0);
    c.globalAlpha = 1;
  }

  /** The parts of a request at the model's size. @param {number} width @param {number} height */
  parts(width, height) {
    if (this._small.width !== width || this._small.height !== height) this._small = layer(width, height);
    const c = pen(this._small);
    /** @param {string} name */
    const part = (name) => {
      const data = new Uint8Array(c.getImageData(0, 0, width, height).data.buffer);
      return { name, mime: "pixels/rgba", data, width, height };
    };
    this._compose(c, width, height);
    const parts = [part("image")];
    const region = this.seen("region");
    if (region) {
      c.fillStyle = "#000";
      c.fillRect(0, 0, width, height);
      c.drawImage(region, 0, 0, width, height);
      parts.push(part("mask"));
    }
    return parts;
  }
}
