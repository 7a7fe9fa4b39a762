// The wire, version 1 (docs/protocol.md): frames, and a link that reconnects by itself and carries on.
// Plain JavaScript, types in comments: `tsc --checkJs` reads them, and so do editors.

/** @typedef {{name: string, mime: string, data: Uint8Array, width?: number, height?: number}} Part */
/** @typedef {{header: Record<string, any>, parts: Record<string, Part>}} Message */
/** @typedef {{header: Record<string, any>, parts: Part[], stamp: number, variation?: boolean}} Ask  stamp: when what is asked
 * for happened. An ask comes back with its answer as it was given. */
/** @typedef {"connecting"|"queue"|"warming"|"ready"|"stopped"|"lost"|"resting"|"full"|"refused"|"failed"} LinkState */

export const VERSION = 1;
const HEAD = 8;
const IN_FLIGHT = 2; // keeps the server busy; more would only be dropped there
const GIVE_UP_MS = 8000;
const SILENT_MS = 12000; // a server that answers no ping for this long is gone, whatever the network says

/** @param {Record<string, any>} header @param {Part[]} parts @returns {Uint8Array} */
export function pack(header, parts = []) {
  const listed = parts.map(({ name, mime, data, width, height }) => ({
    name, mime, bytes: data.length, ...(width ? { width, height } : {}),
  }));
  const text = new TextEncoder().encode(JSON.stringify(listed.length ? { ...header, parts: listed } : header));
  const frame = new Uint8Array(HEAD + text.length + parts.reduce((n, p) => n + p.data.length, 0));
  frame.set([0x46, 0x53, VERSION, 0]);
  new DataView(frame.buffer).setUint32(4, text.length, true);
  frame.set(text, HEAD);
  let at = HEAD + text.length;
  for (const { data } of parts) {
    frame.set(data, at);
    at += data.length;
  }
  return frame;
}

/** @param {ArrayBuffer} buffer @returns {Message} */
export function unpack(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes[0] !== 0x46 || bytes[1] !== 0x53 || bytes[2] !== VERSION) throw new Error("not a frame of this protocol");
  const length = new DataView(buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(HEAD, HEAD + length)));
  /** @type {Record<string, Part>} */
  const parts = {};
  let at = HEAD + length;
  for (const part of header.parts ?? []) {
    parts[part.name] = { ...part, data: bytes.subarray(at, at + part.bytes) };
    at += part.bytes;
  }
  return { header, parts };
}

/**
 * One live session. `want(make)` asks for a picture: `make` is called when there is room on the wire, so that what is sent is
 * always the newest, and a stroke never waits for the network. Events: `state`, `picture` and `error` (with the ask they
 * answer), and every other message under its type.
 */
export class Link extends EventTarget {
  /** @param {string} token */
  constructor(token = "") {
    super();
    this.token = token;
    /** @type {LinkState} */
    this.state = "connecting";
    this.session = "";
    /** @type {Record<string, any>} */
    this.hello = {};
    this._id = 0;
    /** @type {Map<number, {ask: Ask, sent: number}>} */
    this._flying = new Map();
    this._pinged = 0; // when the oldest unanswered ping was sent; 0 when none is
    /** @type {null | (() => Ask | null)} */
    this._make = null;
    /** @type {null | (() => Ask | null)} */
    this._last = null;
    this._tries = 0;
    this.connect();
    setInterval(() => this._expire(), 1000);
    addEventListener("online", () => this._again());
    document.addEventListener("visibilitychange", () => !document.hidden && this._again());
  }

  connect() {
    clearTimeout(this._timer);
    const url = new URL("/v1/stream", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (this.session) url.searchParams.set("resume", this.session);
    const protocols = [`fewstep.v${VERSION}`, ...(this.token ? [`token.${this.token}`] : [])];
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => socket === this._socket && this._heard(unpack(event.data));
    socket.onclose = (event) => socket === this._socket && this._closed(event.code);
    this._socket = socket;
    this._pinged = performance.now();
  }

  /** Do not wait any longer: the network, or the person, has come back. */
  _again() {
    if (this.state !== "refused" && (!this._socket || this._socket.readyState === WebSocket.CLOSED)) this.connect();
  }

  /** @param {LinkState} state @param {Record<string, any>} facts */
  _become(state, facts = {}) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, ...facts } }));
  }

  /** @param {number} code */
  _closed(code) {
    this._flying.clear();
    this._pinged = 0;
    if (code === 4401) return this._become("refused");
    if (code === 4408) return this._become("resting"); // the place is somebody else's until there is something to ask for
    this._tries += 1;
    const wait = Math.min(5000, 250 * 1.7 ** Math.min(this._tries, 8)) * (0.75 + Math.random() / 2);
    this._become(code === 4429 ? "full" : "lost", { wait });
    this._timer = setTimeout(() => this.connect(), code === 4429 ? 3000 + wait : wait);
  }

  /** @param {Message} message */
  _heard({ header, parts }) {
    this._pinged = 0;
    if (header.type === "hello") {
      this.hello = { ...this.hello, ...header }; // while it warms up, a server does not say again what it will serve
      this.session = header.session;
      this._tries = 0;
      this._become(header.state, header);
      if (header.state === "ready" && this._last) this.want(this._last); // carry on where the connection was lost
    } else if (header.type === "queue") {
      this._become("queue", header);
    } else if (header.type === "picture" || (header.type === "error" && header.id)) {
      const ask = this._flying.get(header.id)?.ask;
      for (const id of [...this._flying.keys()]) if (id <= header.id) this._flying.delete(id);
      this.dispatchEvent(new CustomEvent(header.type, { detail: { header, part: parts.image, ask } }));
      this._pump();
    } else {
      this.dispatchEvent(new CustomEvent(header.type, { detail: { header } }));
    }
  }

  /** Ask for a picture with whatever `make` gives when there is room. @param {() => Ask | null} make */
  want(make) {
    this._make = make;
    this._last = make;
    if (this.state === "resting") this._again();
    this._pump();
  }

  /** Ask for nothing more, also not after a reconnect. */
  rest() {
    this._make = this._last = null;
  }

  /** Whether something that was asked for is not here yet. */
  get busy() {
    return this._make !== null || this._flying.size > 0;
  }

  /** For how many milliseconds the oldest request has been under way. */
  get busyFor() {
    const first = this._flying.values().next().value;
    return first ? performance.now() - first.sent : 0;
  }

  _pump() {
    const backed = this._socket && this._socket.bufferedAmount > 1 << 20;
    if (!this._make || this.state !== "ready" || this._flying.size >= IN_FLIGHT || backed) return;
    const make = this._make;
    this._make = null;
    const ask = make();
    if (!ask) return;
    this._id += 1;
    this._flying.set(this._id, { ask, sent: performance.now() });
    this._socket?.send(pack({ type: "draw", id: this._id, ...ask.header }, ask.parts));
  }

  /** Every second: forget what will not be answered any more, and see whether the server is still there. */
  _expire() {
    const now = performance.now();
    for (const [id, { sent }] of this._flying) if (now - sent > GIVE_UP_MS) this._flying.delete(id);
    const socket = this._socket;
    if (socket && socket.readyState <= WebSocket.OPEN && !document.hidden) {
      if (this._pinged && now - this._pinged > SILENT_MS) {
        this._socket = undefined; // its own close event may take minutes
        socket.close();
        this._closed(1006);
      } else if (!this._pinged && socket.readyState === WebSocket.OPEN) {
        this._pinged = now;
        this.say({ type: "time", sent_ms: now });
      }
    } else if (document.hidden) this._pinged = 0; // its clock runs slowly: what it hears late proves nothing
    this._pump();
  }

  /** Tell the server when a picture was really on the screen. @param {number} id @param {number} glass_ms */
  seen(id, glass_ms) {
    this.say({ type: "seen", id, glass_ms });
  }

  /** @param {Record<string, any>} header */
  say(header) {
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(pack(header));
  }

  /** Fetch a picture as a file, with its content credentials. @param {number} id @param {string} format @returns {Promise<Blob>} */
  async file(id, format) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : undefined;
    const answer = await fetch(`/v1/sessions/${this.session}/pictures/${id}?format=${format}`, { headers });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    return answer.blob();
  }
}
