// The views of agents, tasks, dead letters and the audit. Each reads its address of the relay's /admin, and shows it.
import { html, useContext, useState } from "./htm-preact.js";
import { RedriveAll, Rename, TaskActs } from "./acting.js";
import { AgentMore, Family, TASK_HEADS, taskRow } from "./related.js";
import { AgentSearch, asked, Choice, go, LEFT_OUT, List, NAMED, NoRows, Search } from "./lists.js";
import {
  address, Ago, AgentLink, ask, At, clean, clock, count, ENDED, exact, Kind, learn, Live, one, OPEN, Progress, Report, Said, Sender, State, t, Table, TaskLink, Trouble, useData,
} from "./parts.js";

function takeAgents({ agents }) {
  learn({ names: Object.fromEntries(agents.map((agent) => [agent.agent_id, agent.name])) });
  return agents;
}

export function Agents({ query }) {
  const status = query.status || "all";
  return html`<article><h1>${t("agents")}</h1>
    <div class="filters">
      <${Choice} name=${t("presence")} value=${status} onChange=${(chosen) => go("agents", { ...query, status: chosen })}
        options=${["all", "online", "stale"].map((name) => [name, t(name)])} />
      <${Search} name=${t("search.agents")} value=${query.text || ""} onChange=${(text) => go("agents", { ...query, text })} />
    </div>
    <${List} path=${`admin/agents${asked(query, ["status", "text"])}`} take=${takeAgents}
      id=${(agent) => agent.agent_id}
      empty=${html`<${NoRows} view="agents" filters=${{ text: query.text, status: status !== "all" }}>
        ${t("empty.agents")}<code>clawlink register NAME</code><//>`}
      heads=${[
        [t("agent"), 13], [t("presence"), 6], [t("last_seen"), 8], [t("messages"), 7, NAMED], [t("open_tasks"), 8, NAMED],
        [t("works_on"), 27], [t("capabilities"), 9],
      ]}
      row=${(agent) => html`
        <td><${AgentLink} id=${agent.agent_id} name=${agent.name} row /></td>
        <td><span class=${`presence ${agent.status}`}>${t(agent.status)}</span></td>
        <td><${Ago} at=${agent.last_seen} /></td>
        <td>${count(agent.messages)}</td>
        <td>${count(agent.open_tasks)}</td>
        <td>${agent.current &&
          html`<${State} name=${agent.current.status} />${" "}<${Progress} value=${agent.current.progress} />${" "}
            <${TaskLink} id=${agent.current.task_id} words=${agent.current.words || agent.current.task_id.slice(0, 8)} row=${null} />
            ${agent.current.note && html` · <${Said} text=${agent.current.note} />`}`}</td>
        <td><${Said} text=${agent.capabilities.join(", ")} /></td>`} /></article>`;
}

export function Agent({ id, session }) {
  const [turn, again] = useState(0);
  const state = useData(`admin/agents/${encodeURIComponent(id)}${turn ? `#${turn}` : ""}`);
  const [trouble, complain] = useState(null);
  const found = state.data;
  const kick = () => {
    if (!confirm(t("kick.sure", { name: clean(found.agent.name) }))) return;
    ask("kick", { agent: found.agent.agent_id }).then(
      () => go("agents"),
      (error) => complain(error),
    );
  };
  return html`<article><h1><${Said} text=${found ? found.agent.name : id} /></h1>
    <${Trouble} state=${trouble ? { error: trouble } : state} back=${!trouble && html`<a href="#/agents">${t("agents")}</a>`} />
    ${found &&
    html`<div>
      ${!session.read_only &&
      html`<p class="buttons"><a class="button" href=${address("write", { to: found.agent.agent_id })}>${t("write")}</a>
        <${Rename} agent=${found.agent} onDone=${() => again(turn + 1)} />
        <button class="danger" onClick=${kick}>${t("kick")}</button></p>`}
      <dl class="facts">
        <dt>${t("presence")}</dt>
        <dd>
          <span class=${`presence ${found.agent.status}`}>${t(found.agent.status)}</span> · <${Ago} at=${found.agent.last_seen} />
        </dd>
        <dt>${t("id")}</dt><dd><${Said} text=${found.agent.agent_id} /></dd>
        <dt>${t("claimed")}</dt><dd>${t(found.agent.claimed ? "yes" : "no")}</dd>
        <dt>${t("registered")}</dt><dd><${Ago} at=${found.agent.registered_at} /></dd>
        <dt>${t("machine")}</dt><dd><${Said} text=${found.agent.machine} /></dd>
        <dt>${t("description")}</dt><dd><${Said} text=${found.agent.description} /></dd>
        <dt>${t("capabilities")}</dt><dd><${Said} text=${found.agent.capabilities.join(", ")} /></dd>
        <dt>${t("topics")}</dt><dd>${found.subscriptions.includes("*") ? t("all") : html`<${Said} text=${found.subscriptions.join(", ")} />`}</dd>
        <dt>${t("messages")}</dt><dd>${count(found.agent.messages)}</dd>
        <dt>${t("needs.dead_letters")}</dt><dd>${count(found.dead_letters)}</dd>
        <dt>${t("open_tasks")}</dt>
        <dd><a href=${address("tasks", { assignee: found.agent.agent_id })}>${count(found.agent.open_tasks)}</a></dd>
        <dt>${t("asked_for")}</dt>
        <dd>
          ${Object.values(found.asked).every((n) => !n) && html`<span class="none">–</span>`}
          ${[...OPEN, ...ENDED]
            .filter((name) => found.asked[name])
            .map(
              (name) =>
                html`<a href=${address("tasks", { requester: found.agent.agent_id, status: name })}
                  ><${State} name=${name} /> ${count(found.asked[name])}</a
                > `,
            )}
        </dd>
      </dl>
      <h2>${t("next_messages")}</h2>
      <${Messages} rows=${found.next_messages} empty=${t("empty.messages")} />
      <${AgentMore} id=${found.agent.agent_id} /></div>`}</article>`;
}

const Messages = ({ rows, empty }) =>
  html`<${Table} empty=${empty} heads=${[t("message"), t("kind"), t("from"), t("attempts"), t("stored")]}
    rows=${rows.map(
      (row) => html`<tr key=${row.message_id}>
        <td>
          ${row.type === "task_delegation"
            ? html`<${TaskLink} id=${row.message_id} words=${row.words} />`
            : html`<${Said} text=${row.words || row.message_id} />`}
        </td>
        <td><${Kind} type=${row.type} /></td>
        <td><${Sender} id=${row.from_agent} /></td>
        <td>${count(row.attempts)}</td>
        <td><${Ago} at=${row.stored_at} /></td>
      </tr>`,
    )} />`;

// How the last attempt to deliver a message ended.
const REASONS = ["lapsed", "given_back", "connection_ended", "taken_back", "undeliverable"];

export function DeadLetters({ query, session }) {
  const [trouble, complain] = useState(null);
  const [any, know] = useState(true);
  const take = ({ dead_letters }) => {
    know(dead_letters.length > 0);
    return dead_letters;
  };
  const back = (letters) => {
    complain(null);
    const of = new Map();
    for (const { mailbox, message_id } of letters.slice(0, 1000)) {
      if (!of.has(mailbox)) of.set(mailbox, []);
      of.get(mailbox).push(message_id);
    }
    const asks = [...of].map(([agent, message_ids]) => ask("admin/redrive", { agent, message_ids }));
    Promise.all(asks).catch(complain);
  };
  return html`<article><h1>${t("needs.dead_letters")}</h1>
    <p>${t("dead.why")}</p>
    <div class="filters">
      <${Choice} name=${t("reason")} value=${query.reason || ""} onChange=${(reason) => go("dead-letters", { reason })}
        options=${[["", t("all")], ...REASONS.map((name) => [name, t(`reason.${name}`)])]} />
      ${!session.read_only && html`<${RedriveAll} key=${query.reason} reason=${query.reason} any=${any} />`}
    </div>
    ${trouble && html`<${Trouble} state=${{ error: trouble }} />`}
    <${List} path=${`admin/dead-letters${asked(query, ["reason"])}`} take=${take} id=${(letter) => `${letter.mailbox} ${letter.message_id}`}
      empty=${t("empty.dead_letters")}
      above=${(rows) => !session.read_only && rows.length > 1 && html`<p class="above"><button onClick=${() => back(rows)}>${t("put_these_back", { n: count(Math.min(rows.length, 1000)) })}</button></p>`}
      heads=${[
        [t("message"), 16], [t("mailbox"), 8, NAMED], [t("kind"), 9], [t("from"), 8, NAMED], [t("reason"), 14], [t("attempts"), 6, LEFT_OUT],
        [t("dead"), 8],
        ...(session.read_only ? [] : [[t("act"), 8]]),
      ]}
      row=${(letter) => html`
        <td>${letter.type === "task_delegation"
          ? html`<${TaskLink} id=${letter.message_id} words=${letter.words} />`
          : html`<${Said} text=${letter.words || letter.message_id} />`}</td>
        <td><${AgentLink} id=${letter.mailbox} /></td>
        <td><${Kind} type=${letter.type} /></td>
        <td><${Sender} id=${letter.from_agent} /></td>
        <td>${t(`reason.${letter.reason || "unknown"}`)}</td>
        <td>${count(letter.attempts)}</td>
        <td><${Ago} at=${letter.dead_at} /></td>
        ${!session.read_only && html`<td><button onClick=${() => back([letter])}>${t("put_back")}</button></td>`}`} /></article>`;
}

export function Tasks({ query, session }) {
  const set = (change) => go("tasks", { ...query, ...change });
  const names = ["open", "final", ...OPEN, ...ENDED];
  return html`<article><h1>${t("tasks")}</h1>
    <div class="filters">
      <${Choice} name=${t("status")} value=${query.status || "open"} onChange=${(status) => set({ status })}
        options=${names.map((name) => [name, t(`state.${name}`)])} />
      <${AgentSearch} name=${t("requester")} id=${query.requester || ""} onChange=${(requester) => set({ requester })} />
      <${AgentSearch} name=${t("assignee")} id=${query.assignee || ""} onChange=${(assignee) => set({ assignee })} />
    </div>
    <${List} path=${`admin/tasks${asked(query, ["status", "requester", "assignee"])}`} take=${(found) => found.tasks}
      id=${(task) => task.task_id} heads=${TASK_HEADS()} row=${taskRow}
      empty=${html`<${NoRows} view="tasks" filters=${{ ...query, status: (query.status || "open") !== "open" }}>
        ${t("empty.open")} ${!session.read_only && html`<a href="#/write">${t("write.one")}</a>`}<//>`} /></article>`;
}

// -- a task -----------------------------------------------------------------------------------------------------------

const HOUR_MS = 3600 * 1000;
const FACTS = ["stored_at", "delivered_at", "acknowledged_at", "answered_at"];

function Timeline({ found, now }) {
  const begin = Date.parse(found.facts.stored_at);
  const end = Math.max(Date.parse(found.task.finished_at || now), begin + 1000);
  const moment = (time) => (end - begin < HOUR_MS ? clock(time, { second: "2-digit" }) : exact(time));
  const at = (time) => Math.min(100, Math.max(0, (100 * (Date.parse(time) - begin)) / (end - begin)));
  return html`<div class="timeline" role="img" aria-label=${t("timeline.leases", { n: found.leases.length })}>
    ${found.leases.map((lease) => {
      const left = at(lease.since);
      const width = Math.max(0.5, at(lease.until || now) - left);
      return html`<div class="lane">
        <div class=${`lease ${lease.ended_by || "open"}`} style=${{ left: `${left}%`, width: `${width}%` }}></div>
      </div>`;
    })}
    <div class="lane marks">
      ${FACTS.filter((name) => found.facts[name]).map(
        (name) => html`<div class=${`mark ${name}`} style=${{ left: `${at(found.facts[name])}%` }}></div>`,
      )}
    </div>
    <div class="ends"><span>${moment(begin)}</span><span>${moment(end)}</span></div>
  </div>`;
}

/* A task that was taken back, and that no agent has claimed since, shows its last lease. */
function Fact({ name, found }) {
  if (found.facts[name]) return html`<${Ago} at=${found.facts[name]} />`;
  const last = name === "delivered_at" && found.leases.at(-1);
  if (last && last.until) return html`<${Ago} at=${last.since} /> · <${At} name="queued_again" at=${last.until} />`;
  return t(found.task.finished_at ? "never" : "not_yet");
}

export function Task({ id, session }) {
  const { overview } = useContext(Live);
  const state = useData(`admin/tasks/${encodeURIComponent(id)}`);
  const found = state.data;
  const task = found && found.task;
  const now = overview ? overview.server_time : new Date().toISOString();
  return html`<article><h1>${t("task")} <small><${Said} text=${id} /></small></h1>
    ${found && found.contents && task.task !== null && html`<${Said} text=${task.task} block />`}
    <${Trouble} state=${state} back=${html`<a href="#/tasks">${t("tasks")}</a>`} />
    ${found &&
    html`<div><dl class="facts">
        <dt>${t("status")}</dt>
        <dd>
          <${State} name=${task.status} /> ${task.dead_letter && html`<a class="alarm" href="#/dead-letters">${t("is_dead_letter")}</a>`}
          <${Report} value=${task.progress} status=${task.status} note=${task.note} />
        </dd>
        <dt>${t("requester")}</dt><dd><${AgentLink} id=${task.requester} /></dd>
        <dt>${t("assignee")}</dt><dd><${AgentLink} id=${task.assignee} name=${task.owner && task.owner.name} /></dd>
        ${task.priority !== "normal" && html`<div class="pair"><dt>${t("write.priority")}</dt><dd>${t(`priority.${task.priority}`)}</dd></div>`}
        ${task.deadline_at && html`<div class="pair"><dt>${t("deadline")}</dt><dd><${Ago} at=${task.deadline_at} /></dd></div>`}
        ${task.parent_task &&
        html`<div class="pair"><dt>${t("parent")}</dt><dd><a href=${one("tasks", task.parent_task)}><${Said} text=${task.parent_task} /></a></dd></div>`}
      </dl>
      <${TaskActs} task=${task} session=${session} />
      <${Family} id=${id} task=${task} />
      <h2>${t("timeline")}</h2>
      <${Timeline} found=${found} now=${now} />
      <dl class="four">
        ${FACTS.map(
          (name) => html`<div class=${`fact ${name}${found.facts[name] ? "" : " missing"}`}>
            <dt>${t(`fact.${name}`)}</dt>
            <dd><${Fact} name=${name} found=${found} /></dd>
          </div>`,
        )}
      </dl>
      <h2>${t("leases")}</h2>
      <${Table} empty=${t("empty.leases")} heads=${[t("agent"), t("since"), t("until"), t("ended_by")]}
        rows=${found.leases.map(
          (lease) => html`<tr>
            <td><${AgentLink} id=${lease.agent} /></td>
            <td><${Ago} at=${lease.since} /></td>
            <td>${lease.until ? html`<${Ago} at=${lease.until} />` : t("goes_on")}</td>
            <td>${lease.ended_by && html`<${State} name=${lease.ended_by} />`}</td>
          </tr>`,
        )} />
      <h2>${t("exchange")}</h2>
      ${!found.contents && html`<p class="empty">${t("withheld")}</p>`}
      <ol class="history">
        ${task.history.map(
          (event) => html`<li>
            <${Ago} at=${event.at} /> <${State} name=${event.status} />
            <${Sender} id=${event.by} />${(event.note || event.progress !== null) && " · "}
            <${Report} value=${event.progress} status=${event.status} note=${event.note} />
            ${event.content !== null && html`<${Said} text=${event.content} block />`}
          </li>`,
        )}
      </ol>
      ${task.history_folded > 0 && html`<p class="empty">${t("folded", { n: count(task.history_folded) })}</p>`}
      ${found.contents &&
      [
        ["context", task.context],
        ["result", task.result],
      ]
        .filter(([, value]) => value !== null && !isEmpty(value))
        .map(([name, value]) => html`<div><h3>${t(`content.${name}`)}</h3><${Said} text=${value} block /></div>`)}
      ${[...task.attachments, ...task.result_attachments].length > 0 &&
      html`<div><h3>${t("attachments")}</h3>
        <ul>${[...task.attachments, ...task.result_attachments].map((file) => html`<li><a href=${one("files", file.file_key)}><${Said} text=${file.file_key} /></a></li>`)}</ul></div>`}</div>`}</article>`;
}

const isEmpty = (value) => typeof value === "object" && Object.keys(value).length === 0;

// -- audit ------------------------------------------------------------------------------------------------------------

const OF_TASKS = ["answer_as_operator", "cancel_as_operator", "delegate_as_operator", "respond_as_operator"];

// On what an act was: agents by their names, with links to all that has a view.
function Target({ entry }) {
  const { act, target } = entry;
  const facts = entry.facts || {};
  const to = facts.recipient && html` → <${AgentLink} id=${facts.recipient.agent_id} name=${facts.recipient.name} />`;
  if (OF_TASKS.includes(act)) return html`<${TaskLink} id=${target} words=${target.slice(0, 8)} />${to}`;
  if (act === "send_as_operator") return to;
  if (act === "broadcast_as_operator") return html`<a href=${address("knowledge", { author: "operator" })}>${t("told", { n: count(facts.recipients) })}</a>`;
  if (act === "rename_agent") return html`<${AgentLink} id=${target} /> (<${Said} text=${facts.before} /> → <${Said} text=${facts.name} />)`;
  if (act === "redrive_for") return html`<${AgentLink} id=${target} /> (${count(facts.count)})`;
  if (act === "unlock_as_operator") return html`<a href=${one("files", target)}><${Said} text=${target} /></a>`;
  if (act === "stop_all") return null;
  if (act === "make_link") return facts.read_only ? t("read_only") : t("target.page");
  if (act === "redrive_all") return count(facts.count);
  if (act === "log_out") return count(facts.ended);
  return html`<${Said} text=${target} />`;
}

// The right by which an act was done: "token", "local", or "session" with a name.
function Right({ by }) {
  const [kind, name] = by.split(" ");
  return ["token", "local", "session"].includes(kind) ? html`${t(`right.${kind}`)} <${Said} text=${name} />` : html`<${Said} text=${by} />`;
}

export function Audit() {
  return html`<article><h1>${t("audit")}</h1>
    <p>${t("audit.why")}</p>
    <${List} path="admin/audit" take=${(found) => found.entries} empty=${t("empty.audit")}
      id=${(entry) => `${entry.at} ${entry.act} ${entry.target}`}
      heads=${[[t("when"), 8], [t("act"), 13], [t("target"), 20], [t("from"), 9, NAMED], [t("right"), 12]]}
      row=${(entry) => html`
        <td><${Ago} at=${entry.at} /></td>
        <td>${entry.act === "stop_all" && entry.target === "running" ? t("act.resume_all") : t(`act.${entry.act}`)}</td>
        <td><${Target} entry=${entry} /></td>
        <td><${Said} text=${entry.address || "–"} /></td>
        <td><${Right} by=${entry.by} /></td>`} /></article>`;
}
