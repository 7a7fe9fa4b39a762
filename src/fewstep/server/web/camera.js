// The Camera tab: the webcam in, the result out, as fast as both ends can; nothing runs while it is paused or out of sight.

import { $, offer, press } from "./dom.js";

export class Camera {
  /** @param {(stamp: number) => void} changed @param {(sentence: string, good?: boolean) => void} complain
   * @param {(film: Blob, name: string) => void} recorded */
  constructor(changed, complain, recorded) {
    this.recorded = recorded;
    this.changed = changed;
    this.complain = complain;
    this.video = $("video");
    this.mirrored = true;
    this.paused = false;
    this.shown = false;
    this.wanted = false; // the person switched it on: opening the tab starts it again
    /** @type {MediaRecorder | null} */
    this.recorder = null;
    this.small = document.createElement("canvas");
    $("camera-start").onclick = () => this.start();
    $("camera-stop").onclick = () => this.stop();
    $("camera-pause").onclick = () => this.pause(!this.paused);
    $("camera-mirror").onclick = () => this.mirror(!this.mirrored);
    $("record").onclick = () => (this.recorder ? this.finish() : this.record());
    document.addEventListener("visibilitychange", () => this._next());
  }

  get running() {
    return Boolean(this.video.srcObject) && !this.paused && this.shown && !document.hidden;
  }

  async start() {
    this.wanted = true;
    let stream;
    try {
      if (!navigator.mediaDevices) throw new Error("browsers give it to pages on localhost or https only");
      stream = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: 512 }, height: { ideal: 512 }, frameRate: { ideal: 30 } },
      });
    } catch (error) {
      this.wanted = false;
      const denied = error instanceof DOMException && error.name === "NotAllowedError";
      const why = error instanceof Error ? error.message : String(error);
      return this.complain(denied ? "The camera is blocked: allow it beside the address, then start again." : `No camera: ${why}.`);
    }
    if (!this.shown || this.video.srcObject) return stop(stream); // meanwhile the person left the tab, or started the camera twice
    this.video.srcObject = stream;
    stream.getVideoTracks()[0].onended = () => {
      this.stop();
      this.complain("The camera was taken away: connect it and start again.");
    };
    this._enable(true);
    this.pause(false);
  }

  /** Switch the camera off, and its light. */
  stop() {
    this.finish();
    this.wanted = false;
    if (this.video.srcObject) stop(this.video.srcObject);
    this.video.srcObject = null;
    this._enable(false);
  }

  /** @param {boolean} on */
  _enable(on) {
    $("camera-empty").hidden = on;
    for (const id of ["camera-pause", "camera-stop", "record"]) $(id).disabled = !on;
  }

  /** Open or leave the tab. @param {boolean} on */
  show(on) {
    this.shown = on;
    const wanted = this.wanted;
    if (!on) this.stop();
    this.wanted = wanted;
    if (on && wanted) this.start();
  }

  /** @param {boolean} on */
  pause(on) {
    if (!this.video.srcObject) return;
    this.paused = on;
    const b = $("camera-pause");
    press("camera-pause", on);
    b.querySelector("use").setAttribute("href", on ? "#i-play" : "#i-pause");
    b.title = on ? "Go on (Space)" : "Pause (Space)";
    if (on) this.video.pause();
    else this.video.play().catch(() => {}); // interrupted by the next pause
    this._next();
  }

  /** @param {boolean} on */
  mirror(on) {
    this.mirrored = on;
    this.video.classList.toggle("mirrored", on);
    press("camera-mirror", on);
    if (this.video.srcObject) this.changed(performance.now());
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

  /** The newest frame, at the model's size; null while there is none. @param {number} width @param {number} height */
  parts(width, height) {
    const { video, small } = this;
    if (!video.videoWidth || !video.srcObject) return null;
    if (small.width !== width || small.height !== height) Object.assign(small, { width, height });
    const c = /** @type {CanvasRenderingContext2D} */ (small.getContext("2d", { willReadFrequently: true }));
    c.setTransform(this.mirrored ? -1 : 1, 0, 0, 1, this.mirrored ? width : 0, 0);
    c.imageSmoothingQuality = "high";
    c.drawImage(video, ...middle(video, width, height), 0, 0, width, height);
    const data = new Uint8Array(c.getImageData(0, 0, width, height).data.buffer);
    return [{ name: "image", mime: "pixels/rgba", data, width, height }];
  }

  record() {
    // VP8 costs the least: a slower codec would take time from the model when both run on one processor
    const kind = ["video/webm;codecs=vp8", "video/webm", "video/mp4"].find((k) => MediaRecorder.isTypeSupported(k));
    if (!kind) return this.complain("This browser cannot record.");
    /** @type {Blob[]} */
    const chunks = [];
    const recorder = new MediaRecorder($("result").captureStream(30), { mimeType: kind });
    const began = performance.now();
    const tell = () => {
      const s = Math.floor((performance.now() - began) / 1000);
      $("record-time").textContent = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
    };
    this.clock = setInterval(tell, 500);
    recorder.ondataavailable = (e) => e.data.size && chunks.push(e.data);
    recorder.onstop = () => {
      const [film, name] = [new Blob(chunks, { type: kind }), `fewstep-${Date.now()}`];
      offer(film, `${name}.${kind.includes("mp4") ? "mp4" : "webm"}`);
      this.recorded(film, name);
    };
    recorder.start(500);
    this.recorder = recorder;
    this._recording(true);
    tell();
  }

  finish() {
    if (!this.recorder) return;
    const recorder = this.recorder;
    this.recorder = null;
    clearInterval(this.clock);
    recorder.stop();
    this._recording(false);
  }

  /** @param {boolean} on */
  _recording(on) {
    press("record", on);
    $("record").setAttribute("aria-label", on ? "Stop recording" : "Record");
    if (!on) $("record-time").textContent = "Record";
  }
}

/** The largest part of the frame's middle that has this shape: left, top, width, height. @param {HTMLVideoElement} video
 * @param {number} width @param {number} height @returns {[number, number, number, number]} */
export function middle(video, width, height) {
  const scale = Math.min(video.videoWidth / width, video.videoHeight / height);
  const [w, h] = [width * scale, height * scale];
  return [(video.videoWidth - w) / 2, (video.videoHeight - h) / 2, w, h];
}

/** @param {MediaStream} stream */
function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}
