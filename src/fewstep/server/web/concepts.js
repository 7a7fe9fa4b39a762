// The names that the model knows. They are suggested while the person types a prompt, and named when a prompt is far from all of them.
// A model without a list suggests nothing. Suggestions take the place of the ideas, so that nothing moves and no picture is covered.

import { $ } from "./dom.js";

const SHOWN = 8;
const ARTICLE = /^(an?|the)\s+/i;

/** Names with a word that begins with the text; names that begin with it come first. @param {string[]} names @param {string} text */
export function matching(names, text) {
  const wanted = text.trim().toLowerCase().replace(ARTICLE, "");
  if (wanted.length < 2) return [];
  const first = names.filter((name) => name.toLowerCase().startsWith(wanted));
  const later = names.filter((name) => !first.includes(name) && name.toLowerCase().includes(` ${wanted}`));
  const found = [...first.sort((a, b) => a.length - b.length), ...later.sort((a, b) => a.length - b.length)];
  return found.length === 1 && found[0].toLowerCase() === wanted ? [] : found.slice(0, SHOWN);
}

export class Concepts {
  /** @param {import("./wire.js").Link} link @param {(prompt: string) => void} choose */
  constructor(link, choose) {
    this.link = link;
    this.choose = choose;
    /** @type {string[]} */
    this.names = [];
    this.model = "";
    this.far = ""; // the names nearest to a prompt that is far from all of them
    this.at = -1; // the suggestion that the arrow keys have reached
    this.prompt = $("prompt");
    this.list = $("concepts");
    this.prompt.addEventListener("input", () => this._offer(matching(this.names, this.prompt.value)));
    this.prompt.addEventListener("blur", () => this._offer([]));
    // runs before the field's own keys: Enter on a suggestion must not also send the prompt
    this.prompt.parentElement.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => this._key(e), true);
    this.list.addEventListener("pointerdown", (/** @type {Event} */ e) => e.preventDefault()); // the field keeps the focus
    link.addEventListener("state", () => this._fetch());
    link.addEventListener("picture", (event) => {
      const { header, ask } = /** @type {CustomEvent} */ (event).detail;
      if (ask && !ask.variation && ask.header.prompt === this.prompt.value.trim()) this._tellFar(header.far ?? []);
    });
  }

  /** Fetch the names, once for each model. */
  async _fetch() {
    const name = this.link.state === "ready" && this.link.hello.model?.name;
    if (!name || name === this.model) return;
    this.model = name;
    try {
      this.names = JSON.parse(await (await this.link._fetch("v1/concepts")).text()).concepts;
    } catch {
      this.model = ""; // the next change of state tries again
    }
    if (!this.names.length) return;
    const said = { role: "combobox", "aria-autocomplete": "list", "aria-controls": "concepts", "aria-expanded": "false" };
    for (const [key, value] of Object.entries(said)) this.prompt.setAttribute(key, value);
  }

  get open() {
    return !this.list.hidden;
  }

  /** @param {string[]} found */
  _offer(found) {
    this.list.replaceChildren(...found.map((name, i) => {
      const option = Object.assign(document.createElement("button"), { id: `concept-${i}`, textContent: name, tabIndex: -1 });
      option.setAttribute("role", "option");
      option.onclick = () => this._pick(name);
      return option;
    }));
    this.list.hidden = !found.length;
    if (this.names.length) this.prompt.setAttribute("aria-expanded", String(this.open));
    this._move(-1);
    this._row();
  }

  /** @param {number} at */
  _move(at) {
    this.at = at;
    for (const [i, option] of [...this.list.children].entries()) option.setAttribute("aria-selected", String(i === at));
    const on = this.list.children[at];
    if (on) this.prompt.setAttribute("aria-activedescendant", on.id);
    else this.prompt.removeAttribute("aria-activedescendant");
    on?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** @param {string} name */
  _pick(name) {
    this._offer([]);
    this.choose(name);
  }

  /** @param {KeyboardEvent} e */
  _key(e) {
    const n = this.list.children.length;
    if (!this.open || e.isComposing) return;
    if (e.key === "ArrowDown") this._move(this.at + 1 < n ? this.at + 1 : -1);
    else if (e.key === "ArrowUp") this._move(this.at < 0 ? n - 1 : this.at - 1);
    else if (e.key === "Escape") this._offer([]);
    else if (e.key === "Enter" && this.at >= 0) this._pick(this.list.children[this.at].textContent);
    else return;
    e.preventDefault();
    e.stopPropagation();
  }

  /** @param {string[]} nearest */
  _tellFar(nearest) {
    const key = nearest.join("\n");
    if (this.far === key) return;
    this.far = key;
    $("far-names").replaceChildren(...nearest.map((name) => {
      return Object.assign(document.createElement("button"), { textContent: name, onclick: () => this._pick(name) });
    }));
    $("far-said").textContent = nearest.length ? "New to this model. Nearest:" : "";
    this._row();
  }

  /** The row shows one of three things. */
  _row() {
    $("far").dataset.shown = String(!this.open && Boolean(this.far));
    $("ideas").hidden = this.open || Boolean(this.far);
  }
}
