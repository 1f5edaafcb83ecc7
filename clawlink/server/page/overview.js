// The first view: the relay at a glance, and what waits for a person.
import { html, useContext, useEffect, useState } from "./htm-preact.js";
import { address, Ago, AgentLink, count, Live, nameOf, OPEN, painted, Said, t, Table } from "./parts.js";

// A name may have a form of its own for one thing.
const Tile = ({ name, value, to, alarm, why = null }) =>
  html`<a class=${`tile${alarm && value ? " alarm" : ""}`} href=${to} title=${why}><b>${count(value)}</b><span>${t(name, { n: value })}</span>
    ${why && html`<small>${why}</small>`}</a>`;

// Numbers whose names alone do not say what they count.
const EXPLAINED = ["unserved_pools", "expired", "unread_mailboxes", "unwoken_agents", "stuck_records"];

// The plot comes after the numbers.
let Plot = null;

function Traffic({ minutes }) {
  const [, ready] = useState(null);
  useEffect(() => {
    let gone = false;
    if (!Plot) {
      painted.then(() => import("./plot.js")).then((found) => {
        Plot = found.Plot;
        if (!gone) ready(found);
      }, () => {});
    }
    return () => {
      gone = true;
    };
  }, []);
  const sum = (field) => count(minutes.reduce((all, minute) => all + minute[field], 0));
  return html`<figure>
    ${Plot ? html`<${Plot} minutes=${minutes} fields=${["delegated", "answered", "failed"]} />` : html`<div class="plot"></div>`}
    <figcaption>
      ${["delegated", "answered", "failed"].map(
        (field) => html`<span class=${`key ${field}`}>${t(`traffic.${field}`, { n: sum(field) })}</span> `,
      )}
    </figcaption>
  </figure>`;
}

export function Overview() {
  const { overview } = useContext(Live);
  if (!overview) return html`<p class="loading" role="status">${t("loading")}</p>`;
  const { needs_you: needs } = overview;
  const waits = [
    ["questions", address("tasks", { status: "input_required" })],
    ["inbox", address("inbox")],
    ["dead_letters", address("dead-letters")],
    ["unserved_pools", "#pools"],
    ["expired", address("tasks", { status: "expired" })],
    ["unread_mailboxes", address("agents", { status: "stale" })],
    ["unwoken_agents", "#unwoken"],
    ["stuck_records", address("load")],
  ];
  const most = Math.max(1, ...overview.mailboxes.map((box) => box.messages));
  return html`<article class="overview"><h1>${t("overview")}</h1>
    <section aria-label=${t("needs_you")}>
      <h2>${t("needs_you")}</h2>
      <div class="tiles">
        ${waits.map(([name, to]) => html`<${Tile} name=${`needs.${name}`} value=${needs[name]} to=${to}
          why=${EXPLAINED.includes(name) ? t(`needs.${name}.why`) : null} alarm />`)}
      </div>
      <div class="columns">${needs.unwoken.length > 0 &&
      html`<ul class="stops" id="unwoken" tabindex="0">
        ${needs.unwoken.map(
          (found) => html`<li key=${found.agent_id}>
            <${Ago} at=${found.at} /> · <${AgentLink} id=${found.agent_id} name=${found.name} /> ${t("unwoken")} ·${" "}
            <${Said} text=${found.adapter} />${found.note && t("colon")}<${Said} text=${found.note} />
          </li>`,
        )}
      </ul>`}
      ${needs.stops.length > 0 &&
      html`<ul class="stops" tabindex="0">
        ${needs.stops.map(
          (stop) => html`<li>
            <${Ago} at=${stop.at} /> · ${t(`stop.${stop.code}`)} · <${Said} text=${stop.agents.map((id) => nameOf(id)).join(" → ")} />
          </li>`,
        )}
      </ul>`}</div>
    </section>
    <div class="columns">
      <section aria-label=${t("agents")}>
        <h2>${t("agents")}</h2>
        <div class="tiles">
          <${Tile} name="online" value=${overview.agents_online} to=${address("agents", { status: "online" })} />
          <${Tile} name="stale" value=${overview.agents_stale} to=${address("agents", { status: "stale" })} />
        </div>
        <h2>${t("open_tasks")}</h2>
        <div class="tiles">
          ${OPEN.map(
            (state) =>
              html`<${Tile} name=${`state.${state}`} value=${overview.open_tasks[state]}
                to=${address("tasks", { status: state })} />`,
          )}
        </div>
      </section>
      <section aria-label=${t("traffic")}>
        <h2>${t("traffic")}</h2>
        <${Traffic} minutes=${overview.traffic} />
      </section>
    </div>
    <div class="columns short">
    <section aria-label=${t("mailboxes")}>
      <h2>${t("mailboxes")}</h2>
      <${Table} heads=${[t("agent"), t("messages"), t("oldest")]} empty=${t("empty.mailboxes")}
        rows=${overview.mailboxes.map(
          (box) => html`<tr key=${box.agent_id}>
            <td><${AgentLink} id=${box.agent_id} name=${box.name} /></td>
            <td class="bar"><meter min="0" max=${most} value=${box.messages}></meter> ${count(box.messages)}</td>
            <td><${Ago} at=${box.oldest_at} /></td>
          </tr>`,
        )} />
    </section>
    <section id="pools" aria-label=${t("pools")}>
      <h2>${t("pools")}</h2>
      <${Table} heads=${[t("for"), t("tasks"), t("pool.online")]} empty=${t("empty.pools")}
        rows=${overview.pools.map(
          (pool) => html`<tr>
            <td>
              ${pool.name !== null ? `${t("returning")}${t("colon")}` : null}<${Said} text=${[...pool.capability, ...pool.to_any_of.map((id) => nameOf(id)), pool.name].filter(Boolean).join(", ")} />
            </td>
            <td>${count(pool.tasks)}</td>
            <td class=${pool.online ? "" : "alarm"}>${count(pool.online)}</td>
          </tr>`,
        )} />
    </section></div></article>`;
}
