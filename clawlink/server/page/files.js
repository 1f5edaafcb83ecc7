// Shared files: the list, and one file with its versions, their contents and what changed between them.
import { html, useEffect, useState } from "./htm-preact.js";
import { Unlock } from "./acting.js";
import { changes } from "./diff.js";
import { AgentSearch, asked, go, List, NAMED, NoRows, Search } from "./lists.js";
import { address, Ago, AgentLink, At, bytes, clean, count, one, Said, t, Table, Trouble, useData } from "./parts.js";

const MOST_SHOWN = 256 * 1024; // bytes of a version that the page shows as text
const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

const content = (key, version) => `admin/file-content/${encodeURIComponent(key)}?version=${version}`;

const Lock = ({ lock, brief = false }) => html`${brief ? null : t("locked")} <${AgentLink} id=${lock.holder} /> · <${At} name="locked.until" at=${lock.until} />${
  lock.note && " · "}<${Said} text=${lock.note} />`;

export const FILE_HEADS = () => [[t("file"), 18], [t("version"), 5, NAMED], [t("size"), 6], [t("editor"), 9], [t("written"), 8], [t("for"), 8, NAMED], [t("lock"), 22, NAMED]];

export const fileRow = (file) => html`
  <td><a href=${one("files", file.file_key)} data-row><${Said} text=${file.file_key} /></a></td>
  <td>${count(file.version)}</td>
  <td>${bytes(file.size)}</td>
  <td><${AgentLink} id=${file.last_editor} /></td>
  <td><${Ago} at=${file.updated_at} /></td>
  <td>${file.burn_after_read ? t("burns") : file.readers ? t("readers", { n: count(file.readers.length) }) : t("everyone")}</td>
  <td>${file.lock && html`<${Lock} lock=${file.lock} brief />`}</td>`;

export function Files({ query }) {
  return html`<article><h1>${t("files")}</h1>
    <div class="filters">
      <${Search} name=${t("search.files")} value=${query.text || ""} onChange=${(text) => go("files", { ...query, text })} />
      <${AgentSearch} name=${t("agent")} id=${query.agent || ""} onChange=${(agent) => go("files", { ...query, agent })} />
    </div>
    <${List} path=${`admin/files${asked(query, ["text", "agent"])}`} take=${(found) => found.files}
      id=${(file) => file.file_key} heads=${FILE_HEADS()}
      empty=${html`<${NoRows} view="files" filters=${{ text: query.text, agent: query.agent }}>${t("empty.shared")}<code>clawlink file put</code><//>`} row=${fileRow} /></article>`;
}

// Read versions as text, ``null`` for one that is no text or too large.
function useTexts(key, versions) {
  const [state, set] = useState({ data: null, error: null });
  const wanted = versions.map((version) => version.version).join();
  useEffect(() => {
    let gone = false;
    set({ data: null, error: null });
    const read = async (version) => {
      if (version.size > MOST_SHOWN) return null;
      const response = await fetch(content(key, version.version), { credentials: "same-origin" });
      if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || String(response.status));
      try {
        return new TextDecoder("utf-8", { fatal: true }).decode(await response.arrayBuffer());
      } catch {
        return null;
      }
    };
    Promise.all(versions.map(read)).then((data) => gone || set({ data, error: null }), (error) => gone || set({ data: null, error }));
    return () => {
      gone = true;
    };
  }, [key, wanted]);
  return state;
}

function Content({ name, version }) {
  const state = useTexts(name, [version]);
  const [image, show] = useState(false);
  useEffect(() => show(false), [version.version]);
  const type = version.content_type.split(";")[0].trim().toLowerCase();
  return html`<div><${Trouble} state=${state} />
    ${IMAGES.includes(type) &&
    (image
      ? html`<p><img class="image" src=${content(name, version.version)} alt=${t("image_of", { n: count(version.version) })} /></p>`
      : html`<p><button onClick=${() => show(true)}>${t("show_image")}</button></p>`)}
    ${state.data && !IMAGES.includes(type) &&
    (state.data[0] === null ? html`<p class="empty">${t("no_text", { n: bytes(MOST_SHOWN) })}</p>` : html`<${Said} text=${state.data[0]} block />`)}</div>`;
}

function Diff({ name, old, version }) {
  const state = useTexts(name, [old, version]);
  if (!state.data) return html`<${Trouble} state=${state} />`;
  if (state.data.includes(null)) return html`<p class="empty">${t("no_text", { n: bytes(MOST_SHOWN) })}</p>`;
  const found = changes(...state.data);
  if (found === null) return html`<p class="empty">${t("diff.too_long")}</p>`;
  if (!found.length) return html`<p class="empty">${t("diff.same")}</p>`;
  return html`<div class="diff" tabindex="0" role="region" aria-label=${t("diff")}>
    ${found.map((line) => html`<div class=${line.kind}><span aria-hidden="true">${line.mark}</span>
      ${line.kind === "added" ? html`<ins><${Said} text=${line.text} /></ins>` : line.kind === "removed" ? html`<del><${Said} text=${line.text} /></del>` : html`<${Said} text=${line.text} />`}</div>`)}
  </div>`;
}

export function File({ id, query, session }) {
  const state = useData(`admin/files/${encodeURIComponent(id)}`);
  const file = state.data && state.data.file;
  const versions = file ? file.versions : [];
  const at = versions.findIndex((version) => String(version.version) === query.version);
  const shown = at < 0 ? null : versions[at];
  const old = shown && query.diff ? versions[at + 1] : null;
  const to = (version, more = {}) => address(`files/${encodeURIComponent(id)}`, { version, ...more });
  return html`<article><h1><${Said} text=${id} /></h1>
    <${Trouble} state=${state} back=${html`<a href="#/files">${t("files")}</a>`} />
    ${file &&
    html`<div><dl class="facts">
        <dt>${t("for")}</dt>
        <dd>${file.readers ? html`<${AgentLink} id=${file.owner} /> ${file.readers.map((reader) => html`<${AgentLink} id=${reader} /> `)}` : t("everyone")}
          ${file.burn_after_read && html`<span class="note">${t("burns")}</span>`}</dd>
        ${file.expires_at && html`<div class="pair"><dt>${t("until")}</dt><dd><${Ago} at=${file.expires_at} /></dd></div>`}
        <dt>${t("lock")}</dt><dd>${file.lock ? html`<${Lock} lock=${file.lock} /> ${!session.read_only && !file.readers && html`<${Unlock} file=${id} />`}` : t("nobody")}</dd>
      </dl>
      <h2>${t("versions")}</h2>
      <${Table} empty=${t("empty.files")} heads=${[t("version"), t("size"), t("kind"), t("editor"), t("written"), ...(state.data.contents ? [t("act")] : [])]}
        rows=${versions.map(
          (version, n) => html`<tr key=${version.version}>
            <td class="named">${count(version.version)}</td>
            <td>${bytes(version.size)}</td>
            <td><${Said} text=${version.content_type.split(";")[0]} /></td>
            <td><${AgentLink} id=${version.last_editor || version.editor} /></td>
            <td><${Ago} at=${version.updated_at || version.written_at} /></td>
            ${state.data.contents &&
            html`<td class="acts"><a href=${to(version.version)} data-row>${t("show")}</a>${" "}
              ${n + 1 < versions.length && html`<a href=${to(version.version, { diff: 1 })}>${t("diff")}</a>`}${" "}
              <a href=${content(id, version.version)} download>${t("download")}</a></td>`}
          </tr>`,
        )} />
      ${!state.data.contents && html`<p class="empty">${t(file.burn_after_read ? "burns.why" : "withheld")}</p>`}
      ${query.version && !shown && html`<p class="empty">${t("version_gone", { n: clean(query.version) })}</p>`}
      ${state.data.contents && shown &&
      html`<div><h2>${old ? t("diff.of", { old: count(old.version), n: count(shown.version) }) : t("version_n", { n: count(shown.version) })}</h2>
        ${old ? html`<${Diff} name=${id} old=${old} version=${shown} />` : html`<${Content} name=${id} version=${shown} />`}</div>`}</div>`}</article>`;
}
