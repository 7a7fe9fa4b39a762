// The newest picture: shown, and handed out as a file.

import { $, offer, press } from "./dom.js";

/** @typedef {{header: Record<string, any>, part: import("./wire.js").Part, prompt: string, session: string, bitmap: ImageBitmap}} Shown */

export class Result {
  /** @param {import("./wire.js").Link} link @param {(sentence: string, good?: boolean) => void} tell */
  constructor(link, tell) {
    this.link = link;
    this.tell = tell;
    this.canvas = $("result");
    /** @type {Shown | null} */
    this.last = null;
    $("crisp").onclick = () => {
      press("crisp", this.canvas.classList.toggle("crisp"));
      this._paint();
    };
    $("save").onclick = () => this.save();
  }

  /** Show a picture, unless a newer one is here already. @param {Shown} made */
  show(made) {
    const { last } = this;
    if (last && last.session === made.session && made.header.id < last.header.id) return made.bitmap.close();
    last?.bitmap.close();
    this.last = made;
    this._paint();
    this.canvas.dataset.id = made.header.id;
    this.canvas.setAttribute("aria-label", made.prompt ? `Picture of ${made.prompt}` : "Picture without a prompt");
    $("save").disabled = false;
  }

  /** Enlarged by a whole factor, so that single pixels stay square. */
  _paint() {
    if (!this.last) return;
    const { canvas } = this;
    const { bitmap } = this.last;
    const side = bitmap.width * Math.max(1, Math.round(512 / bitmap.width));
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const c = canvas.getContext("2d");
    c.imageSmoothingEnabled = !canvas.classList.contains("crisp");
    c.imageSmoothingQuality = "high";
    c.drawImage(bitmap, 0, 0, side, side);
  }

  async save() {
    if (!this.last) return;
    const { id, seed, marks } = this.last.header;
    const format = $("format").value;
    try {
      offer(await this.link.file(id, { format }), `fewstep-${seed}.${format === "jpeg" ? "jpg" : format}`);
      this.tell(marks.credentials ? "Saved, with its content credentials." : "Saved, without content credentials.", marks.credentials);
    } catch (error) {
      this.tell(`Not saved: ${/** @type {Error} */ (error).message}.`);
    }
  }
}
