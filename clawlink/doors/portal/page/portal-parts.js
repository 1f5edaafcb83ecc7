// Parts that the views of a portal share.
import { html, useRef, useState } from "./htm-preact.js";
import { ask, bytes as sized, clean, named, Said, t } from "./parts.js";

// An act, and what came of it: `const [act, state] = useAct()`, then `act(() => ask(...), done)`.
export function useAct() {
  const [state, set] = useState({ busy: false, error: null });
  const act = (work, done = () => {}) => {
    set({ busy: true, error: null });
    work().then(
      (answer) => {
        set({ busy: false, error: null });
        done(answer);
      },
      (error) => set({ busy: false, error }),
    );
  };
  return [act, state];
}

const keyOf = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// A key for each different body until ``renew`` is called: if a reply was lost, the same request again does nothing twice.
export function useKey() {
  const kept = useRef({ said: null, key: null });
  const keyed = (body) => {
    const said = JSON.stringify(body);
    if (kept.current.said !== said) kept.current = { said, key: keyOf() };
    return { ...body, idempotency_key: kept.current.key };
  };
  const renew = () => {
    kept.current = { said: null, key: null };
  };
  return [keyed, renew];
}

// Send a body, and tell on the way how many bytes of it have left. ``fetch`` cannot tell.
export function put(method, path, body, session, told, signal) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    const end = (words, status) => fail(Object.assign(new Error(words), { status }));
    const stop = () => request.abort();
    request.open(method, path);
    request.setRequestHeader("ClawLink-CSRF", session.csrf);
    request.responseType = "json";
    request.upload.onprogress = (event) => told(event.loaded);
    request.onload = () => {
      const answer = request.response || {};
      if (request.status === 200) done(answer);
      else end(named(answer.code, String(answer.detail || request.status)), request.status);
    };
    request.onerror = () => end(t("error.no_answer"));
    request.onabort = () => end(t("portal.file.stopped"), 0);
    request.onloadend = () => signal.removeEventListener("abort", stop);
    if (signal.aborted) end(t("portal.file.stopped"), 0);
    else {
      signal.addEventListener("abort", stop);
      request.send(body);
    }
  });
}

// Send a form with one file.
export function upload(path, part, file, session, told = () => {}, signal = new AbortController().signal) {
  const body = new FormData();
  body.append(part, file);
  return put("POST", path, body, session, told, signal);
}

const TRIES = 5;
const PAUSE_MS = 500;
const passes = ({ status }) => status === undefined || status === 429 || status >= 500;

async function patiently(work, signal) {
  for (let tried = 1; ; tried += 1) {
    try {
      return await work();
    } catch (error) {
      if (tried === TRIES || signal.aborted || !passes(error)) throw error;
    }
    await new Promise((done) => setTimeout(done, PAUSE_MS * 2 ** (tried - 1)));
  }
}

// The files that are on their way to the portal. The browser asks before it leaves the page.
let underWay = 0;
addEventListener("beforeunload", (event) => {
  if (underWay) event.preventDefault();
});

// Bring a file to the portal in parts, which sends it to a contact. The result is its id. With the same key a later
// call goes on with the parts that are missing.
async function bring(file, begin, session, told, signal) {
  const about = await patiently(() => ask("api/portal/files", { ...begin, filename: file.name, size: file.size }), signal);
  const there = new Set(about.received_chunks);
  const path = `api/portal/files/${encodeURIComponent(about.file_id)}`;
  for (let index = 0, at = 0; at < file.size; index += 1, at += about.chunk_size) {
    const part = file.slice(at, at + about.chunk_size);
    const left = (bytes) => told(at + Math.min(bytes, part.size));
    if (!there.has(index)) await patiently(() => put("PUT", `${path}/${index}`, part, session, left, signal), signal);
    left(part.size);
  }
  return about.file_id;
}

// The files that a form sends: `const files = useFiles(session)`, `<${Pick} files=${files} />`, and on the way
// `await files.each(({ bring }) => bring({ to }))`. What was sent is not sent again, until `files.clear()`.
export function useFiles(session) {
  const [shown, show] = useState([]);
  const all = useRef(shown);
  const set = (next) => {
    all.current = next;
    show(next);
  };
  const change = (one, more) => set(all.current.map((other) => (other.id === one.id ? { ...other, ...more } : other)));
  const stopping = useRef(new AbortController());
  const running = shown.some((one) => one.sent !== null && !one.result);
  return {
    all: shown,
    running,
    add: (list) => set([...all.current, ...[...list].map((file) => ({ file, id: keyOf(), sent: null, result: null }))]),
    drop: (one) => set(all.current.filter((other) => other.id !== one.id)),
    clear: () => set([]),
    stop: () => stopping.current.abort(),
    async each(send) {
      const results = [];
      stopping.current = new AbortController();
      const { signal } = stopping.current;
      for (const one of all.current) {
        const told = (sent) => change(one, { sent });
        if (!one.result) {
          told(0);
          underWay += 1;
          try {
            const way = {
              bring: (where) => bring(one.file, { ...where, idempotency_key: one.id }, session, told, signal),
              upload: (path, part) => upload(path, part, one.file, session, told, signal),
            };
            one.result = await send(way, one.file);
            change(one, { result: one.result });
          } catch (error) {
            change(one, { sent: null });
            throw Object.assign(new Error(`${clean(one.file.name)}${t("colon")}${error.message}`), { status: error.status });
          } finally {
            underWay -= 1;
          }
        }
        results.push(one.result);
      }
      return results;
    },
  };
}

// The choice of files for a form, by a button or by dropping them. ``most`` is the size that one may have.
export function Pick({ files, label, most = Infinity }) {
  const [over, hover] = useState(false);
  const [refused, refuse] = useState(null);
  const take = (list) => {
    const large = [...list].find((file) => file.size > most);
    refuse(large ? t("portal.pick.large", { name: clean(large.name), most: sized(most) }) : null);
    files.add([...list].filter((file) => file.size <= most));
  };
  const drop = (event) => {
    event.preventDefault();
    hover(false);
    if (files.running) return;
    const folders = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const list = [...event.dataTransfer.files];
    const named = new Set(folders.filter((entry) => entry && entry.isDirectory).map((entry) => entry.name));
    take(list.filter((file) => !named.has(file.name)));
    if (named.size) refuse(t("portal.pick.folder", { name: clean([...named][0]) }));
  };
  const drag = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    hover(true);
  };
  return html`<div class=${over ? "pick over" : "pick"} onDragOver=${drag} onDragLeave=${() => hover(false)} onDrop=${drop}>
    <label>${label} <input name="file" type="file" multiple disabled=${files.running}
      onChange=${(event) => {
        take(event.target.files);
        event.target.value = "";
      }} /></label>
    <p class="hint">${t("portal.pick.drop")}</p>
    ${files.all.length > 0 &&
    html`<ul>${files.all.map(
      (one) => html`<li key=${one.id}><${Said} text=${one.file.name} /> <${Size} bytes=${one.file.size} />${" "}
        ${one.sent === null
          ? !files.running && html`<button type="button" onClick=${() => files.drop(one)}
              aria-label=${t("portal.pick.remove", { name: clean(one.file.name) })}>×</button>`
          : html`<progress max=${Math.max(one.file.size, 1)} value=${one.result ? Math.max(one.file.size, 1) : one.sent}
              aria-label=${t("portal.pick.progress", { name: clean(one.file.name) })}></progress>`}</li>`,
    )}</ul>`}
    ${files.running && html`<p><button type="button" onClick=${files.stop}>${t("portal.pick.stop")}</button></p>`}
    ${refused && html`<p class="trouble" role="alert">${refused}</p>`}</div>`;
}

export const Size = ({ bytes }) => html`<span>${sized(bytes)}</span>`;

// The name of a file, which leads to its contents if they are here.
export const FileName = ({ file }) =>
  file.file_id && file.status === "completed"
    ? html`<a href=${`api/file/download/${encodeURIComponent(file.file_id)}`} download data-row><${Said} text=${file.filename} /></a>`
    : html`<${Said} text=${file.filename} />`;

export const Failed = ({ state }) =>
  state.error && html`<p class="trouble" role="alert">${clean(state.error.message)}</p>`;

// A text to copy, with its button.
export function Copy({ text }) {
  const [done, set] = useState(false);
  const copy = () => navigator.clipboard.writeText(text).then(() => set(true), () => {});
  return html`<div class="copy"><pre class="said" dir="auto">${clean(text)}</pre>
    <button type="button" onClick=${copy}>${t(done ? "portal.copied" : "portal.copy")}</button></div>`;
}

export const field = (event, name) => event.target.elements[name].value.trim();

export const nameOf = (contact) => contact.name || contact.portal_url;
