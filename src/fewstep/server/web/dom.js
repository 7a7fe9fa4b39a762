// Helpers that every part of the page uses.

/** @param {string} id */
export const $ = (id) => /** @type {any} */ (document.getElementById(id));

/** Whether a toggle button is on. @param {string} id */
export const isOn = (id) => $(id).getAttribute("aria-pressed") === "true";

/** @param {string} id @param {boolean} on */
export const press = (id, on = !isOn(id)) => $(id).setAttribute("aria-pressed", String(on));

/** Check one of several radio buttons, and let Tab stop at that one alone. @param {Iterable<any>} buttons
 * @param {(b: any) => boolean} is */
export function choose(buttons, is) {
  const all = [...buttons];
  const radios = all.filter((b) => b.getAttribute("role") === "radio");
  for (const b of all) b.dataset.chosen = String(is(b));
  for (const b of radios) {
    b.setAttribute("aria-checked", String(is(b)));
    b.tabIndex = b === (radios.find(is) ?? radios[0]) ? 0 : -1;
  }
}

/** Let the arrow keys go from one button of a group to the next. @param {Element} group @param {string} role */
export function arrows(group, role) {
  group.addEventListener("keydown", (event) => {
    const e = /** @type {KeyboardEvent} */ (event);
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    const buttons = /** @type {HTMLElement[]} */ ([...group.querySelectorAll(`[role="${role}"]`)]);
    const at = buttons.indexOf(/** @type {HTMLElement} */ (e.target));
    if (!by || at < 0) return;
    e.preventDefault();
    const next = buttons[(at + by + buttons.length) % buttons.length];
    next.click();
    next.focus();
  });
}

/** Download a file. @param {Blob} blob @param {string} name */
export function offer(blob, name) {
  const a = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
}
