// The studio: joins the three tabs, the link to the server and the budget panel.

import { Camera } from "./camera.js";
import { Concepts } from "./concepts.js";
import { $, arrows } from "./dom.js";
import { Draw } from "./draw.js";
import { Follow } from "./follow.js";
import { Keep, read, write } from "./keep.js";
import { Knobs } from "./knobs.js";
import { More } from "./more.js";
import { Panel } from "./panel.js";
import { Result } from "./result.js";
import * as kept from "./settings.js";
import { Status } from "./status.js";
import * as token from "./token.js";
import { Typed } from "./typed.js";
import { Link } from "./wire.js";

const TABS = ["draw", "camera", "type"];
const STILL_MS = 700;
const BUSY_MS = 400;
const IDLE_MS = 1500;

const given = token.arrive();
history.replaceState(null, "", location.pathname);

const link = new Link(location.href, { token: given });
token.ask(link);
const status = new Status();
const tell = status.toast.bind(status);
const keep = new Keep(tell);
const draw = new Draw((stamp) => {
  keep.changed("drawing");
  if (tab === "draw") want(stamp);
}, tell);
const camera = new Camera((stamp) => tab === "camera" && want(stamp), tell, (film, name) => result.record(film, name));
const knobs = new Knobs(change, tell);
const follow = new Follow(change);
const typed = new Typed((seed, prompt) => knobs.set({ seed, prompt }));
new Concepts(link, (prompt) => knobs.set({ prompt }));
const panel = new Panel(() => want());
const result = new Result(link, tell);
let tab = "draw";
let stamp = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let still;
let settling = false; // the prompt has stopped changing, and its picture is not here yet

// asking

/** After a change, ask for a picture of the newest state as soon as the connection can take a request. @param {number} [at] */
function want(at = performance.now()) {
  stamp = at;
  link.want(() => ask(stamp, knobs.seed));
  waiting();
}

/** Tell screen readers whether a picture is still to come. */
const waiting = () => result.canvas.setAttribute("aria-busy", String(link.busy || opening > 0 || result.last?.header.settled === false));
let opening = 0; // pictures that have arrived and are not on the screen yet

/** @param {number} at @param {number} seed @param {boolean} variation @returns {import("./wire.js").Ask | null} */
function ask(at, seed, variation = false) {
  const header = {
    ...knobs.header, strength: follow.strength, seed, steps: panel.steps, target_ms: panel.targetMs, sent_ms: performance.now(),
    refine: !variation, // at rest it gets better
  };
  if (tab === "type" || (tab === "draw" && draw.layers.empty)) {
    return { header: { ...header, task: "text" }, parts: [], stamp: at, variation };
  }
  const [width, height] = link.hello.shapes?.[0] ?? [64, 64];
  const parts = tab === "draw" ? draw.layers.parts(width, height) : camera.parts(width, height);
  if (!parts) return null;
  return { header: { ...header, task: parts.length > 1 ? "inpaint" : "image" }, parts, stamp: at };
}

/** Ask for the next variation, once nothing else is wanted. */
function vary() {
  if (typed.wanted.length && !link.wanting) link.want(() => ask(performance.now(), typed.wanted[0], true));
}

/** After a change of prompt, seed or slider. @param {number} [at] */
function change(at) {
  rest();
  want(at);
  waitForStill();
}

/** The picture is about to change, so stop its variations. */
function rest() {
  clearTimeout(still);
  settling = false;
  typed.stop();
}

function waitForStill() {
  if (tab !== "type" || !knobs.prompt) return;
  still = setTimeout(() => {
    settling = true;
    settle();
  }, STILL_MS);
}

/** When the prompt has stopped changing and its picture is here, keep that picture and begin its variations. */
function settle() {
  const { last } = result;
  const { seed, prompt } = knobs;
  if (!last || last.prompt !== prompt || last.header.seed !== seed || last.session !== link.session) return;
  settling = false;
  typed.settle(last.part, seed, prompt);
  typed.begin(seed);
  vary();
}

/** If the newest picture still shows older inputs, send the same request again, until nothing of them is left. */
function steady() {
  if (link.busy || camera.running) return; // a request on its way has the same effect
  link.want(() => ask(performance.now(), knobs.seed));
  waiting();
}

// answers

let answered = 0; // when the newest picture came
let denied = ""; // why the newest was not drawn
let unread = "";
/** Say once what of the prompt the model did not read. @param {Record<string, any>} header of a picture */
function tellUnread(header) {
  const left = Object.values(header.unread ?? {}).map((one) => one.message).join("; ");
  if (left && left !== unread) tell(left);
  unread = left;
}

link.addEventListener("picture", async (event) => {
  const { header, part, ask: asked } = /** @type {CustomEvent} */ (event).detail;
  if (!asked) return; // the page has asked for something newer, and has had it
  opening += 1;
  const bitmap = await createImageBitmap(new Blob([part.data], { type: part.mime })).finally(() => (opening -= 1));
  const { prompt, seed } = asked.header;
  const { variation } = asked;
  if (!header.refined) answered = performance.now();
  if (variation && prompt === knobs.prompt) typed.show(part, seed, prompt);
  if (!variation) {
    result.show({ header, part, prompt, session: link.session, bitmap });
    if (result.last) denied = "";
    status.badge(header.marks);
    tellUnread(header);
  }
  if (header.refined) {
    panel.better(header);
    typed.better(part, seed, prompt);
    return state();
  }
  requestAnimationFrame((now) => {
    const glass = Math.max(performance.now(), now) - asked.stamp;
    link.seen(header.id, glass);
    if (!variation) panel.note(header, glass, asked.header.task);
    state();
  });
  if (settling) settle();
  if (!variation && header.settled === false) steady();
  vary();
});

link.addEventListener("error", (event) => {
  const { header, ask: asked } = /** @type {CustomEvent} */ (event).detail;
  if (header.code === "queue" || header.code === "full") return;
  tell(header.message);
  if (asked?.variation) typed.stop();
  else if (asked) {
    denied = header.message;
    result.clear(header.id, link.session, denied);
    state();
  }
});

const live = () => link.state === "ready" && !document.hidden;
/** Fetch the server's own numbers; there are none while the connection is lost. */
const count = () => link.stats().then((stats) => panel.stats(stats), () => {});
setInterval(() => live() && count(), 2000);
knobs.play(live);

// what state it is in

/** @type {Record<string, any>} */
let detail = {};

link.addEventListener("state", (event) => {
  detail = /** @type {CustomEvent} */ (event).detail;
  if (detail.type === "hello") {
    panel.meet(link.hello);
    follow.meet(link.hello);
    draw.meet(link.hello);
    const { model, marks } = link.hello;
    $("model").textContent = model ? `${model.name}${model.few_steps ? "" : " (not distilled)"}` : "";
    if (marks) status.badge(marks);
    result.meet(link.hello);
    if (link.state === "ready") {
      count();
      if (result.last?.session !== link.session) want(); // the first picture; or the server was restarted, and no longer has this one
    }
  }
  state();
});

function state() {
  const h = panel.last;
  const idle = !link.busy && performance.now() - answered > IDLE_MS; // without a request nothing is late
  const now = link.busyFor > BUSY_MS ? "busy" : !h || idle ? "ready" : !h.fits ? "over" : h.shed.length ? "shed" : "ready";
  status.show(link.state === "ready" ? now : link.state, detail, Boolean(result.last), denied);
  waiting();
}
setInterval(state, 250);

// the three tabs

/** @param {string} name */
function open(name) {
  tab = name;
  link.rest();
  rest();
  for (const t of TABS) {
    const b = $(`tab-${t}`);
    b.setAttribute("aria-selected", String(t === name));
    b.tabIndex = t === name ? 0 : -1;
    $(`view-${t}`).hidden = t !== name;
  }
  $("knob-strength").hidden = $("knob-smoothing").hidden = name === "type";
  document.body.dataset.tab = name;
  follow.open(name);
  knobs.open(name);
  camera.show(name === "camera");
  if (name !== "camera") want();
  if (name === "type") waitForStill();
}
for (const name of TABS) {
  $(`tab-${name}`).onclick = () => {
    open(name);
    if (name === "type") $("prompt").focus();
  };
}
arrows(/** @type {Element} */ (document.querySelector("nav")), "tab");
for (const group of document.querySelectorAll('[role="radiogroup"]')) arrows(group, "radio");

// the whole page: pasted pictures, keys, light and dark

/** Put a pasted or dropped picture onto the canvas, wherever on the page it was dropped. @param {DataTransfer | null} given */
function take(given) {
  const file = [...(given?.files ?? [])].find((f) => f.type.startsWith("image/"));
  if (!file) return false;
  if (tab !== "draw") open("draw");
  draw.place(file);
  return true;
}
addEventListener("paste", (e) => take(e.clipboardData) && e.preventDefault());
addEventListener("dragover", (e) => e.preventDefault());
addEventListener("drop", (e) => {
  e.preventDefault(); // otherwise the browser would leave this page and open the file
  take(e.dataTransfer);
});

const theme = read("theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").onclick = () => {
  const set = document.documentElement.dataset.theme;
  const dark = set === "dark" || (set === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  write("theme", document.documentElement.dataset.theme ?? "");
};

addEventListener("keydown", (e) => {
  const writing = e.target instanceof HTMLInputElement && ["text", "number"].includes(e.target.type);
  if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "s") {
    e.preventDefault();
    result.save();
  } else if ((!writing || e.target === $("prompt")) && knobs.key(e, draw.touched)) e.preventDefault();
  else if (!writing && tab === "draw" && draw.key(e)) e.preventDefault();
  else if (!writing && tab === "camera" && e.key === " " && !(e.target instanceof HTMLButtonElement)) {
    e.preventDefault();
    camera.pause(!camera.paused);
  }
});

// what outlives a reload

const parts = { knobs, follow, draw, panel };
keep.sources = {
  settings: () => kept.settings(parts, tab),
  drawing: () => Keep.drawing(draw.layers),
  history: () => Keep.history($("history")),
};
const before = keep.load("settings") ?? {};
kept.restore(before, parts);
typed.restore(keep.load("history"));
open(TABS.includes(before.tab) ? before.tab : "draw");
const drawing = keep.load("drawing");
if (drawing) Keep.layers(drawing).then((layers) => draw.restore(layers, drawing.shown));
typed.kept = () => keep.changed("history");
for (const event of ["input", "change", "click", "keyup"]) document.addEventListener(event, () => keep.changed("settings"));
new More({ link, result, draw, knobs, ask, tell, open }).arrive();
