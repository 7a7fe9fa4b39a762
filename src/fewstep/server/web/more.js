// The More menu, for what is rarely needed: full screen, comparison, going on from the result, copies, enlarged files, links, films.

import { middle } from "./camera.js";
import { $, offer } from "./dom.js";
import { Lapse } from "./lapse.js";
import { Shelf } from "./shelf.js";

const LARGE = 512;
// read this before the page removes the fragment from the address
const arrived = new URLSearchParams(location.hash.slice(1));

/** @typedef {{link: import("./wire.js").Link, result: import("./result.js").Result, draw: import("./draw.js").Draw,
 * knobs: import("./knobs.js").Knobs, ask: (at: number, seed: number) => import("./wire.js").Ask | null, tell: (sentence: string, good?: boolean) => void, open: (tab: string) => void}} Page */

export class More {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.menu = $("more-menu");
    this.button = $("more");
    this.comparing = false;
    this.lapse = new Lapse();
    this.shelved = false;
    this.shelf = new Shelf(page.link, page.ask, {
      seed: (seed) => page.knobs.set({ seed }), onto: (picture) => this.onto(picture), tell: page.tell,
    });
    $("shelf-again").onclick = () => this.shelf.vary();
    const does = {
      "more-full": () => this.full(), "more-compare": () => this.compare(!this.comparing), "more-onto": () => this.onto(),
      "more-copy": () => this.copy(), "more-large": () => this.large(), "more-link": () => this.share(), "more-lapse": () => this.film(),
      "more-shelf": () => this.keepShelf(!this.shelved),
    };
    for (const [id, act] of Object.entries(does)) {
      $(id).onclick = () => {
        this.menu.hidePopover();
        act();
      };
    }
    this._menu();
    $("compare-at").oninput = () => this._cut();
    $("result").ondblclick = () => this.full();
    document.addEventListener("fullscreenchange", () => $("more-full").setAttribute("aria-checked", String(Boolean(document.fullscreenElement))));
    page.link.addEventListener("picture", (event) => {
      const { header, part, ask } = /** @type {CustomEvent} */ (event).detail;
      if (!ask || ask.variation) return;
      if (this.comparing) this._input();
      const drawn = this.tab === "draw" && ask.header.task !== "text";
      if (drawn) this.lapse.add(header.id, part);
    });
    new MutationObserver(() => this._tab()).observe(document.body, { attributeFilter: ["data-tab"] });
    addEventListener("hashchange", () => {
      this.arrive(new URLSearchParams(location.hash.slice(1)));
      history.replaceState(null, "", location.pathname + location.search);
    });
  }

  get tab() {
    return document.body.dataset.tab;
  }

  /** Open the menu below its button, or above it if there is no space; handle its keys. */
  _menu() {
    const { menu, button } = this;
    menu.addEventListener("beforetoggle", (/** @type {any} */ e) => {
      button.setAttribute("aria-expanded", String(e.newState === "open"));
      if (e.newState !== "open") return;
      const drawn = Boolean(this.page.result.last);
      for (const b of menu.querySelectorAll("button")) b.disabled = !drawn;
      $("more-link").disabled = false;
      $("more-compare").disabled = !drawn || this.tab === "type";
      $("more-shelf").disabled = this.tab === "type";
      $("more-lapse").disabled = this.lapse.parts.length < 2;
      const side = this.page.result.last?.bitmap.width ?? 0;
      $("more-large").hidden = !side || side >= LARGE;
      $("more-large").querySelector("small").textContent = `${LARGE} px, from ${side}`;
    });
    menu.addEventListener("toggle", (/** @type {any} */ e) => {
      if (e.newState !== "open") return;
      const [at, box] = [button.getBoundingClientRect(), menu.getBoundingClientRect()];
      const below = at.bottom + 6 + box.height <= innerHeight;
      menu.style.top = `${Math.max(8, below ? at.bottom + 6 : at.top - 6 - box.height)}px`;
      menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
      menu.querySelector("button:not(:disabled, [hidden])")?.focus();
    });
    menu.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
      const all = [...menu.querySelectorAll("button:not(:disabled, [hidden])")];
      const at = all.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1 + all.length, Home: 0, End: all.length - 1 }[e.key];
      if (e.key === "Tab") menu.hidePopover();
      if (to === undefined) return;
      e.preventDefault();
      all[to % all.length].focus();
    });
  }

  /** Hide what the Type tab does not have (an input to compare with) or has itself (variations). */
  _tab() {
    if (this.comparing) this.compare(this.tab !== "type");
    if (this.shelved) this.shelf.show(this.tab !== "type");
  }

  /** @param {boolean} on */
  keepShelf(on) {
    this.shelved = on;
    $("more-shelf").setAttribute("aria-checked", String(on));
    this.shelf.show(on);
  }

  async full() {
    try {
      if (document.fullscreenElement) await document.exitFullscreen();
      else await $("result-frame").requestFullscreen();
    } catch {
      this.page.tell("This browser gives no full screen here.");
    }
  }

  // the input beside the result

  /** @param {boolean} on */
  compare(on) {
    this.comparing = on;
    $("more-compare").setAttribute("aria-checked", String(on));
    $("compare").hidden = $("compare-line").hidden = $("compare-at").hidden = !on;
    if (!on) return;
    this._input();
    this._cut();
    $("compare-at").focus();
  }

  /** The input of the picture, as it looks now. */
  _input() {
    const view = $("compare");
    const c = view.getContext("2d");
    const { width, height } = Object.assign(view, { width: $("canvas").width, height: $("canvas").height });
    if (this.tab === "draw") return c.drawImage($("canvas"), 0, 0);
    const video = $("video");
    c.save();
    if (video.classList.contains("mirrored")) c.setTransform(-1, 0, 0, 1, width, 0);
    if (video.videoWidth) c.drawImage(video, ...middle(video, width, height), 0, 0, width, height);
    c.restore();
  }

  _cut() {
    const at = $("compare-at").value;
    $("compare").style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    $("compare-line").style.left = `${at}%`;
    $("compare-at").setAttribute("aria-valuetext", `${at} % of the input`);
  }

  /** Go on from the result: put it onto the canvas and remove the ink. Undo restores both. */
  async onto(picture = $("result")) {
    const { draw, open } = this.page;
    draw.layers.clear();
    await draw.place(picture);
    if (this.tab !== "draw") open("draw");
  }

  // files

  async copy() {
    const { link, result, tell } = this.page;
    if (!result.last) return;
    if (!navigator.clipboard?.write) return tell("Copying needs a page on localhost or https.");
    try {
      const png = link.file(result.last.header.id, { format: "png" });
      await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
      const { watermark } = result.last.header.marks;
      tell(`Copied. A clipboard drops credentials${watermark ? ": the watermark stays" : ""}.`, true);
    } catch (error) {
      tell(`Not copied: ${/** @type {Error} */ (error).message}.`);
    }
  }

  /** Get the picture enlarged by the server, which marks and signs it at that size; its credentials say so. */
  async large() {
    const { result } = this.page;
    await result.save(LARGE);
  }

  async share() {
    const { knobs, tell } = this.page;
    const fields = new URLSearchParams({ prompt: knobs.prompt, seed: String(knobs.seed) });
    const url = `${location.origin}${location.pathname}#${fields}`;
    try {
      await navigator.clipboard.writeText(url);
      tell("Link copied, with prompt and seed. Your drawing and your token are not in it.", true);
    } catch {
      tell(`Copy this link: ${url}`, true);
    }
  }

  /** Take prompt and seed from a link; they replace the kept ones. @param {URLSearchParams} fields */
  arrive(fields = arrived) {
    const { knobs, tell } = this.page;
    const prompt = fields.get("prompt")?.slice(0, $("prompt").maxLength);
    const text = fields.get("seed");
    const seed = text !== null && /^\d{1,10}$/.test(text) && Number(text) < 2 ** 31 ? Number(text) : undefined;
    if (text !== null && seed === undefined) tell("The link's seed is none: it goes from 0 to 2147483647.");
    if (prompt !== undefined || seed !== undefined) knobs.set({ prompt, seed });
  }

  async film() {
    const { link, tell } = this.page;
    const made = this.lapse.film();
    if (!made) return tell("This browser cannot make a film.");
    tell(`Making the film: ${Math.ceil(made.seconds)} s …`, true);
    const { blob, ending } = await made.done;
    const name = `fewstep-drawing-${Date.now()}`;
    offer(blob, `${name}.${ending}`);
    if (!link.hello.recordings) return tell("Saved: a film, without credentials.", true);
    try {
      offer(await link.credentials(blob), `${name}.c2pa`);
      tell("Saved: a film, and its credentials beside it.", true);
    } catch (error) {
      tell(`The film is saved; its credentials are not: ${/** @type {Error} */ (error).message}.`);
    }
  }
}
