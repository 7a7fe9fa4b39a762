// The Draw tab: a canvas of three layers (picture, ink, region). Strokes are painted at once; nothing here waits.

const SIZE = 512;
const UNDO = 40;
const COLOURS = ["#1d1b22", "#ffffff", "#e5484d", "#f5a524", "#ffd84d", "#46a758", "#3b82f6", "#8b5cf6", "#ec6ea0", "#8b5e3c"];

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const layer = () => Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE });
/** @param {HTMLCanvasElement} c */
const pen = (c) => /** @type {CanvasRenderingContext2D} */ (c.getContext("2d", { willReadFrequently: true }));

export class Draw {
  /** @param {(stamp: number) => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.view = $("canvas");
    this.photo = layer();
    this.ink = layer();
    this.region = layer();
    this.tool = "brush";
    this.colour = COLOURS[2];
    this.width = 36;
    this.hasPhoto = this.hasRegion = false;
    this.shown = { photo: true, ink: true };
    /** @type {ImageData[][]} */
    this.past = [];
    /** @type {ImageData[][]} */
    this.future = [];
    this.at = { x: SIZE / 2, y: SIZE / 2, down: false };
    this._palette();
    this._pointer();
    this._buttons();
    this._keys();
    this.paint();
  }

  get empty() {
    return !this.hasPhoto && !this.past.length;
  }

  // strokes

  _pointer() {
    const { view } = this;
    /** @type {null | {x: number, y: number}} */
    let last = null;
    const place = (/** @type {PointerEvent} */ e) => {
      const box = view.getBoundingClientRect();
      return { x: ((e.clientX - box.left) / box.width) * SIZE, y: ((e.clientY - box.top) / box.height) * SIZE };
    };
    view.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => {
      if (e.button) return;
      view.setPointerCapture(e.pointerId);
      this.remember();
      last = place(e);
      this.stroke(last, last, e.pressure, e.timeStamp);
    });
    view.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => {
      if (!last) return;
      for (const part of e.getCoalescedEvents?.().length ? e.getCoalescedEvents() : [e]) {
        const next = place(part);
        this.stroke(last, next, part.pressure, e.timeStamp);
        last = next;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => (last = null));
  }

  /** @param {{x: number, y: number}} from @param {{x: number, y: number}} to @param {number} pressure @param {number} stamp */
  stroke(from, to, pressure, stamp) {
    const target = this.tool === "region" ? this.region : this.ink;
    const c = pen(target);
    c.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
    c.strokeStyle = this.tool === "region" ? "#fff" : this.colour;
    c.lineWidth = this.width * (pressure && pressure !== 0.5 ? 0.4 + 1.2 * pressure : 1);
    c.lineCap = c.lineJoin = "round";
    c.beginPath();
    c.moveTo(from.x, from.y);
    c.lineTo(to.x + 0.01, to.y);
    c.stroke();
    if (this.tool === "eraser") {
      const r = pen(this.region);
      r.globalCompositeOperation = "destination-out";
      r.lineWidth = c.lineWidth;
      r.lineCap = "round";
      r.beginPath();
      r.moveTo(from.x, from.y);
      r.lineTo(to.x + 0.01, to.y);
      r.stroke();
    }
    this.hasRegion ||= this.tool === "region";
    this._touch(stamp);
  }

  /** @param {number} stamp */
  _touch(stamp) {
    this.paint();
    this.changed(stamp);
  }

  // layers and history

  _grab() {
    return [this.ink, this.region].map((c) => pen(c).getImageData(0, 0, SIZE, SIZE));
  }

  remember() {
    this.past.push(this._grab());
    if (this.past.length > UNDO) this.past.shift();
    this.future = [];
    this._enable();
  }

  /** @param {ImageData[][]} from @param {ImageData[][]} to */
  _step(from, to) {
    const state = from.pop();
    if (!state) return;
    to.push(this._grab());
    [this.ink, this.region].forEach((c, i) => pen(c).putImageData(state[i], 0, 0));
    this.hasRegion = state[1].data.some((v, i) => i % 4 === 3 && v);
    this._enable();
    this._touch(performance.now());
  }

  undo() {
    this._step(this.past, this.future);
  }

  redo() {
    this._step(this.future, this.past);
  }

  clear() {
    this.remember();
    for (const c of [this.ink, this.region, this.photo]) pen(c).clearRect(0, 0, SIZE, SIZE);
    this.hasPhoto = this.hasRegion = false;
    this._enable();
    this._touch(performance.now());
  }

  /** @param {ImageBitmapSource} source */
  async place(source) {
    const bitmap = await createImageBitmap(source);
    const scale = Math.max(SIZE / bitmap.width, SIZE / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    pen(this.photo).drawImage(bitmap, (SIZE - w) / 2, (SIZE - h) / 2, w, h);
    this.hasPhoto = true;
    this._enable();
    this._touch(performance.now());
  }

  /** @param {CanvasRenderingContext2D} c @param {number} size */
  compose(c, size) {
    c.globalCompositeOperation = "source-over";
    c.fillStyle = "#fff";
    c.fillRect(0, 0, size, size);
    c.imageSmoothingQuality = "high";
    if (this.shown.photo) c.drawImage(this.photo, 0, 0, size, size);
    if (this.shown.ink) c.drawImage(this.ink, 0, 0, size, size);
  }

  paint() {
    const c = pen(this.view);
    this.compose(c, SIZE);
    if (!this.hasRegion) return;
    const veil = layer();
    const v = pen(veil);
    v.drawImage(this.region, 0, 0);
    v.globalCompositeOperation = "source-in";
    v.fillStyle = "#ff7a59";
    v.fillRect(0, 0, SIZE, SIZE);
    c.globalAlpha = 0.38;
    c.drawImage(veil, 0, 0);
    c.globalAlpha = 1;
  }

  /** The parts of a request at the model's size. @param {number} size */
  parts(size) {
    const small = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const c = pen(small);
    this.compose(c, size);
    const read = () => new Uint8Array(c.getImageData(0, 0, size, size).data.buffer);
    const parts = [{ name: "image", mime: "pixels/rgba", data: read(), width: size, height: size }];
    if (this.hasRegion) {
      c.fillStyle = "#000";
      c.fillRect(0, 0, size, size);
      c.drawImage(this.region, 0, 0, size, size);
      parts.push({ name: "mask", mime: "pixels/rgba", data: read(), width: size, height: size });
    }
    return parts;
  }

  // controls

  /** @param {string} tool */
  use(tool) {
    this.tool = tool;
    for (const b of document.querySelectorAll("[data-tool]")) {
      b.setAttribute("aria-checked", String(/** @type {HTMLElement} */ (b).dataset.tool === tool));
    }
  }

  _palette() {
    const box = $("swatches");
    /** @param {string} colour @param {Element} chosen */
    const pick = (colour, chosen) => {
      this.colour = colour;
      if (this.tool === "eraser") this.use("brush");
      for (const b of box.children) b.setAttribute("aria-checked", String(b === chosen));
    };
    for (const colour of COLOURS) {
      const b = document.createElement("button");
      b.style.background = colour;
      b.setAttribute("role", "radio");
      b.setAttribute("aria-label", `Colour ${colour}`);
      b.setAttribute("aria-checked", String(colour === this.colour));
      b.onclick = () => pick(colour, b);
      box.append(b);
    }
    const own = Object.assign(document.createElement("input"), { type: "color", value: "#00c2a8", title: "Another colour" });
    own.setAttribute("aria-label", "Another colour");
    own.oninput = () => pick(own.value, own);
    box.append(own);
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
    $("open").onchange = (/** @type {any} */ e) => e.target.files[0] && this.place(e.target.files[0]);
    $("open-label").onkeydown = (/** @type {KeyboardEvent} */ e) => (e.key === "Enter" || e.key === " ") && $("open").click();
    for (const name of /** @type {const} */ (["photo", "ink"])) {
      const b = $(`layer-${name}`);
      b.onclick = () => {
        this.shown[name] = !this.shown[name];
        b.setAttribute("aria-pressed", String(this.shown[name]));
        this._touch(performance.now());
      };
    }
    addEventListener("paste", (e) => {
      const file = [...(e.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/"));
      if (file) this.place(file);
    });
    this.view.addEventListener("dragover", (/** @type {DragEvent} */ e) => e.preventDefault());
    this.view.addEventListener("drop", (/** @type {DragEvent} */ e) => {
      e.preventDefault();
      const file = e.dataTransfer?.files[0];
      if (file) this.place(file);
    });
    this._enable();
  }

  _enable() {
    $("undo").disabled = !this.past.length;
    $("redo").disabled = !this.future.length;
    $("layer-photo").disabled = !this.hasPhoto;
  }

  _keys() {
    const mark = $("pen");
    const show = () => {
      mark.hidden = document.activeElement !== this.view || !this.keyed;
      mark.dataset.down = String(this.at.down);
      mark.style.left = `${(this.at.x / SIZE) * 100}%`;
      mark.style.top = `${(this.at.y / SIZE) * 100}%`;
    };
    this.view.addEventListener("blur", show);
    this.view.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
      /** @type {Record<string, number[]>} */
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (e.key === " ") {
        this.at.down = !this.at.down;
        if (this.at.down) {
          this.remember();
          this.stroke(this.at, this.at, 0, e.timeStamp);
        }
      } else if (moves[e.key]) {
        const from = { ...this.at };
        const step = e.shiftKey ? 4 : 14;
        this.at.x = Math.min(SIZE, Math.max(0, this.at.x + moves[e.key][0] * step));
        this.at.y = Math.min(SIZE, Math.max(0, this.at.y + moves[e.key][1] * step));
        if (this.at.down) this.stroke(from, this.at, 0, e.timeStamp);
      } else return;
      this.keyed = true;
      e.preventDefault();
      show();
    });
  }

  /** @param {KeyboardEvent} e @returns {boolean} whether the key was one of this tab's */
  key(e) {
    const mod = e.ctrlKey || e.metaKey;
    const key = e.key.toLowerCase();
    if (mod && key === "z") e.shiftKey ? this.redo() : this.undo();
    else if (mod) return false;
    else if (key === "b" || key === "e" || key === "r") this.use({ b: "brush", e: "eraser", r: "region" }[key]);
    else if (key === "[" || key === "]") {
      this.width = Math.min(120, Math.max(4, this.width + (key === "]" ? 6 : -6)));
      $("brush").value = String(this.width);
    } else return false;
    return true;
  }
}
