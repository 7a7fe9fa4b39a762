// The studio: joins the three tabs, the link to the server and the budget panel.

import { Camera, offer } from "./camera.js";
import { Draw } from "./draw.js";
import { Panel } from "./panel.js";
import { Status } from "./status.js";
import { Typed } from "./typed.js";
import { Link } from "./wire.js";

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const IDEAS = ["a red heart", "a smiling cat", "a blue fish", "the moon with a face", "a slice of pizza", "a green dragon"];
const TABS = ["draw", "camera", "type"];
const STILL_MS = 700;
const BUSY_MS = 400;
const DICE_MS = 900;

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
if (token) sessionStorage.setItem("token", token);
history.replaceState(null, "", location.pathname);

const link = new Link(location.href, { token });
const status = new Status();
const complain = status.toast.bind(status);
const draw = new Draw((stamp) => tab === "draw" && want(stamp), complain);
const camera = new Camera((stamp) => tab === "camera" && want(stamp), complain);
const typed = new Typed(choose);
const panel = new Panel(() => want());
const result = $("result");
const paint = result.getContext("2d");
let tab = "draw";
let stamp = 0;
/** @type {null | {header: Record<string, any>, part: import("./wire.js").Part, prompt: string, session: string, bitmap: ImageBitmap}} */
let last = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let still;
let settling = false; // the prompt has stood still, and its picture is not here yet

// asking

const size = () => link.hello.sizes?.[0] ?? 64;
const prompt = () => $("prompt").value.trim();
const seed = () => Math.min(2 ** 31 - 1, Math.max(0, Math.floor(Number($("seed").value)) || 0));

/** Something changed: have a picture of it, of the newest state when there is room on the wire. @param {number} [at] */
function want(at = performance.now()) {
  stamp = at;
  link.want(() => ask(stamp, seed()));
  result.setAttribute("aria-busy", String(link.busy));
}

/** @param {number} at @param {number} seed @param {boolean} variation @returns {import("./wire.js").Ask | null} */
function ask(at, seed, variation = false) {
  const header = {
    prompt: prompt(),
    seed,
    steps: panel.steps,
    target_ms: panel.targetMs,
    blend_prompt: $("blend-prompt").value.trim(),
    blend: Number($("blend").value),
    smoothing: Number($("smoothing").value),
    strength: Number($("strength").value),
    sent_ms: performance.now(),
  };
  if (tab === "type" || (tab === "draw" && draw.empty)) {
    return { header: { ...header, task: "text" }, parts: [], stamp: at, variation };
  }
  const parts = tab === "draw" ? draw.parts(size()) : camera.parts(size());
  if (!parts) return null;
  return { header: { ...header, task: parts.length > 1 ? "inpaint" : "image" }, parts, stamp: at };
}

/** The next variation, once nothing else is wanted. */
function vary() {
  if (typed.wanted.length) link.want(() => ask(performance.now(), typed.wanted[0], true));
}

// answers

link.addEventListener("picture", async (event) => {
  const { header, part, ask: asked } = /** @type {CustomEvent} */ (event).detail;
  if (!asked) return; // given up on meanwhile
  const bitmap = await createImageBitmap(new Blob([part.data], { type: part.mime }));
  const { prompt: about, seed: from } = asked.header;
  const { variation } = asked;
  if (variation && about === prompt()) typed.show(part, from, about);
  if (!variation && !(last && last.session === link.session && header.id < last.header.id)) {
    last?.bitmap.close();
    last = { header, part, prompt: about, session: link.session, bitmap };
    show();
  }
  requestAnimationFrame((now) => {
    const glass = Math.max(performance.now(), now) - asked.stamp;
    link.seen(header.id, glass);
    if (!variation) panel.note(header, glass);
    state();
  });
  if (settling) settle();
  vary();
});

/** The newest picture, enlarged by a whole factor, so that single pixels stay square. */
function show() {
  if (!last) return;
  const side = last.bitmap.width * Math.max(1, Math.round(512 / last.bitmap.width));
  if (result.width !== side) result.width = result.height = side;
  paint.imageSmoothingEnabled = !result.classList.contains("crisp");
  paint.imageSmoothingQuality = "high";
  paint.drawImage(last.bitmap, 0, 0, side, side);
  result.dataset.id = last.header.id;
  result.setAttribute("aria-label", last.prompt ? `Picture of ${last.prompt}` : "Picture without a prompt");
  $("save").disabled = false;
  status.badge(last.header.marks);
  outputs();
}

link.addEventListener("error", (event) => {
  const { header } = /** @type {CustomEvent} */ (event).detail;
  if (header.code !== "queue" && header.code !== "full") complain(header.message);
});

/** The server's own numbers; there are none while the connection is lost. */
const count = () => link.stats().then((stats) => panel.stats(stats), () => {});
setInterval(() => !document.hidden && link.state === "ready" && count(), 2000);

// what state it is in

/** @type {Record<string, any>} */
let detail = {};

link.addEventListener("state", (event) => {
  detail = /** @type {CustomEvent} */ (event).detail;
  if (detail.type === "hello") {
    panel.meet(link.hello);
    const { model, marks } = link.hello;
    $("model").textContent = model ? `${model.name}${model.few_steps ? "" : " (not distilled)"}` : "";
    if (marks) status.badge(marks);
    if (link.state === "ready") {
      count();
      if (last?.session !== link.session) want(); // the first picture; or the server was restarted, and has forgotten this one
    }
  }
  state();
});

function state() {
  const h = panel.last;
  const live = link.busyFor > BUSY_MS ? "busy" : h && !h.fits ? "over" : h?.shed.length ? "shed" : "ready";
  status.show(link.state === "ready" ? live : link.state, detail, Boolean(last));
  result.setAttribute("aria-busy", String(link.busy));
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
  camera.show(name === "camera");
  if (name !== "camera") want();
  if (name === "type") waitForStill();
}
for (const name of TABS) {
  $(`tab-${name}`).onclick = () => {
    open(name);
    if (name === "type") $("prompt").focus();
  };
  $(`tab-${name}`).onkeydown = (/** @type {KeyboardEvent} */ e) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!by) return;
    const next = TABS[(TABS.indexOf(name) + by + TABS.length) % TABS.length];
    open(next);
    $(`tab-${next}`).focus();
  };
}

/** What is shown is about to change: no more variations of it. */
function rest() {
  clearTimeout(still);
  settling = false;
  typed.stop();
}

function waitForStill() {
  if (tab !== "type" || !prompt()) return;
  still = setTimeout(() => {
    settling = true;
    settle();
  }, STILL_MS);
}

/** Keep the picture of a prompt that has stood still, once it is here, and begin to vary it. */
function settle() {
  if (!last || last.prompt !== prompt() || last.header.seed !== seed() || last.session !== link.session) return;
  settling = false;
  typed.settle(last.part, last.header.seed, last.prompt);
  typed.begin(seed());
  vary();
}

/** @param {number} from @param {string} about */
function choose(from, about) {
  $("seed").value = from;
  change(about);
}

/** @param {string} about @param {number} [at] */
function change(about, at) {
  if ($("prompt").value !== about) $("prompt").value = about;
  rest();
  want(at);
  waitForStill();
}

// controls

$("prompt").addEventListener("input", (/** @type {any} */ e) => change(e.target.value, e.timeStamp));
$("prompt").addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => e.key === "Enter" && $("prompt").blur());
for (const id of ["blend-prompt", "blend", "strength", "smoothing", "seed"]) {
  $(id).addEventListener("input", (/** @type {Event} */ e) => {
    outputs();
    change($("prompt").value, e.timeStamp);
  });
}
function outputs() {
  const strength = Number($("strength").value);
  const used = last?.header.strength; // the student's own time nearest to what was asked for
  $("strength-out").textContent = used && Math.abs(used - strength) > 0.004 ? `${strength.toFixed(2)} → ${used.toFixed(2)}` : strength.toFixed(2);
  $("smoothing-out").textContent = Number($("smoothing").value).toFixed(1);
  $("blend-out").textContent = `${Math.round(100 * Number($("blend").value))} %`;
}

$("dice").onclick = () => {
  $("seed").value = Math.floor(Math.random() * 2 ** 31);
  change($("prompt").value);
};
$("lock").onclick = () => $("lock").setAttribute("aria-pressed", String($("lock").getAttribute("aria-pressed") !== "true"));
setInterval(() => {
  if ($("lock").getAttribute("aria-pressed") === "false" && link.state === "ready" && !document.hidden) $("dice").click();
}, DICE_MS);

for (const idea of IDEAS) {
  $("ideas").append(Object.assign(document.createElement("button"), { textContent: idea, onclick: () => change(idea) }));
}

$("crisp").onclick = () => {
  $("crisp").setAttribute("aria-pressed", String(result.classList.toggle("crisp")));
  show();
};

async function save() {
  if (!last) return;
  const { header } = last;
  const format = $("format").value;
  try {
    offer(await link.file(header.id, { format }), `fewstep-${header.seed}.${format === "jpeg" ? "jpg" : format}`);
    complain(header.marks.credentials ? "Saved, with its content credentials." : "Saved, without content credentials.", header.marks.credentials);
  } catch (error) {
    complain(`Not saved: ${/** @type {Error} */ (error).message}.`);
  }
}
$("save").onclick = save;

/** A picture that was pasted or dropped goes onto the canvas, wherever it landed. @param {DataTransfer | null} given */
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
  e.preventDefault(); // else the browser would leave this page for the file
  take(e.dataTransfer);
});

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").onclick = () => {
  const set = document.documentElement.dataset.theme;
  const dark = set === "dark" || (set === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
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

// in a group of radio buttons, and in a toolbar, the arrows go from one to the next
for (const group of document.querySelectorAll('[role="radiogroup"]')) {
  group.addEventListener("keydown", (event) => {
    const e = /** @type {KeyboardEvent} */ (event);
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    const radios = /** @type {HTMLElement[]} */ ([...group.querySelectorAll('[role="radio"]')]);
    const at = radios.indexOf(/** @type {HTMLElement} */ (e.target));
    if (!by || at < 0) return;
    e.preventDefault();
    const next = radios[(at + by + radios.length) % radios.length];
    next.click();
    next.focus();
  });
}

outputs();
draw.use("brush");
$("prompt").value = IDEAS[0];
open("draw");
