// Search over agents, tasks, broadcasts, files and messages.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { asked, go, Search } from "./lists.js";
import { address, Ago, AgentLink, ask, one, Said, State, t, Table, Trouble } from "./parts.js";

const ENOUGH = 50;

// Search on until there are enough hits, or all was searched. Each answer may be short.
function useHits(text, enough) {
  const [state, set] = useState({ hits: [], next: null, busy: false, error: null });
  const its = useRef({ text: null, hits: [], next: null });
  useEffect(() => {
    let gone = false;
    const here = its.current;
    if (here.text !== text) Object.assign(here, { text, hits: [], next: null, begun: false });
    const run = async () => {
      while (!gone && text && (!here.begun || (here.next !== null && here.hits.length < enough))) {
        const found = await ask(`admin/search${asked({ text, limit: ENOUGH, after: here.next }, ["text", "limit", "after"])}`);
        if (gone) return;
        here.begun = true;
        here.hits = here.hits.concat(found.hits);
        here.next = found.next;
        set({ hits: here.hits, next: here.next, busy: here.next !== null && here.hits.length < enough, error: null });
      }
    };
    set({ hits: here.hits, next: here.next, busy: Boolean(text), error: null });
    run().catch((error) => gone || set({ hits: here.hits, next: null, busy: false, error }));
    return () => {
      gone = true;
    };
  }, [text, enough]);
  return state;
}

const WHERE = {
  agent: (hit) => one("agents", hit.id),
  task: (hit) => one("tasks", hit.id),
  file: (hit) => one("files", hit.id),
  broadcast: (hit) => address("knowledge", { topic: hit.name }),
  message: (hit) => address("conversations", { agent: hit.agents[0], with: hit.agents[1] }),
};

export function SearchAll({ query }) {
  const text = query.text || "";
  const [enough, more] = useState(ENOUGH);
  useEffect(() => more(ENOUGH), [text]);
  const place = useRef(null);
  useEffect(() => {
    if (!text) place.current.querySelector("input").focus();
  }, []);
  const { hits, next, busy, error } = useHits(text, enough);
  return html`<article><h1>${t("search")}</h1>
    <div class="filters" ref=${place}><${Search} name=${t("search.all")} value=${text} onChange=${(wanted) => go("search", { text: wanted })} button=${t("search")} /></div>
    ${error && html`<${Trouble} state=${{ data: null, error }} />`}
    ${hits.length > 0 &&
    html`<${Table} empty="" heads=${[t("found"), t("kind"), t("status"), t("agents"), t("stored")]}
      rows=${hits.map(
        (hit) => html`<tr key=${`${hit.kind} ${hit.id}`}>
          <td><a href=${WHERE[hit.kind](hit)} data-row><${Said} text=${hit.words || hit.name || hit.id} /></a></td>
          <td>${t(`kind.${hit.kind}`)}</td>
          <td>${hit.status && (hit.kind === "agent" ? html`<span class=${`presence ${hit.status}`}>${t(hit.status)}</span>` : html`<${State} name=${hit.status} />`)}</td>
          <td>${hit.agents.map((id, n) => html`${n > 0 && " → "}<${AgentLink} id=${id} />`)}</td>
          <td><${Ago} at=${hit.at} /></td>
        </tr>`,
      )} />`}
    <p class=${busy ? "loading" : "empty"} role="status">${!text ? t("search.why") : busy ? t("loading") : !hits.length && !error ? t("empty.search") : ""}</p>
    ${!busy && next !== null && html`<p><button onClick=${() => more(enough + ENOUGH)}>${t("more")}</button></p>`}</article>`;
}
