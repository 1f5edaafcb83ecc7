// The load of the last hour, the limits, and the counters since the relay started.
import { html } from "./htm-preact.js";
import { bytes, count, t, Table, Trouble, useData } from "./parts.js";
import { Plot } from "./plot.js";

const LASTING = [[86400, "days"], [3600, "hours"], [60, "minutes"]];

// An amount with its unit. Seconds come in the largest unit that has no rest.
function amount(number, unit) {
  if (unit === "bytes") return bytes(number);
  const [size, name] = (unit === "seconds" && number && LASTING.find(([seconds]) => number % seconds === 0)) || [1, unit];
  return t(`unit.${name.replaceAll(" ", "_")}`, { n: count(number / size) });
}

// A share that is not nothing is told as such.
const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);

// What GET /metrics tells, in plots of a few lines each: their counters by the minute, and their gauges.
const CHARTS = [
  ["agents", ["agents_online", "agents_stale"]],
  ["messages", ["stored", "delivered", "acked", "nacked", "released"]],
  ["tasks", ["tasks_delegated", "tasks_answered", "answers_failed", "tasks_cancelled", "tasks_failed"]],
  ["refusals", ["refused", "rate_limited", "loops_stopped", "connections_refused"]],
  ["held", ["messages_held", "shared_files", "uploads"]],
  ["connected", ["connections", "waiting_polls"]],
  ["memory", ["memory_bytes", "message_bytes_held", "file_bytes"], bytes],
  ["returns", ["lapses", "takeovers", "tasks_returned", "tasks_expired"]],
  ["lost", ["expired", "dead", "redriven", "merged", "withdrawn"]],
  ["written", ["broadcasts", "files_written"]],
  ["upkeep", ["conflicts", "evicted", "upkeep_failures", "upkeep_stuck"]],
];
const COLORS = ["plot1", "plot2", "plot3", "plot4", "plot5"];
const value = (minute, field) => minute[field] ?? minute.counters[field] ?? 0;

function Chart({ name, minutes, fields, show = null }) {
  const title = t(`load.${name}`);
  const last = minutes[minutes.length - 1];
  return html`<section aria-label=${title}><h2>${title}</h2>
    <figure><${Plot} minutes=${minutes} fields=${fields} colors=${COLORS} value=${value} show=${show} />
      <figcaption>${fields.map(
        (field, n) => html`<span class=${`key ${COLORS[n]}`}>${t(`load.${field}`)} ${(show || count)(value(last, field))}</span> `,
      )}</figcaption></figure>
  </section>`;
}

function Limit({ limit }) {
  const share = limit.used === null || !limit.limit ? null : limit.used / limit.limit;
  return html`<tr>
    <td><code>${limit.flag}</code></td>
    <td>${amount(limit.limit, limit.unit)}</td>
    <td>${limit.used !== null && amount(limit.used, limit.unit)}</td>
    <td>${share !== null && html`<span class=${share >= 0.8 ? "alarm" : ""}><meter min="0" max="1" low="0.8" high="0.9" optimum="0" value=${share}
      aria-label=${limit.flag}></meter> ${percent(share)}</span>`}</td>
  </tr>`;
}

export function Load() {
  const state = useData("admin/load");
  const load = state.data;
  const held = (limit) => limit.used !== null;
  return html`<article><h1>${t("load")}</h1>
    <${Trouble} state=${state} />
    ${load &&
    html`<div><div class="columns">
        ${load.minutes.length > 0 && CHARTS.map(([name, fields, show]) => html`<${Chart} key=${name} name=${name} minutes=${load.minutes} fields=${fields} show=${show} />`)}
      </div>
      ${load.upkeep_stuck > 0 && html`<p class="trouble">${t("load.stuck", { n: count(load.upkeep_stuck) })}</p>`}
      <h2>${t("limits")}</h2>
      <${Table} empty="" heads=${[t("flag"), t("limit"), t("used"), t("share")]}
        rows=${[...load.limits.filter(held), ...load.limits.filter((limit) => !held(limit))].map((limit) => html`<${Limit} key=${limit.name} limit=${limit} />`)} />
      <h2>${t("counters")}</h2>
      <dl class="counters">${Object.entries(load.counters).map(([name, number]) => html`<div><dt><code>${name}</code></dt><dd>${count(number)}</dd></div>`)}
        <div><dt><code>waiting_polls</code></dt><dd>${count(load.waiting_polls)}</dd></div></dl></div>`}</article>`;
}
