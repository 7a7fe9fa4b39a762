// One stroke of brush, eraser or region on the layers. It is painted at once; nothing here waits.

import { layer, pen, sheet } from "./layers.js";

/** @typedef {{x: number, y: number}} Point */
/** @typedef {{tool: string, colour: string, width: number}} Brush */
/** @typedef {import("./layers.js").Layers} Layers */
/** @typedef {import("./layers.js").Name} Name */

const LONGEST = 200; // points of one path: every move draws the whole path again, and a longer one would take too long

/** @param {HTMLCanvasElement | null} c */
const copy = (c) => {
  const made = layer();
  if (c) pen(made).drawImage(c, 0, 0);
  return made;
};
/** @param {Point} from */
const trail = (from) => {
  const path = new Path2D();
  path.moveTo(from.x, from.y);
  return path;
};
/** @param {HTMLCanvasElement} c */
const blank = (c) => !new Uint32Array(pen(c).getImageData(0, 0, sheet.width, sheet.height).data.buffer).some((v) => v);

export class Stroke {
  /** @param {Layers} layers @param {Brush} brush @param {Point} at @param {number} pressure */
  constructor(layers, brush, at, pressure) {
    this.layers = layers;
    this.brush = brush;
    this.base = layers.now;
    const erased = /** @type {Name[]} */ (["ink", "region"]).filter((name) => this.base[name]);
    /** @type {Name[]} the layers that the tool works on */
    this.touched = brush.tool === "eraser" ? erased : [brush.tool === "region" ? "region" : "ink"];
    layers.change(Object.fromEntries(this.touched.map((name) => [name, layer()])));
    for (const name of this.touched) layers.shown[name] = true;
    this.path = trail(at);
    this.points = 0;
    this.width = this._broad(pressure);
    this.last = this.middle = at;
    this.move(at, pressure);
  }

  /** Extend the stroke to the middle between the last two points, as a curve that the last point bends: corners become round. @param {Point} to
   * @param {number} pressure */
  move(to, pressure) {
    const width = this._broad(pressure);
    if (width !== this.width || this.points >= LONGEST) {
      this.base = { ...this.layers.now };
      for (const name of this.touched) this.base[name] = copy(this.base[name]);
      this.path = trail(this.middle);
      this.points = 0;
      this.width = width;
    }
    this.middle = { x: (this.last.x + to.x) / 2, y: (this.last.y + to.y) / 2 };
    this.path.quadraticCurveTo(this.last.x, this.last.y, this.middle.x, this.middle.y + 0.01);
    this.last = to;
    this.points += 1;
    this._paint();
  }

  end() {
    this.path.lineTo(this.last.x, this.last.y);
    this._paint();
    if (this.brush.tool !== "eraser") return;
    for (const name of this.touched) {
      const c = this.layers.now[name];
      if (c && blank(c)) this.layers.now = { ...this.layers.now, [name]: null };
    }
  }

  /** @param {number} pressure of a pen; devices without pressure send 0 or 0.5 */
  _broad(pressure) {
    return this.brush.width * (pressure && pressure !== 0.5 ? 0.4 + 1.2 * pressure : 1);
  }

  /** Paint the stroke as one line over the layer as it was before: separate pieces would show where they meet. */
  _paint() {
    for (const name of this.touched) {
      const c = pen(/** @type {HTMLCanvasElement} */ (this.layers.now[name]));
      c.globalCompositeOperation = "source-over";
      c.clearRect(0, 0, sheet.width, sheet.height);
      const base = this.base[name];
      if (base) c.drawImage(base, 0, 0);
      c.globalCompositeOperation = this.brush.tool === "eraser" ? "destination-out" : "source-over";
      c.strokeStyle = name === "region" ? "#fff" : this.brush.colour;
      c.lineWidth = this.width;
      c.lineCap = c.lineJoin = "round";
      c.stroke(this.path);
    }
  }
}
