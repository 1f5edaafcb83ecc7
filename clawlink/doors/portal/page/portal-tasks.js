// Tasks that cross portals: those of contacts, and those that contacts were given.
import { html, useState } from "./htm-preact.js";
import { address, Ago, ask, clean, one, Progress, Said, State, t, Table, Trouble, useData } from "./parts.js";
import { Failed, FileName, nameOf, Pick, Size, useAct, useFiles, useKey } from "./portal-parts.js";

const MOST = 200;
const REPORTS = ["completed", "failed", "rejected", "in_progress", "input_required"];

const go = (query) => {
  location.hash = address("portal-tasks", query);
};

function Party({ task }) {
  const name = task.name || task.portal_url;
  return html`${t(task.type === "sent" ? "portal.to" : "portal.from")} ${task.contact === null
    ? html`<${Said} text=${name} />`
    : html`<a href=${one("contacts", String(task.contact))}><${Said} text=${name} /></a>`}`;
}

// The beginning of what is to be done, as one line.
function words(task) {
  const text = typeof task.task === "string" ? task.task : JSON.stringify(task.task);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function Give({ contacts, chosen, session, onDone }) {
  const [act, state] = useAct();
  const files = useFiles(session);
  const [keyed, renew] = useKey();
  const give = (event) => {
    event.preventDefault();
    const { to, task } = event.target.elements;
    if (!task.value.trim()) return;
    const about = { to: Number(to.value), task: task.value };
    act(
      async () => {
        const brought = await files.each(({ bring }) => bring({ to: about.to, attach: true }));
        return ask("api/portal/delegate", keyed({ ...about, ...(brought.length && { files: brought }) }));
      },
      ({ task_id }) => {
        event.target.reset();
        files.clear();
        renew();
        onDone(task_id);
      },
    );
  };
  return html`<details class="add"><summary>${t("portal.task.give")}</summary>
    <form class="write" onSubmit=${give}>
      <label>${t("portal.contact")} <select name="to" required>
        ${contacts.map((contact) => html`<option value=${contact.id} selected=${String(contact.id) === chosen}>${clean(nameOf(contact))}</option>`)}
      </select></label>
      <label>${t("portal.task")} <textarea name="task" rows="3" required></textarea></label>
      <${Pick} files=${files} label=${t("portal.pick")} />
      <button disabled=${state.busy || !contacts.length}>${t("portal.send")}</button>
      <${Failed} state=${state} />
    </form>
  </details>`;
}

export function PortalTasks({ query, session }) {
  const [again, set] = useState(0);
  const people = useData("api/contacts");
  const contacts = people.data ? people.data.contacts : [];
  const asked = new URLSearchParams({ limit: MOST, again, ...(query.contact ? { contact: query.contact } : {}) });
  const state = useData(`api/portal/tasks?${asked}`);
  return html`<article><h1>${t("portal.tasks")}</h1>
    <p>${t("portal.tasks.why")}</p>
    <${Give} contacts=${contacts} chosen=${query.contact} session=${session} onDone=${() => set(again + 1)} />
    <div class="filters"><label>${t("portal.contact")}
      <select onChange=${(event) => go({ contact: event.target.value })}>
        <option value="" selected=${!query.contact}>${t("portal.all")}</option>
        ${contacts.map((contact) => html`<option value=${contact.id} selected=${String(contact.id) === query.contact}>${clean(nameOf(contact))}</option>`)}
      </select></label></div>
    <${Trouble} state=${state} />
    ${state.data &&
    html`<${Table} empty=${t("portal.empty.tasks")}
      heads=${[t("portal.task"), t("portal.contact"), t("portal.state"), t("portal.files.count"), t("portal.since")]}
      rows=${state.data.tasks.map(
        (task) => html`<tr key=${task.task_id}>
          <td><a href=${one("portal-tasks", task.task_id)} data-row><${Said} text=${words(task)} /></a></td>
          <td><${Party} task=${task} /></td>
          <td><${State} name=${task.status} /> ${!task.final && html`<${Progress} value=${task.progress} />`}</td>
          <td>${task.files.length || ""}</td>
          <td><${Ago} at=${task.since} /></td>
        </tr>`,
      )} />`}</article>`;
}

export function PortalTask({ id, session }) {
  const [again, set] = useState(0);
  const state = useData(`api/portal/tasks?${new URLSearchParams({ task: id, limit: 2, again })}`);
  const task = state.data && state.data.tasks.find((found) => found.task_id === id);
  const done = () => set(again + 1);
  return html`<article><h1>${t("portal.task")}</h1>
    <${Trouble} state=${state} />
    ${state.data && !task && html`<p class="empty">${t("portal.no_task")} <a href="#/portal-tasks">${t("portal.all_tasks")}</a></p>`}
    ${task && html`<${Shown} task=${task} session=${session} onDone=${done} />`}</article>`;
}

// The texts of a task with their heads, as far as it has them.
const TEXTS = ["task", "question", "note", "result"];

function Shown({ task, session, onDone }) {
  const texts = TEXTS.filter((name) => task[name] !== null && (name !== "note" || task.question === null));
  return html`<div><dl class="facts">
      <dt>${t("portal.contact")}</dt><dd><${Party} task=${task} /></dd>
      <dt>${t("portal.state")}</dt>
      <dd><${State} name=${task.status} /> ${!task.final && html`<${Progress} value=${task.progress} />`} · <${Ago} at=${task.since} /></dd>
      <dt>${t("portal.task.begun")}</dt><dd><${Ago} at=${task.created_at} /></dd>
      <dt>${t("portal.task.id")}</dt><dd><code><${Said} text=${task.task_id} /></code></dd>
      ${task.task_id_there && html`<dt>${t("portal.task.there")}</dt><dd><code><${Said} text=${task.task_id_there} /></code></dd>`}
    </dl>
    ${texts.map((name) => html`<section class=${name}><h2>${t(`portal.text.${name}`)}</h2><${Said} text=${task[name]} block /></section>`)}
    ${task.files.length > 0 &&
    html`<h2>${t("portal.files.count")}</h2><${Table} empty=""
      heads=${[t("portal.file"), t("portal.part"), t("portal.size"), t("portal.state")]}
      rows=${task.files.map(
        (file) => html`<tr>
          <td><${FileName} file=${file} /></td>
          <td>${t(`portal.part.${file.part}`)}</td>
          <td><${Size} bytes=${file.size} /></td>
          <td>${t(file.status ? `portal.file.${file.status}` : "portal.file.gone")}</td>
        </tr>`,
      )} />`}
    ${!task.final && html`<${Acts} task=${task} session=${session} onDone=${onDone} />`}</div>`;
}

// A task of a contact takes reports. A question about an own task takes an answer, and an own task can be taken back.
function Acts({ task, session, onDone }) {
  const [act, state] = useAct();
  const files = useFiles(session);
  const [keyed, renew] = useKey();
  const path = `api/portal/tasks/${encodeURIComponent(task.task_id)}`;
  const ours = task.type === "sent";
  const say = (event) => {
    event.preventDefault();
    const { result, status } = event.target.elements;
    const body = { result: result.value, ...(status && { status: status.value }) };
    act(
      async () => {
        const brought = await files.each(({ bring }) => bring({ task: task.task_id }));
        return ask(path, keyed({ ...body, ...(brought.length && { files: brought }) }));
      },
      () => {
        event.target.reset();
        files.clear();
        renew();
        onDone();
      },
    );
  };
  const cancel = () => {
    if (confirm(t("portal.task.sure"))) act(() => ask(`${path}/cancel`, {}), onDone);
  };
  const turn = !ours || task.question !== null;
  return html`<section class="acts-of-task">
    ${turn &&
    html`<form class="write" onSubmit=${say}>
      ${!ours &&
      html`<label>${t("portal.state")} <select name="status">
        ${REPORTS.map((name) => html`<option value=${name}>${t(`state.${name}`)}</option>`)}
      </select></label>`}
      <label>${t(ours ? "portal.task.answer" : "portal.task.report")} <textarea name="result" rows="3" required></textarea></label>
      ${!ours && html`<${Pick} files=${files} label=${t("portal.pick")} />`}
      <button disabled=${state.busy}>${t("portal.send")}</button>
    </form>`}
    ${ours && html`<p><button class="danger" disabled=${state.busy} onClick=${cancel}>${t("portal.task.cancel")}</button></p>`}
    <${Failed} state=${state} /></section>`;
}
