// What belongs to an agent or a task: its tasks, files and talk, and the tasks before and after it.
import { html, useEffect, useState } from "./htm-preact.js";
import { Lines } from "./conversations.js";
import { FILE_HEADS, fileRow } from "./files.js";
import { asked, LEFT_OUT, NAMED } from "./lists.js";
import { address, Ago, AgentLink, ask, count, one, Recipient, Report, Said, State, t, Table, TaskLink, Trouble, useData } from "./parts.js";

export const TASK_HEADS = () => [
  [t("task"), 20], [t("status"), 8], [t("requester"), 9, NAMED], [t("assignee"), 9, NAMED], [t("progress"), 14], [t("attempts"), 6, LEFT_OUT],
  [t("stored"), 8],
];

export const taskRow = (task) => html`
  <td><${TaskLink} id=${task.task_id} words=${task.words} /></td>
  <td><${State} name=${task.status} /></td>
  <td><${AgentLink} id=${task.requester} /></td>
  <td><${Recipient} task=${task} id=${task.assignee} /></td>
  <td>${(task.note || task.progress !== null) && html`<${Report} value=${task.progress} status=${task.status} note=${task.note} />`}</td>
  <td>${count(task.attempts)}</td>
  <td><${Ago} at=${task.created_at} /></td>`;

// A short list, and where all of it stands.
function Some({ title, path, take, heads, row, id, empty, all }) {
  const state = useData(`${path}${path.includes("?") ? "&" : "?"}limit=5`);
  const rows = state.data ? take(state.data) : [];
  return html`<section><h2>${title}</h2>
    <${Trouble} state=${state} />
    ${state.data && html`<${Table} label=${title} empty=${empty} heads=${heads} rows=${rows.map((found) => html`<tr key=${id(found)}>${row(found)}</tr>`)} />`}
    ${state.data && state.data.next !== null && html`<p><a class="button" href=${all}>${t("show_all")}</a></p>`}
  </section>`;
}

const names = (heads) => heads.map(([name]) => name);

export function AgentMore({ id }) {
  const tasks = (role, status) => html`<${Some} title=${t(`tasks.${role}.${status}`)}
    path=${`admin/tasks${asked({ [role]: id, status }, [role, "status"])}`} take=${(found) => found.tasks}
    id=${(task) => task.task_id} heads=${names(TASK_HEADS())} row=${taskRow} empty=${t("empty.tasks")}
    all=${address("tasks", { [role]: id, status })} />`;
  const talk = useData(`admin/talk${asked({ agent: id, limit: 10 }, ["agent", "limit"])}`);
  return html`<div>
    ${tasks("assignee", "open")} ${tasks("assignee", "final")} ${tasks("requester", "open")} ${tasks("requester", "final")}
    <${Some} title=${t("files")} path=${`admin/files${asked({ agent: id }, ["agent"])}`} take=${(found) => found.files}
      id=${(file) => file.file_key} heads=${names(FILE_HEADS())} row=${fileRow} empty=${t("empty.files")}
      all=${address("files", { agent: id })} />
    <section aria-label=${t("last_messages")}><h2>${t("last_messages")}</h2>
      <${Trouble} state=${talk} />
      ${talk.data && html`<${Lines} lines=${talk.data.lines} />
        <p><a class="button" href=${address("conversations", { agent: id })}>${t("show_all")}</a></p>`}
    </section>
  </div>`;
}

// -- a task among others ----------------------------------------------------------------------------------------------

const MOST_ABOVE = 20;

// The tasks that a task follows from, the first of all first. One that is forgotten ends the way up.
function useAncestors(parent) {
  const [found, set] = useState([]);
  useEffect(() => {
    let gone = false;
    const climb = async () => {
      const above = [];
      let next = parent;
      while (next && above.length < MOST_ABOVE && !above.some((task) => task.task_id === next)) {
        const { task } = await ask(`admin/tasks/${encodeURIComponent(next)}`).catch(() => ({ task: null }));
        above.unshift(task || { task_id: next, status: null });
        next = task && task.parent_task;
        if (!gone) set([...above]);
      }
    };
    climb();
    return () => {
      gone = true;
    };
  }, [parent]);
  return parent ? found : [];
}

const words = (task) => (typeof task.task === "string" ? task.task.slice(0, 80) : task.words || task.task_id);

const Leaf = ({ task, here }) => html`<span class=${here ? "here" : ""}>
  ${here ? html`<b><${Said} text=${words(task)} /></b>` : html`<a href=${one("tasks", task.task_id)}><${Said} text=${words(task)} /></a>`}
  ${" "}${task.status ? html`<${State} name=${task.status} />` : html`<span class="none">${t("forgotten")}</span>`}
  ${" "}${task.assignee && html`<${AgentLink} id=${task.assignee} />`}</span>`;

export function Family({ id, task }) {
  const above = useAncestors(task.parent_task);
  const state = useData(`admin/tasks/${encodeURIComponent(id)}/children`);
  const children = state.data ? state.data.tasks : [];
  if (!task.parent_task && !children.length) return null;
  const here = html`<li><${Leaf} task=${task} here />
    ${children.length > 0 && html`<ul>${children.map((child) => html`<li key=${child.task_id}><${Leaf} task=${child} /></li>`)}</ul>`}</li>`;
  const tree = above.reduceRight((inner, parent) => html`<li><${Leaf} task=${parent} /><ul>${inner}</ul></li>`, here);
  return html`<section aria-label=${t("family")}><h2>${t("family")}</h2>
    <ul class="tree">${tree}</ul>
    ${state.data && !state.data.complete && html`<p class="empty">${t("incomplete")}</p>`}
  </section>`;
}
