// The load of the last hour, the limits, and the counters since the relay started.
import { html } from "./htm-preact.js";
import { count, t, Table, Trouble, useData } from "./parts.js";
import { Plot } from "./plot.js";

const UNITS = [[1024 ** 3, "GiB"], [1024 ** 2, "MiB"], [1024, "KiB"]];

function bytes(number) {
  const [size, unit] = UNITS.find(([least]) => number >= least) || [1, "B"];
  return `${count(Math.round((10 * number) / size) / 10)} ${unit}`;
}

const amount = (number, unit) => (unit === "bytes" ? bytes(number) : `${count(number)} ${t(`unit.${unit.replaceAll(" ", "_")}`)}`);

function Chart({ title, minutes, fields, show }) {
  return html`<section aria-label=${title}><h2>${title}</h2>
    <figure><${Plot} minutes=${minutes} fields=${fields} show=${show} />
      <figcaption>${fields.map((field) => html`<span class=${`key ${field}`}>${t(`load.${field}`)}</span> `)}</figcaption></figure>
  </section>`;
}

export function Load() {
  const state = useData("admin/load");
  const load = state.data;
  return html`<article><h1>${t("load")}</h1>
    <${Trouble} state=${state} />
    ${load &&
    html`<div><div class="columns">
        <${Chart} title=${t("load.messages")} minutes=${load.minutes} fields=${["stored", "delivered", "acked"]} />
        <${Chart} title=${t("load.refusals")} minutes=${load.minutes} fields=${["refused"]} />
        <${Chart} title=${t("load.held")} minutes=${load.minutes} fields=${["messages_held"]} />
        <${Chart} title=${t("load.connected")} minutes=${load.minutes} fields=${["connections", "waiting_polls"]} />
        <${Chart} title=${t("load.memory")} minutes=${load.minutes} fields=${["memory_bytes"]} show=${bytes} />
        <${Chart} title=${t("load.files")} minutes=${load.minutes} fields=${["file_bytes"]} show=${bytes} />
      </div>
      ${load.upkeep_stuck > 0 && html`<p class="trouble">${t("load.stuck", { n: count(load.upkeep_stuck) })}</p>`}
      <h2>${t("limits")}</h2>
      <${Table} empty="" heads=${[t("limit"), t("used"), t("share"), t("flag")]}
        rows=${[...load.limits.filter((limit) => limit.used !== null), ...load.limits.filter((limit) => limit.used === null)].map((limit) => {
          const share = limit.used === null || !limit.limit ? null : limit.used / limit.limit;
          return html`<tr key=${limit.name}>
            <td>${amount(limit.limit, limit.unit)}</td>
            <td>${limit.used === null ? "–" : amount(limit.used, limit.unit)}</td>
            <td>${share !== null && html`<span class=${share >= 0.8 ? "alarm" : ""}><meter min="0" max="1" low="0.8" high="0.9" optimum="0" value=${share}
              aria-label=${limit.flag}></meter> ${Math.round(100 * share)} %</span>`}</td>
            <td><code>${limit.flag}</code></td>
          </tr>`;
        })} />
      <h2>${t("counters")}</h2>
      <dl class="counters">${Object.entries(load.counters).map(([name, number]) => html`<div><dt><code>${name}</code></dt><dd>${count(number)}</dd></div>`)}
        <div><dt><code>waiting_polls</code></dt><dd>${count(load.waiting_polls)}</dd></div></dl></div>`}</article>`;
}
