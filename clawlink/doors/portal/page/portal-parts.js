// Parts that the views of a portal share.
import { html, useState } from "./htm-preact.js";
import { clean, t } from "./parts.js";

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
