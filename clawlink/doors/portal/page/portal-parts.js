// Parts that the views of a portal share.
import { html, useRef, useState } from "./htm-preact.js";
import { clean, language, Said, t } from "./parts.js";

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

// A key for each different body until ``renew`` is called: if a reply was lost, the same request again does nothing twice.
export function useKey() {
  const kept = useRef({ said: null, key: null });
  const keyed = (body) => {
    const said = JSON.stringify(body);
    if (kept.current.said !== said) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      kept.current = { said, key: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
    }
    return { ...body, idempotency_key: kept.current.key };
  };
  const renew = () => {
    kept.current = { said: null, key: null };
  };
  return [keyed, renew];
}

// Send a form with one file.
export async function upload(path, part, file, session) {
  const body = new FormData();
  body.append(part, file);
  const headers = { "ClawLink-CSRF": session.csrf };
  const response = await fetch(path, { method: "POST", body, headers, credentials: "same-origin" });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(String(answer.detail || response.status));
  return answer;
}

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte"];

export function Size({ bytes }) {
  const step = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), UNITS.length - 1);
  if (!step) return html`<span>${bytes} B</span>`;
  const options = { style: "unit", unit: UNITS[step], maximumFractionDigits: 1 };
  return html`<span>${new Intl.NumberFormat(language, options).format(bytes / 1000 ** step)}</span>`;
}

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

export const nameOf = (contact) =>
  contact.display_name || [contact.user_name, contact.agent_name].filter(Boolean).join(" / ") || contact.portal_url;
