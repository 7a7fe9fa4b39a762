// The Draw tab: a canvas of three layers (photo, ink, region). Strokes are painted at once; nothing here waits.
// A layer that the history holds is never painted on again: a stroke begins with a copy of the layers it will change.

const SIZE = 512;
const UNDO = 40;
const COLOURS = {
  "#1d1b22": "black", "#ffffff": "white", "#e5484d": "red", "#f5a524": "orange", "#ffd84d": "yellow", "#46a758": "green",
  "#3b82f6": "blue", "#8b5cf6": "violet", "#ec6ea0": "pink", "#8b5e3c": "brown",
};

/** @typedef {"photo"|"ink"|"region"} Name */
/** @typedef {Record<Name, HTMLCanvasElement | null>} Layers  null: there is nothing on it */
/** @typedef {{x: number, y: number}} Point */

/** @type {Name[]} */
const NAMES = ["photo", "ink", "region"];
/** @type {Layers} */
const NOTHING = { photo: null, ink: null, region: null };

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const layer = (size = SIZE) => Object.assign(document.createElement("canvas"), { width: size, height: size });
/** @param {HTMLCanvasElement} c */
const pen = (c) => /** @type {CanvasRenderingContext2D} */ (c.getContext("2d", { willReadFrequently: true }));
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
const blank = (c) => !new Uint32Array(pen(c).getImageData(0, 0, SIZE, SIZE).data.buffer).some((v) => v);

export class Draw {
  /** @param {(stamp: number) => void} changed @param {(sentence: string) => void} complain */
  constructor(changed, complain) {
    this.changed = changed;
    this.complain = complain;
    this.view = $("canvas");
    this.veil = layer();
    this.small = layer(1);
    this.layers = NOTHING;
    this.shown = { photo: true, ink: true, region: true };
    /** @type {Layers[]} */
    this.past = [];
    /** @type {Layers[]} */
    this.future = [];
    this.tool = "brush";
    this.colour = "#e5484d";
    this.width = 36;
    /** @type {null | {base: Layers, path: Path2D, points: number, width: number, last: Point, middle: Point}} */
    this.stroke = null;
    this.at = { x: SIZE / 2, y: SIZE / 2 };
    this._palette();
    this._pointer();
    this._buttons();
    this._keys();
    this._show();
  }

  get empty() {
    return NAMES.every((name) => !this.layers[name]);
  }

  // strokes

  /** @param {Point} at @param {number} pressure @param {number} stamp */
  begin(at, pressure, stamp) {
    this._remember();
    const base = this.layers;
    const next = { ...base };
    for (const name of this._touched()) {
      next[name] = layer();
      this._reveal(name);
    }
    this.layers = next;
    this.stroke = { base, path: trail(at), points: 0, width: this._broad(pressure), last: at, middle: at };
    this.move(at, pressure, stamp);
  }

  /** On to the middle between the last two points, bent by the last: corners come out round. @param {Point} to
   * @param {number} pressure @param {number} stamp */
  move(to, pressure, stamp) {
    const s = this.stroke;
    if (!s) return;
    const width = this._broad(pressure);
    if (width !== s.width || s.points >= 200) {
      const base = { ...this.layers };
      for (const name of this._touched()) base[name] = copy(base[name]);
      Object.assign(s, { base, path: trail(s.middle), points: 0, width });
    }
    const next = { x: (s.last.x + to.x) / 2, y: (s.last.y + to.y) / 2 };
    s.path.quadraticCurveTo(s.last.x, s.last.y, next.x, next.y + 0.01);
    this.stroke = { ...s, last: to, middle: next, points: s.points + 1 };
    this._ink();
    this._touch(stamp);
  }

  /** @param {number} stamp */
  end(stamp) {
    if (!this.stroke) return;
    this.stroke.path.lineTo(this.stroke.last.x, this.stroke.last.y);
    this._ink();
    this.stroke = null;
    if (this.tool === "eraser") {
      for (const name of this._touched()) {
        const c = this.layers[name];
        if (c && blank(c)) this.layers = { ...this.layers, [name]: null };
      }
    }
    this._touch(stamp);
  }

  /** The layers that the tool works on. @returns {Name[]} */
  _touched() {
    if (this.tool === "eraser") return /** @type {Name[]} */ (["ink", "region"]).filter((name) => this.layers[name]);
    return [this.tool === "region" ? "region" : "ink"];
  }

  /** @param {number} pressure of a pen; 0 and 0.5 come from what has none */
  _broad(pressure) {
    return this.width * (pressure && pressure !== 0.5 ? 0.4 + 1.2 * pressure : 1);
  }

  /** The stroke as one line over what was there before it: pieces would show where they meet. */
  _ink() {
    const s = this.stroke;
    if (!s) return;
    for (const name of this._touched()) {
      const c = pen(/** @type {HTMLCanvasElement} */ (this.layers[name]));
      c.globalCompositeOperation = "source-over";
      c.clearRect(0, 0, SIZE, SIZE);
      if (s.base[name]) c.drawImage(/** @type {HTMLCanvasElement} */ (s.base[name]), 0, 0);
      c.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
      c.strokeStyle = name === "region" ? "#fff" : this.colour;
      c.lineWidth = s.width;
      c.lineCap = c.lineJoin = "round";
      c.stroke(s.path);
    }
  }

  /** @param {number} stamp */
  _touch(stamp) {
    this._show();
    this.changed(stamp);
  }

  // layers and history

  _remember() {
    this.past.push(this.layers);
    if (this.past.length > UNDO) this.past.shift();
    this.future = [];
  }

  /** @param {Layers[]} from @param {Layers[]} to */
  _step(from, to) {
    const state = from.pop();
    if (!state) return;
    to.push(this.layers);
    this.layers = state;
    this.stroke = null;
    this._touch(performance.now());
  }

  undo() {
    this._step(this.past, this.future);
  }

  redo() {
    this._step(this.future, this.past);
  }

  clear() {
    if (this.empty) return;
    this._remember();
    this.layers = NOTHING;
    this.stroke = null;
    this._touch(performance.now());
  }

  /** A picture onto its layer, filling the square. @param {Blob} source */
  async place(source) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(source);
    } catch {
      return this.complain("This file is not a picture that the browser can read: use PNG, JPEG or WebP.");
    }
    const scale = Math.max(SIZE / bitmap.width, SIZE / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    this._remember();
    const photo = layer();
    pen(photo).imageSmoothingQuality = "high";
    pen(photo).drawImage(bitmap, (SIZE - w) / 2, (SIZE - h) / 2, w, h);
    this.layers = { ...this.layers, photo };
    this._reveal("photo");
    this._touch(performance.now());
  }

  /** @param {Name} name @param {boolean} on */
  _reveal(name, on = true) {
    this.shown[name] = on;
    $(`layer-${name}`).setAttribute("aria-pressed", String(on));
  }

  /** @param {Name} name @returns {HTMLCanvasElement | null} what is to be seen of a layer */
  _seen(name) {
    return this.shown[name] ? this.layers[name] : null;
  }

  /** @param {CanvasRenderingContext2D} c @param {number} size */
  _compose(c, size) {
    c.globalCompositeOperation = "source-over";
    c.fillStyle = "#fff";
    c.fillRect(0, 0, size, size);
    c.imageSmoothingQuality = "high";
    for (const name of /** @type {Name[]} */ (["photo", "ink"])) {
      const seen = this._seen(name);
      if (seen) c.drawImage(seen, 0, 0, size, size);
    }
  }

  _show() {
    const c = pen(this.view);
    this._compose(c, SIZE);
    const region = this._seen("region");
    if (region) {
      const v = pen(this.veil);
      v.globalCompositeOperation = "copy";
      v.drawImage(region, 0, 0);
      v.globalCompositeOperation = "source-in";
      v.fillStyle = "#ff7a59";
      v.fillRect(0, 0, SIZE, SIZE);
      c.globalAlpha = 0.38;
      c.drawImage(this.veil, 0, 0);
      c.globalAlpha = 1;
    }
    $("undo").disabled = !this.past.length;
    $("redo").disabled = !this.future.length;
    $("clear").disabled = this.empty;
    for (const name of NAMES) $(`layer-${name}`).disabled = !this.layers[name];
    $("canvas-empty").hidden = !this.empty;
  }

  /** The parts of a request at the model's size. @param {number} size */
  parts(size) {
    if (this.small.width !== size) this.small = layer(size);
    const c = pen(this.small);
    /** @param {string} name */
    const part = (name) => {
      const data = new Uint8Array(c.getImageData(0, 0, size, size).data.buffer);
      return { name, mime: "pixels/rgba", data, width: size, height: size };
    };
    this._compose(c, size);
    const parts = [part("image")];
    const region = this._seen("region");
    if (region) {
      c.fillStyle = "#000";
      c.fillRect(0, 0, size, size);
      c.drawImage(region, 0, 0, size, size);
      parts.push(part("mask"));
    }
    return parts;
  }

  // pointer and keys

  _pointer() {
    const { view } = this;
    /** @type {number | null} */
    let finger = null; // the one that draws; a second one is left alone
    const place = (/** @type {PointerEvent} */ e) => {
      const box = view.getBoundingClientRect();
      return { x: ((e.clientX - box.left) / box.width) * SIZE, y: ((e.clientY - box.top) / box.height) * SIZE };
    };
    view.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => {
      if (e.button || finger !== null) return;
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
        if (e.pointerId !== finger) return;
        finger = null;
        this.end(e.timeStamp);
        if (e.pointerType === "touch") $("pen").hidden = true;
        else this._ring(place(e), false);
      });
    }
    view.addEventListener("pointerleave", () => finger === null && ($("pen").hidden = true));
  }

  /** The outline of the brush where it would paint. @param {Point} at @param {boolean} down */
  _ring(at, down) {
    const mark = $("pen");
    const scale = this.view.clientWidth / SIZE;
    const width = Math.max(6, this.width * scale);
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
        const within = (/** @type {number} */ v) => Math.min(SIZE, Math.max(0, v));
        this.at = { x: within(this.at.x + way[0] * step), y: within(this.at.y + way[1] * step) };
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
    if (mod && key === "z") e.shiftKey ? this.redo() : this.undo();
    else if (mod && key === "y") this.redo();
    else if (mod || e.altKey) return false;
    else if (key === "b" || key === "e" || key === "r") this.use({ b: "brush", e: "eraser", r: "region" }[key]);
    else if (key === "[" || key === "]") {
      this.width = Math.min(120, Math.max(4, this.width + (key === "]" ? 6 : -6)));
      $("brush").value = String(this.width);
    } else return false;
    return true;
  }

  // controls

  /** @param {string} tool */
  use(tool) {
    this.end(performance.now());
    this.tool = tool;
    choose(document.querySelectorAll("[data-tool]"), (b) => b.dataset.tool === tool);
  }

  _palette() {
    const box = $("swatches");
    /** @param {string} colour @param {Element} chosen */
    const pick = (colour, chosen) => {
      this.colour = colour;
      if (this.tool === "eraser") this.use("brush");
      choose(box.children, (b) => b === chosen);
    };
    for (const [colour, name] of Object.entries(COLOURS)) {
      const b = Object.assign(document.createElement("button"), { title: name, onclick: () => pick(colour, b) });
      b.style.background = colour;
      b.setAttribute("role", "radio");
      b.setAttribute("aria-label", name);
      box.append(b);
    }
    const own = Object.assign(document.createElement("input"), { type: "color", value: "#00c2a8", title: "Another colour" });
    own.setAttribute("aria-label", "Another colour");
    own.oninput = own.onclick = () => pick(own.value, own);
    box.append(own);
    choose(box.children, (b) => b.title === COLOURS["#e5484d"]);
  }

  _buttons() {
    for (const b of document.querySelectorAll("[data-tool]")) {
      const button = /** @type {HTMLElement} */ (b);
      button.onclick = () => this.use(button.dataset.tool ?? "brush");
    }
    $("brush").oninput = (/** @type {any} */ e) => (this.width = Number(e.target.value));
    $("undo").onclick = () => this.undo();
    $("redo").onclick = () => this.redo();
    $("clear").onclick = () => this.clear();
    $("open").onclick = () => $("file").click();
    $("file").onchange = (/** @type {any} */ e) => {
      if (e.target.files[0]) this.place(e.target.files[0]);
      e.target.value = ""; // so that the same file can be opened again
    };
    for (const name of NAMES) {
      $(`layer-${name}`).onclick = () => {
        this._reveal(name, !this.shown[name]);
        this._touch(performance.now());
      };
    }
  }
}

/** Of several radio buttons one is checked, and is the one that Tab comes to. @param {Iterable<any>} buttons
 * @param {(b: any) => boolean} is */
function choose(buttons, is) {
  const all = [...buttons];
  const radios = all.filter((b) => b.getAttribute("role") === "radio");
  for (const b of all) b.dataset.chosen = String(is(b));
  for (const b of radios) {
    b.setAttribute("aria-checked", String(is(b)));
    b.tabIndex = b === (radios.find(is) ?? radios[0]) ? 0 : -1;
  }
}
