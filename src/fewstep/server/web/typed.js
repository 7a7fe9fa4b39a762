// The Type tab: variations of a prompt that stands still, and a strip of what was settled on.

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const KEPT = 40;

export class Typed {
  /** @param {(seed: number, prompt: string) => void} choose */
  constructor(choose) {
    this.choose = choose;
    /** @type {number[]} */
    this.wanted = [];
    this._empty();
  }

  _empty() {
    $("variations").replaceChildren(...[1, 2, 3, 4].map(() => thumb("Not drawn yet", true)));
  }

  /** The prompt has stood still: draw these seeds next. @param {number} seed */
  begin(seed) {
    this._empty();
    this.wanted = [1, 2, 3, 4].map((i) => seed + i);
    this.first = seed + 1;
  }

  /** The prompt is changing again. */
  stop() {
    this.wanted = [];
  }

  /** @param {string} url @param {number} seed @param {string} prompt */
  show(url, seed, prompt) {
    this.wanted = this.wanted.filter((s) => s !== seed);
    const place = $("variations").children[seed - this.first];
    if (!place) return;
    const made = thumb(`${prompt}, seed ${seed}`);
    made.append(Object.assign(new Image(), { src: url, alt: "" }));
    made.onclick = () => this.choose(seed, prompt);
    place.replaceWith(made);
  }

  /** @param {string} url @param {number} seed @param {string} prompt */
  settle(url, seed, prompt) {
    const strip = $("history");
    const newest = strip.querySelector(".thumb");
    if (!prompt || (newest && newest.dataset.key === `${seed} ${prompt}`)) return;
    strip.querySelector(".hint")?.remove();
    const made = thumb(`${prompt}, seed ${seed}`);
    made.dataset.key = `${seed} ${prompt}`;
    made.append(Object.assign(new Image(), { src: url, alt: "" }));
    made.onclick = () => this.choose(seed, prompt);
    strip.prepend(made);
    while (strip.children.length > KEPT) strip.lastChild.remove();
  }
}

/** @param {string} title @param {boolean} waiting */
function thumb(title, waiting = false) {
  const b = Object.assign(document.createElement("button"), { className: waiting ? "thumb waiting" : "thumb", title });
  b.setAttribute("aria-label", title);
  b.disabled = waiting;
  return b;
}
