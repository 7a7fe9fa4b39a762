// The client for browsers, version 1 of the protocol (docs/protocol.md): frames, and a connection that reconnects by itself.
// One file without dependencies, for any page. Its types are in comments, which `tsc --checkJs` and editors read.

/** @typedef {{name: string, mime: string, data: Uint8Array, width?: number, height?: number}} Part */
/** @typedef {{header: Record<string, any>, parts: Record<string, Part>}} Message */
/** @typedef {{header: Record<string, any>, parts: Part[], stamp: number, variation?: boolean}} Ask  stamp: the time of the
 * event that caused the request. Its answer brings the same object back. */
/** @typedef {"connecting"|"queue"|"warming"|"ready"|"stopped"|"lost"|"resting"|"full"|"refused"|"failed"|"closed"} LinkState */
/** @typedef {ImageData | Blob} Picturelike  a Blob holds a PNG, JPEG or WebP file */
/** @typedef {{prompt?: string, image?: Picturelike, mask?: Picturelike, seed?: number, strength?: number, steps?: number,
 * blend_prompt?: string, blend?: number, smoothing?: number, target_ms?: number, size?: number,
 * encoder?: "png"|"webp"|"jpeg"}} Drawing  what to draw; a mask is white where the image is drawn anew */
/** @typedef {{id: number, seed: number, blob: Blob, header: Record<string, any>}} Picture  header: the facts of docs/protocol.md */
/** @typedef {"png"|"webp"|"jpeg"} Format */
/** @typedef {{ask: Ask, since: number, resolve: (picture: Picture) => void, reject: (error: Error) => void}} Single */

export const VERSION = 1;
const HEAD = 8;
const IN_FLIGHT = 2; // two keep the server busy; it would only drop more
const GIVE_UP_MS = 8000;
const SILENT_MS = 12000; // a server that answers no ping for this long is gone, whatever the network says
const PATIENT_MS = 120_000; // a single picture may take this long, reconnecting included

const REFUSALS = [4401, 4403, 4426]; // a wrong token, a page that is not allowed, a page of another version
const TOO_LARGE = 1009; // closes a WebSocket after a message over the other side's limit
const BARE = "pixels/rgba";
const CARRIED = /^[\w!#$%&'*+.^`|~-]*$/; // the characters that a subprotocol, and so a token, may have
/** States that the client never leaves by itself. */
const OVER = ["refused", "closed"];
/** @type {Record<string, string>} */
const SAYS = {
  lost: "no server answers: start it with fewstep serve, and look at its address",
  full: "room and queue are full: try again in a moment",
  refused: "no access: use the address with the token that the server printed",
  closed: "this session is closed: connect again",
};

/** A failure: a sentence that holds the fix, and a code for programs. */
export class ServerError extends Error {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.name = "ServerError";
    this.code = code;
  }
}

/**
 * Connect, wait in the queue and for the model if necessary, and return a live session. Rejects with a ServerError: no server
 * answers (`lost`), all sessions are taken (`full`), no access (`token`, `origin`), another `version`, or the model cannot be opened (`failed`).
 * @param {string} url of the server; `#token=...` at its end has the effect of the option
 * @param {{token?: string}} options
 * @returns {Promise<Link>}
 */
export async function connect(url, options = {}) {
  const link = new Link(url, options);
  try {
    await link.ready();
  } catch (error) {
    link.close();
    throw error;
  }
  return link;
}

/** @param {Record<string, any>} header @param {Part[]} parts @returns {Uint8Array<ArrayBuffer>} */
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

/** @param {string} name @param {Picturelike} picture @returns {Promise<Part>} */
async function partOf(name, picture) {
  if (picture instanceof Blob) return { name, mime: picture.type, data: new Uint8Array(await picture.arrayBuffer()) };
  const { data, width, height } = picture;
  return { name, mime: BARE, data: new Uint8Array(data.buffer, data.byteOffset, data.length), width, height };
}

/** Bare pixels as a PNG file: smaller, but slow to make. Files stay as they are. @param {Part} part @returns {Promise<Part>} */
async function fileOf(part) {
  const { name, mime, data, width = 0, height = 0 } = part;
  if (mime !== BARE) return part;
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0);
  return partOf(name, await canvas.convertToBlob());
}

/**
 * One live session. `draw` asks for a picture and waits for it. `want(make)` is for input that changes all the time: `make` is
 * called when the connection can take a request, so the newest input is sent, and a stroke never waits for the network;
 * the answers come as events: `state`, `picture` and `error` (with the ask they answer), and every other message under its type.
 */
export class Link extends EventTarget {
  /** @param {string} url @param {{token?: string}} options */
  constructor(url, { token } = {}) {
    super();
    const [address, fragment] = url.split("#");
    this.base = new URL(address.includes("://") ? address : `http://${address}`);
    if (!this.base.pathname.endsWith("/")) this.base.pathname += "/";
    const given = token ?? new URLSearchParams(fragment).get("token") ?? "";
    this.token = CARRIED.test(given) ? given : ""; // no other text can be a token; a server that wants one says so
    /** @type {LinkState} */
    this.state = "connecting";
    this.session = "";
    /** @type {Record<string, any>} */
    this.hello = {};
    /** Why it is not ready. */
    this.trouble = new ServerError("connecting", "not connected yet");
    this._id = 0;
    /** @type {Map<number, {ask: Ask, sent: number, single?: Single}>} */
    this._flying = new Map();
    /** @type {{id: number, ask: Ask, single?: Single} | undefined} the newest of them that was answered */
    this._done = undefined;
    /** @type {{id: number, ask: Ask, single?: Single} | undefined} the newest that is waited for no more; its answer may still come */
    this._late = undefined;
    /** @type {Single[]} asked for with `draw`, the first on the wire or about to be */
    this._singles = [];
    this._pinged = 0; // when the oldest unanswered ping was sent; 0 when none is
    this._most = Infinity; // bytes that the server takes in one message
    this._largest = 0; // bytes of the largest request on this connection
    this._shrinking = false; // the newest request is too large, and is being made smaller
    /** @type {null | (() => Ask | null)} */
    this._make = null;
    /** @type {null | (() => Ask | null)} */
    this._last = null;
    this._tries = 0;
    this._connect();
    this._clock = setInterval(() => this._expire(), 1000);
    this._over = new AbortController();
    const { signal } = this._over;
    globalThis.addEventListener?.("online", () => this._again(), { signal });
    globalThis.addEventListener?.("offline", () => this._gone(), { signal });
    globalThis.document?.addEventListener("visibilitychange", () => !document.hidden && this._again(), { signal });
  }

  /** @param {string} path @param {string} scheme */
  _url(path, scheme = "http") {
    const url = new URL(path, this.base);
    url.protocol = this.base.protocol.replace("http", scheme);
    return url;
  }

  _connect() {
    clearTimeout(this._timer);
    const url = this._url("v1/stream", "ws");
    if (this.session) url.searchParams.set("resume", this.session);
    const protocols = [`fewstep.v${VERSION}`, ...(this.token ? [`token.${this.token}`] : [])];
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => socket === this._socket && this._heard(unpack(event.data));
    socket.onclose = (event) => socket === this._socket && this._closed(event.code);
    this._socket = socket;
    /** @type {ServerError | null} what the server said about this connection before it closed it */
    this._said = null;
    this._pinged = performance.now();
    this._largest = 0;
  }

  /** Try again at once: the network, or the person, has come back. */
  _again() {
    if (!OVER.includes(this.state) && (!this._socket || this._socket.readyState === WebSocket.CLOSED)) this._connect();
  }

  /** The connection counts as lost from now on, whatever its socket says: its own close event may take minutes. A server that can
   * be reached all the same, such as one on this very machine, is found again at once. */
  _gone() {
    const socket = this._socket;
    if (!socket || socket.readyState > WebSocket.OPEN) return;
    this._socket = undefined;
    socket.close();
    this._closed(1006);
  }

  /** Try another token after the last was refused. @param {string} token */
  admit(token) {
    this.token = CARRIED.test(token) ? token : "";
    if (this.state !== "refused") return;
    this._connect();
    this._become("connecting");
  }

  /** @param {LinkState} state @param {Record<string, any>} facts */
  _become(state, facts = {}) {
    this.state = state;
    this.trouble = this._said ?? new ServerError(state, SAYS[state] ?? `the server is ${state}${facts.doing ? `: ${facts.doing}` : ""}`);
    if (OVER.includes(state)) {
      for (const single of this._singles.splice(0)) single.reject(this.trouble);
    }
    this.dispatchEvent(new CustomEvent("state", { detail: { state, why: this.trouble.message, code: this.trouble.code, ...facts } }));
  }

  /** @param {number} code */
  _closed(code) {
    this._flying.clear();
    this._late = undefined;
    this._pinged = 0;
    if (code === TOO_LARGE && this._largest) this._most = Math.min(this._most, 0.9 * this._largest); // by more than frames differ
    if (REFUSALS.includes(code)) return this._become("refused");
    if (code === 4408) {
      this._become("resting"); // another session may have the place until this one asks for something
      return this._singles.length && this._again();
    }
    this._tries += 1;
    const wait = Math.min(5000, 250 * 1.7 ** Math.min(this._tries, 8)) * (0.75 + Math.random() / 2);
    this._become(code === 4429 ? "full" : "lost", { wait });
    if (!OVER.includes(this.state)) this._timer = setTimeout(() => this._connect(), code === 4429 ? 3000 + wait : wait);
  }

  /** @param {Message} message */
  _heard({ header, parts }) {
    this._pinged = 0;
    if (header.type === "hello") {
      const before = this.hello.limits?.message_bytes;
      this.hello = { ...this.hello, ...header }; // while it warms up, a server does not say again what it will serve
      const most = this.hello.limits?.message_bytes;
      if (most !== before) this._most = most; // otherwise the limit that a close with 1009 taught still holds
      this.session = header.session;
      this._tries = 0;
      this._become(header.state, header);
      if (header.state === "ready" && this._last) this.want(this._last); // carry on where the connection was lost
      this._pump();
    } else if (header.type === "queue") {
      this._become("queue", header);
    } else if (header.type === "picture" || (header.type === "error" && header.id)) {
      for (const id of [...this._flying.keys()]) if (id < header.id) this._flying.delete(id);
      this._answer(header, parts.image);
    } else {
      if (header.type === "error" && this.state !== "ready") this._said = new ServerError(header.code, header.message);
      this.dispatchEvent(new CustomEvent(header.type, { detail: { header } }));
    }
  }

  /** Give the caller the picture, or the reason why there is none. @param {Record<string, any>} header @param {Part} [part] */
  _answer(header, part) {
    const known = [header.refined ? this._done : undefined, this._late].find((one) => one?.id === header.id);
    const { ask, single } = this._flying.get(header.id) ?? known ?? { ask: undefined, single: undefined };
    this._flying.delete(header.id);
    if (this._late && this._late.id <= header.id) this._late = undefined;
    this._done = ask && !single ? { id: header.id, ask } : undefined; // this request may get a second answer, at rest
    if (single) this._settle(single, header, part);
    else this.dispatchEvent(new CustomEvent(header.type, { detail: { header, part, ask } }));
    this._pump();
  }

  /** @param {Single} single @param {Record<string, any>} header @param {Part | undefined} part */
  _settle(single, header, part) {
    this._singles = this._singles.filter((other) => other !== single);
    if (!part) return single.reject(new ServerError(header.code, header.message));
    single.resolve({ id: header.id, seed: header.seed, blob: new Blob([/** @type {any} */ (part.data)], { type: part.mime }), header });
  }

  /** The next event of a type, as long as the session is as it should be. @param {string} type @param {() => boolean} wrong
   * @returns {Promise<Record<string, any>>} */
  _next(type, wrong) {
    const over = new AbortController();
    return new Promise((resolve, reject) => {
      const { signal } = over;
      this.addEventListener(type, (event) => resolve(/** @type {CustomEvent} */ (event).detail), { signal });
      this.addEventListener("state", () => wrong() && reject(this.trouble), { signal });
    }).finally(() => over.abort());
  }

  /** Resolves when pictures can be drawn. Rejects with a ServerError if waiting cannot help. @returns {Promise<void>} */
  async ready() {
    const wrong = () => [...OVER, "lost", "full", "failed"].includes(this.state);
    while (this.state !== "ready") {
      if (wrong()) throw this.trouble;
      await this._next("state", wrong);
    }
  }

  /** Draw one picture and wait for it. One is drawn after the other, and none overtakes another. A connection that is lost
   * meanwhile is made anew. @param {Drawing} drawing @returns {Promise<Picture>} rejects with a ServerError */
  async draw({ image, mask, ...header }) {
    const given = Object.entries({ image, mask });
    const parts = await Promise.all(given.flatMap(([name, picture]) => (picture ? [partOf(name, picture)] : [])));
    const task = ["text", "image", "inpaint"][parts.length];
    return new Promise((resolve, reject) => {
      if (OVER.includes(this.state)) return reject(this.trouble);
      const now = performance.now();
      this._singles.push({ ask: { header: { task, ...header }, parts, stamp: now }, since: now, resolve, reject });
      if (this.state === "resting") this._again();
      this._pump();
    });
  }

  /** The server's live numbers. @returns {Promise<Record<string, any>>} */
  async stats() {
    await this.ready();
    const answer = this._next("stats", () => this.state !== "ready");
    this.say({ type: "stats" });
    return (await answer).header;
  }

  /** Ask for a picture of what `make` returns when the connection can take a request. @param {() => Ask | null} make */
  want(make) {
    this._make = make;
    this._last = make;
    if (this.state === "resting") this._again();
    this._pump();
  }

  /** Stop the requests of `want`, also after a reconnect. */
  rest() {
    this._make = this._last = null;
  }

  /** End the session. Open requests are rejected. */
  close() {
    if (this.state === "closed") return;
    clearInterval(this._clock);
    clearTimeout(this._timer);
    this._over.abort();
    this.rest();
    this._flying.clear();
    const socket = this._socket;
    this._socket = undefined;
    socket?.close();
    this._said = null;
    this._become("closed");
  }

  /** Whether what was asked for with `want` last is still to be sent. */
  get wanting() {
    return this._make !== null;
  }

  /** Whether a request is still open. */
  get busy() {
    return this._make !== null || this._flying.size > 0;
  }

  /** For how many milliseconds the oldest request has been under way. */
  get busyFor() {
    const first = this._flying.values().next().value;
    return first ? performance.now() - first.sent : 0;
  }

  _pump() {
    const socket = this._socket;
    if (this.state !== "ready" || !socket || this._shrinking || socket.bufferedAmount > 1 << 20) return;
    const single = this._singles[0];
    const room = single ? 1 : IN_FLIGHT; // a single picture is alone on the wire: nothing may overtake it
    if (this._flying.size >= room || !(single || this._make)) return;
    const make = this._make;
    if (!single) this._make = null;
    const ask = single ? single.ask : make?.();
    if (!ask) return;
    this._id += 1;
    this._flying.set(this._id, { ask, sent: performance.now(), single });
    const frame = pack({ type: "draw", id: this._id, ...ask.header }, ask.parts);
    if (frame.length <= this._most) this._send(frame);
    else this._shrink(this._id, ask);
  }

  /** @param {Uint8Array<ArrayBuffer>} frame of a request */
  _send(frame) {
    this._largest = Math.max(this._largest, frame.length);
    this._socket?.send(frame);
  }

  /** Send a request that is too large as it is with files in place of bare pixels, or answer it if that is too large, too: sent,
   * it would only end the connection. @param {number} id @param {Ask} ask */
  async _shrink(id, { header, parts }) {
    this._shrinking = true; // nothing newer may overtake it
    const files = await Promise.all(parts.map((part) => fileOf(part).catch(() => part)));
    this._shrinking = false;
    const frame = pack({ type: "draw", id, ...header }, files);
    if (!this._flying.has(id)) this._pump(); // the connection was lost meanwhile
    else if (frame.length > this._most) {
      const what = parts.length ? "picture" : "prompt";
      const fix = "send a smaller one, or start the server with a larger --limits.message-bytes";
      const message = `this ${what} makes a message of ${frame.length} bytes, too large for the server: ${fix}`;
      this._answer({ type: "error", id, code: what, message });
    } else {
      this._send(frame);
      this._pump();
    }
  }

  /** Every second: wait no more for requests that will hardly get an answer, and check that the server is still there. */
  _expire() {
    const now = performance.now();
    for (const [id, { ask, sent, single }] of this._flying) {
      if (now - sent <= (single ? PATIENT_MS : GIVE_UP_MS)) continue;
      this._flying.delete(id);
      if (!single) this._late = { id, ask }; // a busy machine may answer after all, and nothing newer may follow
    }
    for (const single of this._singles.filter(({ since }) => now - since > PATIENT_MS)) {
      this._settle(single, { code: "timeout", message: `no picture came within ${PATIENT_MS / 1000} seconds: try again` }, undefined);
    }
    const socket = this._socket;
    const hidden = Boolean(globalThis.document?.hidden);
    if (socket && socket.readyState <= WebSocket.OPEN && !hidden) {
      if (this._pinged && now - this._pinged > SILENT_MS) this._gone();
      else if (!this._pinged && socket.readyState === WebSocket.OPEN) {
        this._pinged = now;
        this.say({ type: "time", sent_ms: now });
      }
    } else if (hidden) this._pinged = 0; // the timers of a hidden page run slowly, so a late answer proves nothing
    this._pump();
  }

  /** Tell the server how long a picture took to reach the screen. @param {number} id @param {number} glass_ms */
  seen(id, glass_ms) {
    this.say({ type: "seen", id, glass_ms });
  }

  /** @param {Record<string, any>} header */
  say(header) {
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(pack(header));
  }

  /** Fetch one of the session's newest pictures as a file, with its content credentials; `prompt` writes the prompt into them,
   * `side` enlarges it (the credentials say so).
   * @param {number} id @param {{format?: Format, prompt?: boolean, side?: number}} options
   * @returns {Promise<Blob>} */
  async file(id, { format = "png", prompt = false, side = 0 } = {}) {
    const enlarged = side ? `&side=${side}` : "";
    return this._fetch(`v1/sessions/${this.session}/pictures/${id}?format=${format}&prompt=${prompt}${enlarged}`);
  }

  /** The `.c2pa` sidecar of a recording (WebM or MP4): its content credentials, for a file beside it. Only a server whose hello
   * says `recordings` signs them. @param {Blob} recording @returns {Promise<Blob>} */
  async credentials(recording) {
    return this._fetch(`v1/sessions/${this.session}/recordings`, { method: "POST", body: recording });
  }

  /** @param {string} path @param {RequestInit} options @returns {Promise<Blob>} */
  async _fetch(path, options = {}) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : undefined;
    const answer = await fetch(this._url(path), { headers, ...options }).catch(() => {
      throw new ServerError("lost", "the server cannot be reached: try again in a moment");
    });
    if (answer.ok) return answer.blob();
    const { error } = await answer.json();
    throw new ServerError(error.code, error.message);
  }
}
