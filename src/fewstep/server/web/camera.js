// The Camera tab: the webcam in, the result out, as fast as both ends can; nothing runs while it is paused or out of sight.

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));

export class Camera {
  /** @param {(stamp: number) => void} changed @param {(sentence: string) => void} complain */
  constructor(changed, complain) {
    this.changed = changed;
    this.complain = complain;
    this.video = $("video");
    this.mirrored = true;
    this.paused = false;
    this.shown = false;
    /** @type {MediaRecorder | null} */
    this.recorder = null;
    $("camera-start").onclick = () => this.start();
    $("camera-pause").onclick = () => this.pause(!this.paused);
    $("camera-mirror").onclick = () => this.mirror(!this.mirrored);
    $("record").onclick = () => (this.recorder ? this.recorder.stop() : this.record());
    this.small = document.createElement("canvas");
    document.addEventListener("visibilitychange", () => this._next());
  }

  get running() {
    return Boolean(this.video.srcObject) && !this.paused && this.shown && !document.hidden;
  }

  async start() {
    try {
      this.video.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: 512 }, height: { ideal: 512 }, frameRate: { ideal: 30 } },
      });
      await this.video.play();
    } catch (error) {
      const denied = error instanceof DOMException && error.name === "NotAllowedError";
      this.complain(denied ? "The camera is blocked: allow it beside the address, then start again." : `No camera: ${error}`);
      return;
    }
    $("camera-empty").hidden = true;
    $("camera-pause").disabled = $("record").disabled = false;
    this._next();
  }

  /** @param {boolean} on */
  show(on) {
    this.shown = on;
    this._next();
  }

  /** @param {boolean} on */
  pause(on) {
    this.paused = on;
    const b = $("camera-pause");
    b.setAttribute("aria-pressed", String(on));
    b.querySelector("use").setAttribute("href", on ? "#i-play" : "#i-pause");
    b.querySelector("span").textContent = on ? "Go on" : "Pause";
    on ? this.video.pause() : this.video.play();
    this._next();
  }

  /** @param {boolean} on */
  mirror(on) {
    this.mirrored = on;
    this.video.classList.toggle("mirrored", on);
    $("camera-mirror").setAttribute("aria-pressed", String(on));
  }

  _next() {
    if (!this.running || this._waiting) return;
    this._waiting = true;
    const look = (/** @type {number} */ now) => {
      this._waiting = false;
      if (!this.running) return;
      this.changed(now);
      this._next();
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(look);
    else requestAnimationFrame(look);
  }

  /** The newest frame, at the model's size. @param {number} size */
  parts(size) {
    const { video, small } = this;
    const side = Math.min(video.videoWidth, video.videoHeight);
    if (!side) return null;
    small.width = small.height = size;
    const c = /** @type {CanvasRenderingContext2D} */ (small.getContext("2d", { willReadFrequently: true }));
    if (this.mirrored) c.setTransform(-1, 0, 0, 1, size, 0);
    c.imageSmoothingQuality = "high";
    c.drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, size, size);
    const data = new Uint8Array(c.getImageData(0, 0, size, size).data.buffer);
    return [{ name: "image", mime: "pixels/rgba", data, width: size, height: size }];
  }

  record() {
    const kind = ["video/webm;codecs=vp9", "video/webm", "video/mp4"].find((k) => MediaRecorder.isTypeSupported(k));
    if (!kind) return this.complain("This browser cannot record.");
    /** @type {Blob[]} */
    const chunks = [];
    const recorder = new MediaRecorder($("result").captureStream(30), { mimeType: kind });
    recorder.ondataavailable = (e) => e.data.size && chunks.push(e.data);
    recorder.onstop = () => {
      this.recorder = null;
      $("record").setAttribute("aria-pressed", "false");
      offer(new Blob(chunks, { type: kind }), `fewstep-${Date.now()}.${kind.includes("mp4") ? "mp4" : "webm"}`);
    };
    recorder.start(500);
    this.recorder = recorder;
    $("record").setAttribute("aria-pressed", "true");
  }
}

/** Hand a file to the person. @param {Blob} blob @param {string} name */
export function offer(blob, name) {
  const a = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
}
