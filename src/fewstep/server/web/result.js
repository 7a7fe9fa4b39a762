// Shows the newest picture, and saves it as a file.

import { $, isOn, offer, press } from "./dom.js";

/** @typedef {{header: Record<string, any>, part: import("./wire.js").Part, prompt: string, session: string, bitmap: ImageBitmap}} Shown */

export class Result {
  /** @param {import("./wire.js").Link} link @param {(sentence: string, good?: boolean) => void} tell */
  constructor(link, tell) {
    this.link = link;
    this.tell = tell;
    this.canvas = $("result");
    /** @type {Shown | null} */
    this.last = null;
    this.newest = { id: 0, session: "" }; // the newest answer, a picture or an error
    $("crisp").onclick = () => {
      press("crisp", this.canvas.classList.toggle("crisp"));
      this._paint();
    };
    $("save").onclick = () => this.save();
    $("with-prompt").onclick = () => press("with-prompt");
  }

  /** @param {Record<string, any>} hello what the server can sign */
  meet({ marks, recordings }) {
    $("with-prompt").disabled = !marks?.credentials;
    if (recordings) $("camera-note").textContent = "Recordings are watermarked; their credentials come in a file beside them.";
  }

  /** Show a picture, unless a newer one is here already. @param {Shown} made */
  show(made) {
    if (!this._takes(made.header.id, made.session)) return made.bitmap.close();
    this.last?.bitmap.close();
    this.last = made;
    this._paint();
    this.canvas.dataset.id = made.header.id;
    this.canvas.setAttribute("aria-label", made.prompt ? `Picture of ${made.prompt}` : "Picture without a prompt");
    $("save").disabled = false;
  }

  /** Whether an answer is newer than what is here. @param {number} id @param {string} session */
  _takes(id, session) {
    if (session === this.newest.session && id < this.newest.id) return false;
    this.newest = { id, session };
    return true;
  }

  /** What was asked for last was not drawn: an older picture would pass for it. @param {number} id @param {string} session
   * @param {string} why */
  clear(id, session, why) {
    if (!this._takes(id, session)) return;
    this.last?.bitmap.close();
    this.last = null;
    const { canvas } = this;
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", `No picture: ${why}`);
    $("save").disabled = true;
  }

  /** Enlarge it by a whole number, so that pixels stay square. */
  _paint() {
    if (!this.last) return;
    const { canvas } = this;
    const { bitmap } = this.last;
    const scale = Math.max(1, Math.round(512 / Math.max(bitmap.width, bitmap.height)));
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const c = canvas.getContext("2d");
    c.imageSmoothingEnabled = !canvas.classList.contains("crisp");
    c.imageSmoothingQuality = "high";
    c.drawImage(bitmap, 0, 0, width, height);
  }

  /** @param {number} side the width to enlarge it to; 0: as drawn */
  async save(side = 0) {
    if (!this.last) return;
    const { id, seed, marks } = this.last.header;
    const format = $("format").value;
    const prompt = marks.credentials && isOn("with-prompt");
    const drawn = this.last.bitmap.width;
    const [size, large] = side ? [`-${drawn}px-enlarged-${side}`, `: ${side} px, enlarged from the ${drawn} px that the model drew`] : ["", ""];
    const said = marks.credentials ? `Saved, with its content credentials${prompt ? " and the prompt in them" : ""}${large}.` : `Saved, without content credentials${large}.`;
    const file = this.link.file(id, { format, prompt, side });
    await this._offer(file, `fewstep-${seed}${size}.${format === "jpeg" ? "jpg" : format}`, said, marks.credentials);
  }

  /** After a recording was saved, offer its credentials, too. @param {Blob} film @param {string} name without its ending */
  record(film, name) {
    const button = $("record-credentials");
    button.hidden = !this.link.hello.recordings;
    button.onclick = async () => {
      button.disabled = true; // one at a time
      await this._offer(this.link.credentials(film), `${name}.c2pa`, "Saved: keep both files beside each other, under one name.", true);
      button.disabled = false;
    };
  }

  /** @param {Promise<Blob>} file @param {string} name @param {string} said @param {boolean} good */
  async _offer(file, name, said, good) {
    try {
      offer(await file, name);
      this.tell(said, good);
    } catch (error) {
      this.tell(`Not saved: ${/** @type {Error} */ (error).message}.`);
    }
  }
}
