// The studio: joins the three tabs, the link to the server and the budget panel.

import { Camera, offer } from "./camera.js";
import { Draw } from "./draw.js";
import { Panel } from "./panel.js";
import { Typed } from "./typed.js";
import { Link } from "./wire.js";

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const IDEAS = ["a red heart", "a smiling cat", "a blue fish", "the moon with a face", "a slice of pizza", "a green dragon"];
const TABS = ["draw", "camera", "type"];
const STILL_MS = 700;

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
if (token) sessionStorage.setItem("token", token);
history.replaceState(null, "", location.pathname);

const link = new Link(token);
const draw = new Draw((stamp) => tab === "draw" && want(stamp));
const camera = new Camera((stamp) => tab === "camera" && want(stamp), complain);
const typed = new Typed(choose);
const panel = new Panel(() => want());
const result = $("result");
const paint = result.getContext("2d");
let tab = "draw";
let stamp = 0;
/** @type {null | {header: Record<string, any>, url: string, prompt: string}} */
let last = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let still;

// asking

const size = () => link.hello.sizes?.[0] ?? 64;

/** Something changed: have a picture of it, of the newest state when there is room on the wire. @param {number} [at] */
function want(at = performance.now()) {
  stamp = at;
  link.want(() => ask(stamp, Number($("seed").value) || 0));
}

/** @param {number} at @param {number} seed */
function ask(at, seed) {
  const header = {
    prompt: $("prompt").value.trim(),
    seed,
    steps: panel.steps,
    target_ms: panel.targetMs,
    blend_prompt: $("blend-prompt").value.trim(),
    blend: Number($("blend").value),
    smoothing: Number($("smoothing").value),
    strength: Number($("strength").value),
    sent_ms: performance.now(),
  };
  if (tab === "type") return { header: { ...header, task: "text" }, parts: [], stamp: at };
  if (tab === "draw" && draw.empty) return { header: { ...header, task: "text" }, parts: [], stamp: at };
  const parts = tab === "draw" ? draw.parts(size()) : camera.parts(size());
  if (!parts) return null;
  return { header: { ...header, task: parts.length > 1 ? "inpaint" : "image" }, parts, stamp: at };
}

// answers

link.addEventListener("picture", async (event) => {
  const { header, part, stamp: asked } = /** @type {CustomEvent} */ (event).detail;
  const bitmap = await createImageBitmap(new Blob([part.data], { type: part.mime }));
  const prompt = $("prompt").value.trim();
  const own = header.seed === (Number($("seed").value) || 0);
  if (own) {
    if (result.width !== shownSize(bitmap.width)) result.width = result.height = shownSize(bitmap.width);
    paint.imageSmoothingEnabled = !result.classList.contains("crisp");
    paint.imageSmoothingQuality = "high";
    paint.drawImage(bitmap, 0, 0, result.width, result.height);
    $("result-empty").hidden = true;
    $("save").disabled = false;
    result.setAttribute("aria-label", prompt ? `Picture of ${prompt}` : "The picture");
    result.dataset.id = header.id;
    badge(header.marks);
    last = { header, url: "", prompt };
  }
  requestAnimationFrame((now) => {
    if (asked === undefined) return;
    const glass = Math.max(performance.now(), now) - asked;
    link.seen(header.id, glass);
    if (own) panel.note(header, glass);
    state();
  });
  if (tab === "type") keep(header, part, prompt);
});

/** Small pictures are enlarged by a whole factor, so that single pixels stay square. @param {number} side */
const shownSize = (side) => side * Math.max(1, Math.round(512 / side));

/** @param {Record<string, any>} header @param {{data: Uint8Array, mime: string}} part @param {string} prompt */
function keep(header, part, prompt) {
  const url = URL.createObjectURL(new Blob([/** @type {any} */ (part.data)], { type: part.mime }));
  if (last && header.id === last.header.id) last.url = url;
  if (typed.wanted.includes(header.seed)) typed.show(url, header.seed, prompt);
  if (typed.wanted.length) link.want(() => ask(performance.now(), typed.wanted[0]));
}

function settled() {
  if (tab !== "type" || !$("prompt").value.trim()) return;
  if (last?.url) typed.settle(last.url, last.header.seed, last.prompt);
  typed.begin(Number($("seed").value) || 0);
  link.want(() => ask(performance.now(), typed.wanted[0]));
}

/** @param {number} seed @param {string} prompt */
function choose(seed, prompt) {
  $("seed").value = seed;
  $("prompt").value = prompt;
  typed.stop();
  want();
  waitForStill();
}

function waitForStill() {
  clearTimeout(still);
  still = setTimeout(settled, STILL_MS);
}

link.addEventListener("error", (event) => {
  const { header } = /** @type {CustomEvent} */ (event).detail;
  if (header.code !== "queue") complain(header.message);
});
link.addEventListener("stats", (event) => panel.stats(/** @type {CustomEvent} */ (event).detail.header));
setInterval(() => !document.hidden && link.state === "ready" && link.say({ type: "stats" }), 2000);

// what state it is in

const SAYS = {
  connecting: "Connecting", queue: "In the queue", warming: "Warming up", ready: "Live", busy: "Drawing", shed: "Live, lighter",
  lost: "Reconnecting", full: "Full", refused: "No access", failed: "Out of order",
};
/** @type {Record<string, any>} */
let detail = {};

link.addEventListener("state", (event) => {
  detail = /** @type {CustomEvent} */ (event).detail;
  if (detail.type === "hello") {
    panel.meet(detail);
    $("model").textContent = detail.model ? `${detail.model.name}${detail.model.few_steps ? "" : " (not distilled)"}` : "";
    if (detail.marks) badge(detail.marks);
    if (link.state === "ready") {
      link.say({ type: "stats" });
      if (!last) want();
    }
  }
  state();
});

function state() {
  const shed = panel.last && (panel.last.shed.length || !panel.last.fits);
  const now = link.state !== "ready" ? link.state : link.busyFor > 400 ? "busy" : shed ? "shed" : "ready";
  const pill = $("state");
  if (pill.dataset.state !== now) {
    pill.dataset.state = now;
    pill.querySelector("span").textContent = SAYS[/** @type {keyof typeof SAYS} */ (now)];
  }
  $("result-frame").dataset.busy = String(now === "busy" || now === "lost");
  cover(now);
}
setInterval(state, 250);

/** @param {string} now */
function cover(now) {
  /** @type {Record<string, string[]>} */
  const texts = {
    queue: [`You are number ${detail.position}`, `All ${detail.places} places are taken. Yours comes by itself; stay on this page.`],
    full: ["Everything is taken", "The room and its queue are full. This page tries again by itself."],
    warming: ["Warming up", `${detail.doing || "The model is being made ready"} …`],
    refused: ["No access", "Open the address with the token that the server printed when it was started."],
    failed: ["The model could not be opened", detail.doing ?? ""],
  };
  const text = texts[now] ?? (now === "lost" && !last ? ["No server", "Nothing answers. Start it with: fewstep serve"] : null);
  $("cover").hidden = !text;
  if (text) [$("cover-title").textContent, $("cover-text").textContent] = text;
}

/** @param {{watermark: boolean, credentials: boolean}} marks */
function badge(marks) {
  const b = $("badge");
  b.dataset.marks = marks.credentials ? "full" : marks.watermark ? "some" : "none";
  b.querySelector("span").textContent = marks.credentials
    ? "Marked · signed on download" : marks.watermark ? "Marked, not signed" : "No provenance";
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let quiet;
/** @param {string} sentence */
function complain(sentence) {
  const box = $("notice");
  box.textContent = sentence[0].toUpperCase() + sentence.slice(1);
  box.hidden = false;
  clearTimeout(quiet);
  quiet = setTimeout(() => (box.hidden = true), 6000);
}

// controls

/** @param {string} name */
function open(name) {
  tab = name;
  link.rest();
  typed.stop();
  for (const t of TABS) {
    const b = $(`tab-${t}`);
    b.setAttribute("aria-selected", String(t === name));
    b.tabIndex = t === name ? 0 : -1;
    $(`view-${t}`).hidden = t !== name;
  }
  $("knob-strength").hidden = $("knob-smoothing").hidden = name === "type";
  document.body.dataset.tab = name;
  camera.show(name === "camera");
  if (name === "type") $("prompt").focus();
  if (name !== "camera") want();
}
for (const name of TABS) {
  $(`tab-${name}`).onclick = () => open(name);
  $(`tab-${name}`).onkeydown = (/** @type {KeyboardEvent} */ e) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!by) return;
    const next = TABS[(TABS.indexOf(name) + by + TABS.length) % TABS.length];
    open(next);
    $(`tab-${next}`).focus();
  };
}

$("prompt").addEventListener("input", (/** @type {Event} */ e) => {
  typed.stop();
  want(e.timeStamp);
  waitForStill();
});
for (const id of ["blend-prompt", "blend", "strength", "smoothing", "seed"]) {
  $(id).addEventListener("input", (/** @type {Event} */ e) => {
    outputs();
    want(e.timeStamp);
  });
}
function outputs() {
  $("strength-out").textContent = Number($("strength").value).toFixed(2);
  $("smoothing-out").textContent = Number($("smoothing").value).toFixed(1);
  $("blend-out").textContent = `${Math.round(100 * Number($("blend").value))} %`;
}
outputs();

$("dice").onclick = () => {
  $("seed").value = Math.floor(Math.random() * 2 ** 31);
  want();
};
$("lock").onclick = () => {
  const on = $("lock").getAttribute("aria-pressed") !== "true";
  $("lock").setAttribute("aria-pressed", String(on));
};
setInterval(() => {
  if ($("lock").getAttribute("aria-pressed") === "false" && link.state === "ready" && !document.hidden) $("dice").click();
}, 900);

for (const idea of IDEAS) {
  const b = Object.assign(document.createElement("button"), { textContent: idea });
  b.onclick = () => {
    $("prompt").value = idea;
    typed.stop();
    want();
    waitForStill();
  };
  $("ideas").append(b);
}

$("crisp").onclick = () => {
  const on = result.classList.toggle("crisp");
  $("crisp").setAttribute("aria-pressed", String(on));
  want();
};
async function save() {
  if (!last) return;
  const format = $("format").value;
  try {
    offer(await link.file(last.header.id, format), `fewstep-${last.header.seed}.${format === "jpeg" ? "jpg" : format}`);
  } catch (error) {
    complain(error instanceof Error ? error.message : String(error));
  }
}
$("save").onclick = save;

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
};

addEventListener("keydown", (e) => {
  const writing = e.target instanceof HTMLInputElement && ["text", "number"].includes(e.target.type);
  if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "s") {
    e.preventDefault();
    save();
  } else if (!writing && tab === "draw" && draw.key(e)) e.preventDefault();
  else if (!writing && tab === "camera" && e.key === " " && !(e.target instanceof HTMLButtonElement)) {
    e.preventDefault();
    camera.pause(!camera.paused);
  }
});

$("prompt").value = IDEAS[0];
open("draw");
