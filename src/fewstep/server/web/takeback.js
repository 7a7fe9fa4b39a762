// Undo for a prompt that a button replaced: browsers forget what was typed when a page sets a field.

import { $ } from "./dom.js";

const UNDO = 40;

/** @typedef {{before: string, after: string, at: number}} Change */

export class TakeBack {
  constructor() {
    this.field = $("prompt");
    /** @type {Change[]} */
    this.past = [];
    /** @type {Change[]} */
    this.future = [];
  }

  /** Put a button's prompt into the field. @param {string} after */
  replace(after) {
    const before = this.field.value;
    if (before === after) return;
    this.past.push({ before, after, at: performance.now() });
    if (this.past.length > UNDO) this.past.shift();
    this.future = [];
    this.field.value = after;
  }

  /** Undo (or redo) the newest replacement, if the field still holds its text and nothing was drawn since.
   * @param {KeyboardEvent} e @param {number} drawn the time of the last other action that the same key undoes
   * @returns {boolean} whether a replacement was undone or redone */
  key(e, drawn) {
    if (!(e.ctrlKey || e.metaKey) || e.key.toLowerCase() !== "z") return false;
    const [from, to] = e.shiftKey ? [this.future, this.past] : [this.past, this.future];
    const change = from.at(-1);
    if (!change || change.at < drawn) return false;
    const [left, comes] = e.shiftKey ? [change.before, change.after] : [change.after, change.before];
    if (this.field.value !== left) return false;
    from.pop();
    to.push({ ...change, at: performance.now() });
    this.field.value = comes;
    return true;
  }
}
