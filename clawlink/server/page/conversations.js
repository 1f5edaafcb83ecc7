// Who talks to whom, and what they say.
import { html } from "./htm-preact.js";
import { AgentSearch, asked, go, More } from "./lists.js";
import { address, Ago, AgentLink, At, count, one, Recipient, Said, Sender, State, t, Table, Trouble, useData } from "./parts.js";

const SHOWN = 16; // agents in the matrix
const MOST_PAIRS = 300; // of which it is made

// The lines of a talk. Texts of agents are only ever text.
export function Lines({ lines }) {
  if (!lines.length) return html`<p class="empty">${t("empty.talk")}</p>`;
  return html`<ol class="talk">
    ${lines.map(
      (line) => html`<li key=${`${line.message_id} ${line.at} ${line.kind}`} class=${line.kind}>
        <div class="head">
          <${Sender} id=${line.from_agent} /> → <${Recipient} task=${line} id=${line.to_agent} />
          <span class="kind">${line.kind === "message" ? t("kind.message") : html`<a href=${one("tasks", line.message_id)} data-row>${t(`kind.${line.kind}`)}</a>`}</span>
          <${State} name=${line.status} /> <${Ago} at=${line.at} />
          ${line.attachments > 0 && html`<span class="none">${t("attached", { n: count(line.attachments) })}</span>`}
        </div>
        ${line.text !== null && html`<${Said} text=${line.cut ? `${line.text}…` : line.text} block />`}
      </li>`,
    )}
  </ol>`;
}

function Thread({ query }) {
  const known = { agent: query.agent, other: query.with, limit: query.limit };
  const state = useData(`admin/talk${asked(known, ["agent", "other", "limit"])}`);
  return html`<div><${Trouble} state=${state} />
    ${state.data && html`<div><${Lines} lines=${state.data.lines} />
      ${!state.data.complete && html`<p class="empty">${t("incomplete")}</p>`}
      <${More} view="conversations" query=${query} next=${state.data.next} /></div>`}</div>`;
}

function Matrix({ pairs }) {
  const weight = new Map();
  for (const pair of pairs) {
    for (const id of [pair.from_agent, pair.to_agent]) weight.set(id, (weight.get(id) || 0) + pair.messages);
  }
  const ids = [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a)).slice(0, SHOWN);
  const of = new Map(pairs.map((pair) => [`${pair.from_agent}\n${pair.to_agent}`, pair]));
  const most = Math.max(1, ...pairs.map((pair) => pair.messages));
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t("matrix")}>
    <table class="matrix">
      <thead><tr><th scope="col">${t("from_to")}</th>${ids.map((id) => html`<th scope="col"><div><${AgentLink} id=${id} /></div></th>`)}</tr></thead>
      <tbody>${ids.map(
        (from) => html`<tr key=${from}><th scope="row"><${AgentLink} id=${from} /></th>
          ${ids.map((to) => {
            const pair = of.get(`${from}\n${to}`);
            const share = pair ? Math.ceil((4 * Math.log(1 + pair.messages)) / Math.log(1 + most)) : 0;
            return html`<td class=${`share${share}`}>${pair && html`<a href=${address("conversations", { agent: from, with: to })}>${count(pair.messages)}</a>`}</td>`;
          })}</tr>`,
      )}</tbody>
    </table>
  </div>`;
}

export function Conversations({ query }) {
  const pairs = useData(`admin/talks${asked({ agent: query.agent, limit: MOST_PAIRS }, ["agent", "limit"])}`);
  const set = (change) => go("conversations", { ...query, limit: null, ...change });
  const found = pairs.data && pairs.data.talks.filter((pair) => !query.with || [pair.from_agent, pair.to_agent].includes(query.with));
  return html`<article><h1>${t("conversations")}</h1>
    <div class="filters">
      <${AgentSearch} name=${t("agent")} id=${query.agent || ""} onChange=${(agent) => set({ agent })} />
      ${query.agent && html`<${AgentSearch} name=${t("talks_with")} id=${query.with || ""} onChange=${(other) => set({ with: other })} />`}
    </div>
    <${Trouble} state=${pairs} />
    ${query.agent && html`<${Thread} query=${query} />`}
    ${found &&
    html`<div><h2>${t("who_talks")}</h2>
      <p class="empty"><${At} name="talks.since" at=${pairs.data.since} />${" "}
        ${pairs.data.dropped > 0 && t("talks.dropped", { n: count(pairs.data.dropped) })}</p>
      ${!query.agent && found.length > 1 && html`<${Matrix} pairs=${found} />`}
      <${Table} empty=${query.agent ? t("empty.pairs") : `${t("empty.pairs")} ${t("talks.before")}`} heads=${[t("from"), t("to"), t("messages"), t("last_one")]}
        rows=${found.slice(0, 100).map(
          (pair) => html`<tr key=${`${pair.from_agent}\n${pair.to_agent}`}>
            <td><${AgentLink} id=${pair.from_agent} /></td>
            <td><${AgentLink} id=${pair.to_agent} /></td>
            <td><a href=${address("conversations", { agent: pair.from_agent, with: pair.to_agent })} data-row>${count(pair.messages)}</a></td>
            <td><${Ago} at=${pair.last_at} /></td>
          </tr>`,
        )} /></div>`}</article>`;
}
