// What a person does from the page, under the agent "operator": new work, its mailbox, and steps of tasks.
import { html, useContext, useRef, useState } from "./htm-preact.js";
import { Choice } from "./lists.js";
import {
  address, Ago, AgentLink, ask, clean, ENDED, Kind, Live, one, OPEN, Said, Sender, State, t, TaskLink, Trouble, useData,
} from "./parts.js";

const OPERATOR = "operator";
const OFFERED = 20; // agents for a name that is typed

// One key for a form until it has succeeded: if a reply was lost, the same request again does nothing twice.
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// Send what a form says. The result has what came of it, and whether it is under way.
export function useAct() {
  const [state, set] = useState({ busy: false, done: null, error: null });
  const key = useRef({ said: null, value: null });
  const act = async (path, body, { keyed = false } = {}) => {
    const said = JSON.stringify([path, body]);
    if (key.current.said !== said) key.current = { said, value: newKey() };
    set({ busy: true, done: null, error: null });
    try {
      const done = await ask(path, keyed ? { ...body, idempotency_key: key.current.value } : body);
      key.current = { said: null, value: null };
      set({ busy: false, done, error: null });
      return done;
    } catch (error) {
      set({ busy: false, done: null, error });
      return null;
    }
  };
  return { ...state, act };
}

// The advice of the relay is for agents. A person has a view for it.
const ADVICE = "; list the agents with discover";

const Refusal = ({ error }) =>
  error &&
  html`<p class="trouble" role="alert">${clean(error.message.replace(ADVICE, ""))}
    ${error.message.includes(ADVICE) && html` <a href="#/agents">${t("see_agents")}</a>`}</p>`;

// -- the composer -----------------------------------------------------------------------------------------------------

const PATHS = { task: "admin/delegate", message: "admin/send", broadcast: "admin/broadcast" };

function composed(kind, form) {
  const value = (name) => (form.elements[name] ? form.elements[name].value.trim() : "");
  const text = form.elements.text.value;
  if (kind === "broadcast") return { topic: value("topic") || "general", content: text };
  const body = { priority: value("priority") || "normal" };
  if (kind === "message") return { ...body, to_agent: value("to"), content: text };
  body.task = text;
  if (value("to")) body.to_agent = value("to");
  const skills = value("capability").split(",").map((skill) => skill.trim()).filter(Boolean);
  if (skills.length) body.capability = skills;
  const minutes = Number(value("deadline"));
  if (minutes > 0) body.deadline = minutes * 60;
  return body;
}

// Whom a text is for. Agents whose id or name has what was typed are offered.
function To({ id, required }) {
  const [found, offer] = useState([]);
  const find = (event) => {
    const text = event.target.value.trim();
    ask(`admin/agents?${new URLSearchParams({ limit: OFFERED, ...(text && { text }) })}`).then(({ agents }) => offer(agents), () => {});
  };
  return html`<label>${t("to")} <input name="to" list="offered" required=${required} key=${id} defaultValue=${id || ""}
      autocomplete="off" onFocus=${find} onInput=${find} />
    <datalist id="offered">${found.map((agent) => html`<option value=${agent.agent_id} label=${clean(agent.name)}></option>`)}</datalist></label>`;
}

// Fields keep what a person types: the page is drawn again with each update, and ``value`` would put the old text back.
export function Write({ query, session }) {
  const [kind, setKind] = useState(Object.hasOwn(PATHS, query.kind) ? query.kind : "task");
  const { act, busy, done, error } = useAct();
  if (session.read_only) return html`<article><h1>${t("write")}</h1><p class="empty">${t("write.reads")}<code>clawlink open</code></p></article>`;
  const send = (event) => {
    event.preventDefault();
    const form = event.target;
    act(PATHS[kind], composed(kind, form), { keyed: true }).then((sent) => {
      if (sent) form.elements.text.value = "";
    });
  };
  return html`<article><h1>${t("write")}</h1>
    <p>${t("write.why")}</p>
    <form class="compose" onSubmit=${send}>
      <${Choice} name=${t("kind")} value=${kind} onChange=${setKind}
        options=${Object.keys(PATHS).map((name) => [name, t(`write.${name}`)])} />
      ${kind !== "broadcast" &&
      html`<${To} id=${query.to} required=${kind === "message"} />`}
      ${kind === "task" && html`<label>${t("write.capability")} <input name="capability" autocomplete="off" /></label>`}
      ${kind === "broadcast" && html`<label>${t("topic")} <input name="topic" defaultValue="general" autocomplete="off" /></label>`}
      ${kind !== "broadcast" &&
      html`<label>${t("write.priority")} <select name="priority">
        ${["low", "normal", "high", "urgent"].map(
          (name) => html`<option value=${name} selected=${name === "normal"}>${t(`priority.${name}`)}</option>`,
        )}</select></label>`}
      ${kind === "task" && html`<label>${t("write.deadline")} <input name="deadline" type="number" min="1" /></label>`}
      <label class="wide">${t("write.text")} <textarea name="text" rows="6" required dir="auto"></textarea></label>
      <p><button disabled=${busy}>${t(`write.${kind}.send`)}</button></p>
    </form>
    <${Refusal} error=${error} />
    ${done &&
    html`<p class="done" role="status">${t("write.done")}${" "}
      ${done.recipients !== undefined
        ? t("told", { n: done.recipients })
        : kind === "task" && html`<${TaskLink} id=${done.message_id} />`}</p>`}</article>`;
}

// -- the operator's mailbox -------------------------------------------------------------------------------------------

const texts = (message) => message && (message.task ?? message.content ?? message.result ?? message.note ?? null);

// Only states of tasks have words. Others are shown as they came.
const Stands = ({ status }) =>
  [...OPEN, ...ENDED].includes(status) ? html`<${State} name=${status} />` : html`<span class="note"><${Said} text=${status} /></span>`;

function Letter({ letter, session, onDone }) {
  const { act, busy, error } = useAct();
  const message = letter.message || {};
  const task = letter.task ? letter.message_id : message.task_id || (letter.type === "task_response" ? message.message_id : null);
  const away = () => act("admin/inbox", { message_ids: [letter.message_id] }).then(onDone);
  return html`<li class="letter">
    <p><${Ago} at=${letter.stored_at} />${" "}
      <${Sender} id=${letter.from_agent} name=${message.from_name} />${" "}
      <${Kind} type=${letter.type} />${" "}
      ${message.status && html`<${Stands} status=${message.status} />`}${" "}
      ${task && html`<${TaskLink} id=${task} words=${letter.task_words || t("task")} />`}</p>
    ${letter.message === null ? html`<p class="empty">${t("withheld")}</p>` : html`<${Said} text=${texts(message)} block />`}
    ${!session.read_only &&
    html`<p class="buttons">
      ${!letter.task && html`<button disabled=${busy} onClick=${away}>${t("inbox.away")}</button>`}
      ${letter.from_agent && letter.from_agent !== OPERATOR &&
      html`<a class="button" href=${address("write", { kind: "message", to: letter.from_agent })}>${t("inbox.reply")}</a>`}</p>`}
    <${Refusal} error=${error} />
  </li>`;
}

export function Inbox({ session }) {
  const [turn, again] = useState(0);
  const state = useData(`admin/inbox?limit=100${turn ? `#${turn}` : ""}`);
  const found = state.data;
  return html`<article><h1>${t("inbox")}</h1>
    <p>${t("inbox.why")}</p>
    <${Trouble} state=${state} />
    ${found && !found.messages.length && html`<p class="empty">${t("empty.inbox")}</p>`}
    ${found &&
    html`<ol class="letters">
      ${found.messages.map(
        (letter) => html`<${Letter} key=${letter.message_id} letter=${letter} session=${session} onDone=${() => again(turn + 1)} />`,
      )}
    </ol>`}</article>`;
}

// -- steps of a task --------------------------------------------------------------------------------------------------

function Reply({ path, name, button, body, onDone }) {
  const { act, busy, error } = useAct();
  const send = (event) => {
    event.preventDefault();
    const form = event.target;
    act(path, body(form.elements.text.value)).then((done) => done && (form.reset(), onDone && onDone()));
  };
  return html`<form class="compose" onSubmit=${send}>
    <label class="wide">${name} <textarea name="text" rows="3" required dir="auto"></textarea></label>
    <p><button disabled=${busy}>${button}</button></p>
    <${Refusal} error=${error} />
  </form>`;
}

export function TaskActs({ task, session }) {
  const { act, busy, error } = useAct();
  if (session.read_only || !OPEN.includes(task.status)) return null;
  const path = `admin/tasks/${encodeURIComponent(task.task_id)}`;
  const asked = task.history.findLast((event) => event.status === "input_required");
  const cancel = () => {
    const note = prompt(t("cancel.sure"), "");
    if (note !== null) act(`${path}/cancel`, note ? { note } : {});
  };
  const putBack = () => act("admin/redrive", { agent: task.assignee, message_ids: [task.task_id] });
  return html`<section class="acts" aria-label=${t("acts")}>
    ${task.status === "input_required" && asked && html`<${Said} text=${asked.content ?? asked.note} block />`}
    ${task.status === "input_required" &&
    html`<${Reply} path=${`${path}/answer`} name=${t("answer.why")} button=${t("answer")} body=${(content) => ({ content })} />`}
    ${task.assignee === OPERATOR &&
    html`<${Reply} path=${`${path}/respond`} name=${t("respond.why")} button=${t("respond")} body=${(result) => ({ result })} />`}
    <p class="buttons">${task.dead_letter && html`<button disabled=${busy} onClick=${putBack}>${t("put_back")}</button>`}
      <button class="danger" disabled=${busy} onClick=${cancel}>${t("cancel")}</button></p>
    <${Refusal} error=${error} />
  </section>`;
}

// -- dead letters and locks -------------------------------------------------------------------------------------------

// Put all dead letters back, or those of a reason.
export function RedriveAll({ reason, any }) {
  const { overview } = useContext(Live);
  const dead = overview ? overview.needs_you.dead_letters : 0;
  const { act, busy, done, error } = useAct();
  const words = reason ? t("redrive_all.some", { reason: t(`reason.${reason}`) }) : t("redrive_all");
  const run = () => confirm(t("redrive_all.sure")) && act("admin/redrive-all", reason ? { reason } : {});
  return html`<p><button disabled=${busy || !dead || !any} onClick=${run}>${words}</button>
    ${done && html` <span role="status">${t("redrive_all.done", { n: done.count, left: done.left })}</span>`}
    <${Refusal} error=${error} /></p>`;
}

export function Rename({ agent, onDone }) {
  const { act, busy, error } = useAct();
  const run = () => {
    const name = prompt(t("rename.ask", { name: clean(agent.name) }), agent.name);
    if (name) act("admin/rename", { agent: agent.agent_id, name }).then((done) => done && onDone());
  };
  return html`<button disabled=${busy} onClick=${run}>${t("rename")}</button><${Refusal} error=${error} />`;
}

export function Unlock({ file }) {
  const { act, busy, error } = useAct();
  const run = () => confirm(t("unlock.sure")) && act("admin/unlock", { file_key: file });
  return html` <button disabled=${busy} onClick=${run}>${t("unlock")}</button><${Refusal} error=${error} />`;
}
