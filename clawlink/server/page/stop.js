// Stop all: the switch in the head of the page, and the banner while all work is stopped.
import { html, useContext, useState } from "./htm-preact.js";
import { Ago, ask, clean, Live, t } from "./parts.js";

export function StopButton({ session }) {
  const { overview } = useContext(Live);
  const [error, complain] = useState(null);
  if (!overview || overview.stopped_at || session.read_only) return null;
  const stop = () => {
    complain(null);
    if (confirm(`${t("stop_all.sure")}\n\n${t("stop_all.account")}`)) ask("admin/stop", { stopped: true }).catch(complain);
  };
  return html`<button class="stop" onClick=${stop}>${t("stop_all")}</button>
    ${error && html`<span class="trouble" role="alert">${clean(error.message)}</span>`}`;
}

export function StopBanner({ session }) {
  const { overview } = useContext(Live);
  const [error, complain] = useState(null);
  if (!overview || !overview.stopped_at) return null;
  const resume = () => {
    complain(null);
    ask("admin/stop", { stopped: false }).catch(complain);
  };
  return html`<section class="stopped" role="alert" aria-label=${t("stopped")}>
    <p><b>${t("stopped")}</b> · <${Ago} at=${overview.stopped_at} /> · ${t("stopped.why")}</p>
    <p>${t("stop_all.account")}</p>
    ${!session.read_only && html`<p><button onClick=${resume}>${t("resume_all")}</button></p>`}
    ${error && html`<p class="trouble">${clean(error.message)}</p>`}
  </section>`;
}
