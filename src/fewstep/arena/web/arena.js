// The arena's page: one pair at a time, one or two questions, and every answer is saved before the next pair comes.

/** @typedef {"left" | "tie" | "right"} Side */
/** @typedef {{rater: string, done: number, total: number, questions: string[], number?: number, prompt?: string}} Pair */

const KEYS = /** @type {Record<string, Side>} */ ({
  ArrowLeft: "left", 1: "left", ArrowDown: "tie", 2: "tie", ArrowRight: "right", 3: "right",
});
const ASKED = /** @type {Record<string, string>} */ ({ looks: "Which looks better?", follows: "Which follows the prompt better?" });
const AGAIN_MS = 1500;

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
/** @param {string} text A token, or the whole address that holds it. */
const tokenIn = (text) => new URLSearchParams(text.split("#")[1] ?? "").get("token") ?? text.trim();

let token = "";
/** @type {Pair | null} */
let pair = null;
/** @type {Record<string, Side>} */
let answers = {};
let busy = true;

/** An answer of the server, or an error with its status. @param {string} path @param {RequestInit} [options] */
async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { authorization: `Bearer ${token}`, "content-type": "application/json" } });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: null }));
  throw Object.assign(new Error(error?.message ?? "the arena failed at this: try again"), { status: response.status });
}

/** @param {string} text */
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = !text;
}

/** @param {"vote" | "end" | "enter"} which */
function show(which) {
  for (const id of ["vote", "end", "enter"]) $(id).hidden = id !== which;
  $("way").hidden = which === "enter";
}

/** Show a pair once both of its pictures are here, so that neither is seen before the other. @param {Pair} next */
async function present(next) {
  pair = next;
  answers = {};
  $("progress").max = Math.max(next.total, 1);
  $("progress").value = next.done;
  $("count").textContent = `${next.done} of ${next.total}`;
  $("undo").disabled = next.done === 0;
  if (next.number === undefined) {
    busy = false;
    $("thanks").textContent = `Thank you, ${next.rater}: all ${next.total} pairs are judged.`;
    show("end");
    $("thanks").focus();
    return;
  }
  $("pair").setAttribute("aria-busy", "true");
  const files = await Promise.all(["left", "right"].map(async (side) => (await ask(`api/picture/${next.number}/${side}`)).blob()));
  await Promise.all(["left", "right"].map(async (side, i) => {
    const image = /** @type {HTMLImageElement} */ ($(side));
    const before = image.src;
    image.src = URL.createObjectURL(files[i]);
    await image.decode().catch(() => {});
    if (before) URL.revokeObjectURL(before);
  }));
  show("vote");
  $("prompt").textContent = next.prompt ?? "";
  $("pair").setAttribute("aria-busy", "false");
  busy = false;
  question();
  $("said").textContent = `Pair ${next.done + 1} of ${next.total}. ${$("question").firstChild.textContent}`;
}

/** The question that is not answered yet. */
const asked = () => pair?.questions.find((name) => !(name in answers));

function question() {
  const name = asked() ?? "looks";
  const of = pair?.questions ?? [];
  const step = of.length > 1 ? `question ${of.indexOf(name) + 1} of ${of.length}` : "";
  $("question").replaceChildren(ASKED[name], ...(step ? [Object.assign(document.createElement("small"), { textContent: step })] : []));
  $("prompt").classList.toggle("asked", name === "follows");
  for (const button of document.querySelectorAll("[data-side]")) button.classList.remove("chosen");
  $("undo").disabled = !pair?.done && !Object.keys(answers).length;
}

/** @param {Side} side */
async function answer(side) {
  const name = asked();
  if (busy || !pair || pair.number === undefined || !name) return;
  answers[name] = side;
  for (const button of document.querySelectorAll(`[data-side="${side}"]`)) button.classList.add("chosen");
  if (asked()) {
    busy = true; // long enough to see what was chosen, and that a double tap answers one question alone
    setTimeout(() => { busy = false; question(); $("said").textContent = $("question").firstChild.textContent; }, 180);
    return;
  }
  await send("api/vote", { number: pair.number, ...answers });
}

/** Send until it is saved: what was said is kept while the arena cannot be reached. @param {string} path @param {object} said */
async function send(path, said) {
  busy = true;
  for (;;) {
    try {
      const next = await (await ask(path, { method: "POST", body: JSON.stringify(said) })).json();
      toast("");
      return await present(next);
    } catch (error) {
      const { status, message } = /** @type {any} */ (error);
      if (status === 401) return enter(message);
      if (status) { // it was heard and refused: another window has voted
        await start();
        return toast(message);
      }
      toast("The arena cannot be reached. Your answer is kept, and sent as soon as it can.");
      await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }
}

async function undo() {
  if (busy || !pair) return;
  if (Object.keys(answers).length) {
    answers = {};
    return question();
  }
  if (pair.done) await send("api/undo", {});
}

/** @param {string} why */
function enter(why) {
  busy = false;
  if (why) $("why").textContent = `${why[0].toUpperCase()}${why.slice(1)}.`;
  show("enter");
  $("token").focus();
}

async function start() {
  try {
    await present(await (await ask("api/pair")).json());
    toast("");
  } catch (error) {
    const { status, message } = /** @type {any} */ (error);
    if (status === 401) return enter(token ? message : "");
    toast(status ? message : "The arena cannot be reached: start it again, and this page goes on.");
    setTimeout(start, AGAIN_MS);
  }
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !$("enter").hidden) return;
  const side = KEYS[event.key];
  if (side) answer(side);
  else if (event.key === "Backspace" || event.key === "u") undo();
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-side]")) {
  button.addEventListener("click", () => answer(/** @type {Side} */ (/** @type {HTMLElement} */ (button).dataset.side)));
}
$("undo").addEventListener("click", undo);
$("token-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  token = tokenIn($("token").value);
  sessionStorage.setItem("arena-token", token);
  $("token-form").reset();
  start();
});

const came = new URLSearchParams(location.hash.slice(1)).get("token");
token = came ?? sessionStorage.getItem("arena-token") ?? "";
if (came) {
  sessionStorage.setItem("arena-token", came);
  history.replaceState(null, "", location.pathname); // so the browser's history never holds it
}
start();
