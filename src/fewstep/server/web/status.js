// Shows the studio's state in four places: the pill, the picture's place, a passing sentence, the badge.

import { $ } from "./dom.js";

const SAYS = {
  connecting: "Connecting", queue: "In the queue", warming: "Warming up", ready: "Live", busy: "Drawing", shed: "Live, lighter",
  over: "Over target", stopped: "Stopping", lost: "Reconnecting", resting: "Resting", full: "Full", refused: "No access",
  failed: "Out of order",
};
/** @type {Record<string, string>} the explanation of a state */
const WHY = {
  busy: "The picture of what you did last is being drawn.",
  shed: "Something was given up to stay within the target: the panel says what.",
  over: "Nothing is quick enough for this target: raise it in the panel.",
  lost: "The connection is made again by itself; what you draw meanwhile is not lost.",
  resting: "Nothing was asked for in a long time, so the place was given up. Go on, and it comes back.",
};
const LIVE = ["ready", "busy", "shed", "over"];
const TOAST_MS = 6000;

export class Status {
  constructor() {
    this.now = "connecting";
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._quiet = undefined;
  }

  /** @param {string} now a key of SAYS @param {Record<string, any>} detail of the link @param {boolean} drawn whether there is a picture
   * @param {string} denied why the newest was not drawn */
  show(now, detail, drawn, denied = "") {
    const text = SAYS[/** @type {keyof typeof SAYS} */ (now)];
    const pill = $("state");
    if (this.now !== now) {
      pill.dataset.state = now;
      pill.querySelector("span").textContent = text;
      pill.title = WHY[now] ?? "";
      // a screen reader announces changes of the connection, not every picture
      if (!LIVE.includes(now) || !LIVE.includes(this.now)) $("said").textContent = text;
      this.now = now;
    }
    const frame = $("result-frame");
    frame.dataset.busy = String(["busy", "lost", "connecting", "warming", "full", "queue"].includes(now));
    frame.dataset.stale = String(!LIVE.includes(now));
    this._cover(now, detail, drawn, denied);
  }

  /** Why there is no picture, where the picture would be. @param {string} now @param {Record<string, any>} detail @param {boolean} drawn
   * @param {string} denied */
  _cover(now, detail, drawn, denied) {
    /** @type {Record<string, string[]>} */
    const texts = {
      queue: [`You are number ${detail.position}`, `${detail.places > 1 ? `All ${detail.places} places are` : "The one place is"} taken. Yours comes by itself: stay on this page.`],
      full: ["Everything is taken", "The room and its queue are full. This page tries again by itself."],
      warming: ["Warming up", `${sentence(detail.doing || "the model is being made ready")} …`],
      refused: ["No access", sentence(detail.why ?? "")],
      failed: ["Out of order", sentence(detail.doing || "the model could not be opened")],
    };
    if (!drawn) {
      texts.connecting = ["", "Connecting …"];
      texts.lost = ["No server", "Nothing answers here. Start it with: fewstep serve"];
      const none = denied ? ["Not drawn", sentence(denied)] : ["", "Your picture appears here"];
      for (const live of [...LIVE, "resting", "stopped"]) texts[live] = none;
    }
    const text = texts[now];
    $("cover").hidden = !text;
    if (text && $("cover-text").textContent !== text[1]) [$("cover-title").textContent, $("cover-text").textContent] = text;
  }

  /** Show a sentence that disappears by itself. @param {string} text @param {boolean} good */
  toast(text, good = false) {
    const box = $("toast");
    box.textContent = sentence(text);
    box.dataset.good = String(good);
    box.hidden = false;
    clearTimeout(this._quiet);
    this._quiet = setTimeout(() => (box.hidden = true), TOAST_MS);
  }

  /** @param {{watermark: boolean, credentials: boolean}} marks */
  badge(marks) {
    const b = $("badge");
    const [kind, text, why] = marks.credentials
      ? ["full", "Signed on download", "Every frame carries an invisible watermark; a downloaded file also carries signed content credentials."]
      : marks.watermark
        ? ["some", "Marked, not signed", "Every frame carries an invisible watermark; the server cannot sign files."]
        : ["none", "No provenance", "The server was started with --no-provenance: pictures carry no watermark and no content credentials."];
    if (b.dataset.marks === kind) return;
    b.dataset.marks = kind;
    b.title = why;
    b.querySelector("span").textContent = text;
  }
}

/** @param {string} text */
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
