// The time-lapse of a drawing: its results in order, as they came, with their watermark. If there are too many, every second one is dropped.

const MOST = 240;
const PER_SECOND = 15;
const SIDE = 512; // the longer one
const LAST_SHOWN = 15; // the last result is shown for this many frames

export class Lapse {
  constructor() {
    /** @type {import("./wire.js").Part[]} */
    this.parts = [];
    this.every = 1; // one of this many pictures is kept
    this._seen = 0;
    this._id = 0;
  }

  /** @param {number} id of the picture; a new session counts from the start, and begins a new film @param {import("./wire.js").Part} part */
  add(id, part) {
    if (id < this._id) Object.assign(this, { parts: [], every: 1, _seen: 0 });
    this._id = id;
    this._seen += 1;
    if (this._seen % this.every) return;
    this.parts.push(part);
    if (this.parts.length <= MOST) return;
    this.parts = this.parts.filter((_, i) => i % 2);
    this.every *= 2;
  }

  /** Record the film; this takes as long as the film plays. */
  film() {
    const kind = globalThis.MediaRecorder && ["video/webm;codecs=vp8", "video/webm", "video/mp4"].find((k) => MediaRecorder.isTypeSupported(k));
    if (!kind) return null;
    const frames = [...this.parts, ...Array(LAST_SHOWN).fill(this.parts[this.parts.length - 1])];
    return { seconds: frames.length / PER_SECOND, done: this._play(frames, kind) };
  }

  /** @param {import("./wire.js").Part[]} frames @param {string} kind */
  async _play(frames, kind) {
    const first = await createImageBitmap(new Blob([/** @type {any} */ (frames[0].data)], { type: frames[0].mime }));
    const scale = SIDE / Math.max(first.width, first.height);
    const [width, height] = [Math.round(first.width * scale), Math.round(first.height * scale)];
    first.close();
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const c = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    c.imageSmoothingQuality = "high";
    const recorder = new MediaRecorder(canvas.captureStream(PER_SECOND), { mimeType: kind, videoBitsPerSecond: 4_000_000 });
    /** @type {Blob[]} */
    const chunks = [];
    recorder.ondataavailable = (e) => e.data.size && chunks.push(e.data);
    const over = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.start(500);
    for (const part of frames) {
      const due = new Promise((resolve) => setTimeout(resolve, 1000 / PER_SECOND));
      const bitmap = await createImageBitmap(new Blob([/** @type {any} */ (part.data)], { type: part.mime }));
      c.drawImage(bitmap, 0, 0, width, height);
      bitmap.close();
      await due;
    }
    recorder.stop();
    await over;
    return { blob: new Blob(chunks, { type: kind }), ending: kind.includes("mp4") ? "mp4" : "webm" };
  }
}
