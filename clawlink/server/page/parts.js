// Parts that every view uses: requests, time, text of others made harmless, and small components.
import { html, createContext, useContext, useEffect, useRef, useState } from "./htm-preact.js";
import en from "./en.js";

export const LANGUAGES = { en: "English", zh: "中文" };
const texts = { en }; // another language is loaded when it is chosen
export const OPEN = ["input_required", "in_progress", "delivered", "queued"];
export const ENDED = ["completed", "failed", "rejected", "cancelled", "expired", "returned"];

// -- language ---------------------------------------------------------------------------------------------------------

// What the page begins with, if it came with the page: see "begin" of page_files.py.
const begun = document.getElementById("begun");
export const BEGUN = begun && JSON.parse(begun.textContent);

function chosen() {
  // To read a cookie takes as long as to draw the first view: the browser asks another process for it.
  const kept = BEGUN ? BEGUN.language : (document.cookie.match(/(?:^|; )clawlink-language=(\w+)/) || [])[1];
  const wanted = [kept, ...navigator.languages].filter(Boolean).map((name) => name.slice(0, 2));
  return wanted.find((name) => name in LANGUAGES) || "en";
}

export let language = chosen();

const added = [];

async function load(name) {
  if (!texts[name]) texts[name] = Object.assign({}, (await import(`./${name}.js`)).default, ...added.map((more) => more[name]));
}

// Add texts of a door, by language.
export function addTexts(more) {
  added.push(more);
  for (const name of Object.keys(texts)) Object.assign(texts[name], more[name]);
}

await load(language).catch(() => {
  language = "en";
});

document.documentElement.lang = language;

// Show the page in another language, and keep the choice.
export async function choose(name) {
  await load(name);
  language = name;
  document.documentElement.lang = name;
  document.cookie = `clawlink-language=${name}; Path=/; Max-Age=31536000; SameSite=Strict`;
}

// The text of a key. One of something may have a text of its own, as in "1 reader".
export function t(key, values = {}) {
  const single = `${key}.one`;
  const name = String(values.n) === "1" && single in en ? single : key;
  const text = texts[language][name] ?? en[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

// A formatter takes a browser longer to make than all else of the first view, which does without them.
const formats = new Map();

function format(kind, options) {
  const key = `${language} ${kind} ${JSON.stringify(options)}`;
  if (!formats.has(key)) formats.set(key, new Intl[kind](language, options));
  return formats.get(key);
}

// Both languages write numbers in this way.
export function count(number) {
  const [whole, rest] = String(Math.round(1000 * number) / 1000).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (rest ? `.${rest}` : "");
}

const SIZES = [[1024 ** 3, "GiB"], [1024 ** 2, "MiB"], [1024, "KiB"]];

export function bytes(number) {
  const [size, unit] = SIZES.find(([least]) => number >= least) || [1, "B"];
  return `${count(Math.round((10 * number) / size) / 10)} ${unit}`;
}

export const exact = (at) => format("DateTimeFormat", { dateStyle: "medium", timeStyle: "medium" }).format(at);
export const clock = (at, more = {}) => format("DateTimeFormat", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...more }).format(at);

// Settles when the first view is painted, or after a while in a tab that nobody sees. All that is not needed for that view
// waits for it, and takes it no time.
export const painted = new Promise((done) => {
  setTimeout(done, 1000);
  if (!(PerformanceObserver.supportedEntryTypes || []).includes("paint")) done();
  else {
    new PerformanceObserver((list) => list.getEntriesByName("first-contentful-paint").length && done()).observe({ type: "paint", buffered: true });
  }
});

// -- requests ---------------------------------------------------------------------------------------------------------

let csrf = null;

export function trust(session) {
  csrf = session.csrf;
}

// The relay speaks English. In another language its sentence follows the name of the error.
export function named(code, words) {
  return language !== "en" && `error.${code}` in en ? `${t(`error.${code}`)}（${words}）` : words;
}

// A page that reads again takes an answer that the relay made for another page, unless the page itself has just acted. Such
// an answer is never older than the event that made the page read.
const SHARED = "max-age=1";
const ACTED_MS = 5000;
let acted = -ACTED_MS;

// A read that takes longer has stalled on its way. An act may have happened, so it is waited for.
const READ_MS = 30000;

async function reach(path, options) {
  const given = new AbortController();
  const timer = options.method ? null : setTimeout(() => given.abort(), READ_MS);
  try {
    const response = await fetch(path, { ...options, signal: given.signal });
    const answer = await response.json().catch((error) => {
      if (given.signal.aborted) throw error;
      return {};
    });
    return { response, answer };
  } catch {
    throw new Error(t("error.no_answer"));
  } finally {
    clearTimeout(timer);
  }
}

export async function ask(path, body, method = "POST", again = false) {
  const options = { credentials: "same-origin", headers: {} };
  if (again && performance.now() > acted + ACTED_MS) options.headers["Cache-Control"] = SHARED;
  if (body !== undefined) {
    acted = performance.now();
    options.method = method;
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
    if (csrf) options.headers["ClawLink-CSRF"] = csrf;
  }
  const { response, answer } = await reach(path, options);
  if (!response.ok) {
    const words = answer.error || (answer.detail && String(answer.detail)) || String(response.status);
    throw Object.assign(new Error(named(answer.code, words)), { status: response.status, code: answer.code });
  }
  return learn(answer);
}

// -- names ------------------------------------------------------------------------------------------------------------

// The names of agents by their ids, as the relay told them with its answers, and by their names how many have each.
const NAMES = new Map();
const HOLDERS = new Map();
const TOLD = new Map(); // those that show a name that may not be known yet, by the id
const MOST_NAMES = 20000;

function hold(name, n) {
  const key = name.toLowerCase();
  const holders = (HOLDERS.get(key) || 0) + n;
  if (holders) HOLDERS.set(key, holders);
  else HOLDERS.delete(key);
}

// Keep the names of an answer, and return the answer.
export function learn(answer) {
  for (const [id, name] of Object.entries(answer.names || {})) {
    const old = NAMES.get(id);
    if (old === name) continue;
    if (old !== undefined) hold(old, -1);
    else if (NAMES.size >= MOST_NAMES) {
      NAMES.clear();
      HOLDERS.clear();
    }
    NAMES.set(id, name);
    hold(name, 1);
    for (const tell of TOLD.get(id) || []) tell(name);
  }
  return answer;
}

// The name of an agent, also once it is learnt.
export function useName(id) {
  const [, learnt] = useState(null);
  useEffect(() => {
    const those = TOLD.get(id) || new Set();
    TOLD.set(id, those.add(learnt));
    return () => {
      those.delete(learnt);
      if (!those.size) TOLD.delete(id);
    };
  }, [id]);
  return nameOf(id);
}

// The name of an agent, with its id where several agents have the name. An agent that has left has its id alone.
export function nameOf(id, known = null) {
  const name = known || NAMES.get(id) || id;
  return name !== id && HOLDERS.get(name.toLowerCase()) > 1 ? `${name} (${id})` : name;
}

// The overview as it comes by the event stream, and whether the stream is open.
export const Live = createContext({ overview: null, open: false });

// A page reads again at most once in this time, and for the twentieth part of its time at most: a relay that is busy
// answers later, and is then asked less often.
const PACE_MS = 2500;
const PART = 20;

// Call ``read`` at once for another ``key``, and again, at that pace, whenever something in the relay has changed. It is told
// whether it reads again.
export function usePaced(read, key) {
  const { overview } = useContext(Live);
  const revision = overview ? `${overview.started_at} ${overview.revision}` : "";
  const its = useRef({ key: null, at: 0, took: 0, timer: null, read });
  its.current.read = read;
  useEffect(() => {
    const here = its.current;
    const run = async (again) => {
      here.timer = null;
      here.at = performance.now();
      await here.read(again);
      here.took = performance.now() - here.at;
    };
    if (here.key !== key) {
      clearTimeout(here.timer);
      here.key = key;
      run(false);
    } else if (here.timer === null) {
      const next = here.at + Math.max(PACE_MS, PART * here.took);
      here.timer = setTimeout(run, Math.max(0, next - performance.now()), true);
    }
  }, [key, revision]);
  useEffect(() => () => clearTimeout(its.current.timer), []);
}

// Read an address, and again whenever something in the relay has changed.
export function useData(path) {
  const [state, set] = useState({ path: null, data: null, error: null });
  const wanted = useRef(path);
  wanted.current = path;
  usePaced(async (again) => {
    const keep = (next) => wanted.current === path && set(next);
    await ask(path, undefined, "GET", again).then(
      (data) => keep({ path, data, error: null }),
      (error) => keep((old) => ({ path, data: old.path === path ? old.data : null, error })),
    );
  }, path);
  useEffect(() => () => { wanted.current = null; }, []);
  return state.path === path ? state : { data: null, error: null };
}

// -- addresses --------------------------------------------------------------------------------------------------------

export function address(view, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given).toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

export function place() {
  if (location.hash && !location.hash.startsWith("#/")) return { at: location.hash, view: "overview", id: null, query: {} };
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  let id = null;
  try {
    id = rest.length ? decodeURIComponent(rest.join("/")) : null;
  } catch {
    // An address that is no address of this page.
  }
  return { at: location.hash, view: view || "overview", id, query: Object.fromEntries(new URLSearchParams(query)) };
}

export const one = (view, id) => `#/${view}/${encodeURIComponent(id)}`;

// -- text of others ---------------------------------------------------------------------------------------------------

// Controls, invisible characters, those that turn the direction of text, and codes that are no characters. They are shown
// by their number, as in domain/terminal.py. A joiner stays between emoji, and between letters of scripts that need it.
const UNSAFE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}\p{Noncharacter_Code_Point}]|(?<![\p{Lo}\p{So}\p{Mn}\p{Mc}\p{Sk}])[\u200c\u200d]|[\u200c\u200d](?![\p{Lo}\p{So}])/gu;

export function clean(text) {
  return String(text).replace(UNSAFE, (found) => `<U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
}

const UNSAFE_ONE = new RegExp(`(${UNSAFE.source})`, "u");
const MOST_ALONE = 200;

// The same for a view: each number stands alone, so that text from right to left does not take it apart.
function safe(text) {
  const parts = text.split(UNSAFE_ONE);
  if (parts.length === 1 || parts.length > 2 * MOST_ALONE) return clean(text);
  return parts.map((part, n) => (n % 2 ? html`<bdi class="control" dir="ltr">${clean(part)}</bdi>` : part));
}

// Text that an agent wrote. It is never more than text, and its direction stays its own.
export function Said({ text, block = false }) {
  if (text === null || text === undefined) return null;
  const shown = typeof text === "string" ? text : JSON.stringify(text, null, 2);
  return block ? html`<pre class="said" dir="auto">${safe(shown)}</pre>` : html`<bdi class="said">${safe(shown)}</bdi>`;
}

// -- small components -------------------------------------------------------------------------------------------------

const UNITS = [
  [60, "second", 1],
  [3600, "minute", 60],
  [86400, "hour", 3600],
  [Infinity, "day", 86400],
];

// How long ago a time is, or how far ahead. A pointer over it has the exact time beside it, a tap or a click in its place.
export function Ago({ at }) {
  const [whole, turn] = useState(false);
  if (!at) return html`<span class="none">–</span>`;
  const seconds = Math.round((Date.parse(at) - Date.now()) / 1000);
  const [, unit, size] = UNITS.find(([most]) => Math.abs(seconds) < most);
  const n = Math.floor(Math.abs(seconds) / size);
  const words = unit === "day" && n !== 1 ? "days" : unit;
  const tell = (event) => {
    event.currentTarget.title = exact(new Date(at));
  };
  const relative = seconds > 0 ? t(`in.${words}`, { n }) : t(`ago.${words}`, { n });
  return html`<time dateTime=${at} onPointerEnter=${tell} onClick=${() => turn(!whole)}>${whole ? exact(new Date(at)) : relative}</time>`;
}

// A sentence with a time in it, where its text has "{at}".
export function At({ name, at }) {
  const [before, after] = t(name).split("{at}");
  return html`${before}<${Ago} at=${at} />${after}`;
}

export const State = ({ name }) => html`<span class=${`state ${name}`}>${t(`state.${name}`)}</span>`;

// The kind of a message. A kind that this page does not know is shown as it is.
export function Kind({ type }) {
  const known = `type.${type}` in en;
  return html`<span class="kind">${known ? t(`type.${type}`) : html`<${Said} text=${type} />`}</span>`;
}

// An agent by its name. The address has its id, which a pointer shows.
export function AgentLink({ id, name, row = null }) {
  if (!id) return html`<span class="none">${t("nobody")}</span>`;
  const shown = nameOf(id, name);
  return html`<a href=${one("agents", id)} title=${shown === id ? null : clean(id)} data-row=${row}><${Said} text=${shown} /></a>`;
}

// The agent of a task, or the pool that it waits in.
export function Recipient({ task, id }) {
  const pool = [...task.capability, ...task.to_any_of.map((one) => nameOf(one))];
  return id || !pool.length ? html`<${AgentLink} id=${id} />` : html`<${Said} text=${pool.join(", ")} />`;
}

// Messages and events without an agent come from the relay.
export const Sender = ({ id, name }) => (id ? html`<${AgentLink} id=${id} name=${name} />` : t("the_relay"));

export const TaskLink = ({ id, words, row = true }) =>
  html`<a href=${one("tasks", id)} data-row=${row}><${Said} text=${words || id} /></a>`;

// How far a task is. The last share of a task that has ended says nothing.
export function Progress({ value, status }) {
  if (value === null || value === undefined || ENDED.includes(status)) return null;
  return html`<span class="share"><progress max="100" value=${value} aria-label=${t("progress")}></progress> ${Math.round(value)} %</span>`;
}

// How far a task is, and what its assignee says about it.
export function Report({ value, status, note }) {
  const shown = value !== null && value !== undefined && !ENDED.includes(status);
  return html`<${Progress} value=${value} status=${status} />${shown && note ? " · " : ""}<${Said} text=${note} />`;
}

// The state of a request: what is wrong, perhaps with a link to go on from there, or that it is under way.
export function Trouble({ state, back = null }) {
  if (state.error) return html`<p class="trouble" role="alert">${clean(state.error.message)}</p>${back && html`<p>${back}</p>`}`;
  return state.data ? null : html`<p class="loading" role="status">${t("loading")}</p>`;
}

const FITS = 3; // columns of a table that a phone has room for

// On a phone the rows of a wide table are cards. There the style sheet takes the name of each cell from the table.
export function Table({ heads, rows, empty, label = heads.filter(Boolean).join(", ") }) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  const names = Object.fromEntries(heads.map((head, n) => [`--head${n + 1}`, JSON.stringify(head)]));
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}>
    <table class=${heads.length > FITS ? "cards" : null} style=${names}>
      <thead>
        <tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr>
      </thead>
      <tbody>${rows}</tbody>
    </table>
  </div>`;
}
