// A field to paste a token into, if the server asks for one and the page has none.

import { $ } from "./dom.js";
import { read, write } from "./keep.js";

const KEY = "token";

/** A token, or the whole address that the server printed. @param {string} given */
const tokenIn = (given) => new URLSearchParams(given.split("#")[1] ?? "").get("token") ?? given.trim();

/** The token in the address, or else this tab's earlier one. It is removed from the address bar, so the browser's history never holds it. */
export function arrive() {
  const came = new URLSearchParams(location.hash.slice(1)).get("token");
  if (came) write(KEY, came, "sessionStorage");
  return came ?? read(KEY, "sessionStorage") ?? "";
}

/** @param {import("./wire.js").Link} link */
export function ask(link) {
  const form = $("token-form");
  form.onsubmit = (/** @type {Event} */ e) => {
    e.preventDefault();
    const token = tokenIn($("token").value);
    write(KEY, token, "sessionStorage");
    form.reset();
    link.admit(token);
  };
  link.addEventListener("state", (event) => {
    const { state, code } = /** @type {CustomEvent} */ (event).detail;
    form.hidden = !(state === "refused" && code === "token");
  });
}
