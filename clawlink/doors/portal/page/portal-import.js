// Import in from Agent P2P: the old database is brought, looked at, and taken over while the portal runs.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { ask, clean, named, Said, t, Table } from "./parts.js";
import { Copy, Failed, put, Size, useAct } from "./portal-parts.js";

const PATH = "api/portal/import";
const POLL_MS = 500;
const BUSY = ["uploading", "looking", "bringing"];
const FOLDERS = ["photos", "owner_files"];
const MOST_BYTES = 1024 ** 3;

// What the portal has of an import, and it again every half second while it works.
function useImport() {
  const [told, set] = useState(null);
  const [error, fail] = useState(null);
  const timer = useRef(null);
  const look = () => {
    clearTimeout(timer.current);
    return ask(PATH).then(
      (answer) => {
        fail(null);
        set(answer);
        if (BUSY.includes(answer.state)) timer.current = setTimeout(look, POLL_MS);
      },
      (refusal) => {
        fail(refusal);
        timer.current = setTimeout(look, 4 * POLL_MS);
      },
    );
  };
  useEffect(() => {
    look();
    return () => clearTimeout(timer.current);
  }, []);
  return { told, error, look };
}

function Came({ report, state }) {
  const kinds = Object.keys(report.came).filter((kind) => report.came[kind] || report.there[kind]);
  return html`<${Table} empty=${t("portal.import.nothing")}
    heads=${[t("portal.import.kind"), t(state === "looked" || state === "looking" ? "portal.import.comes" : "portal.import.came"), t("portal.import.there")]}
    rows=${kinds.map((kind) => html`<tr key=${kind}><td>${t(`portal.came.${kind}`)}</td><td>${report.came[kind]}</td><td>${report.there[kind]}</td></tr>`)} />`;
}

function Stays({ report }) {
  if (!report.left.length && !report.noted.length) return null;
  return html`<h3>${t("portal.import.stays")}</h3>
    <ul class="stays">
      ${report.noted.map((one) => html`<li><${Said} text=${t(`portal.noted.${one.reason}`, one)} /></li>`)}
      ${report.left.map(
        (one) => html`<li><b><${Said} text=${t(`portal.left.${one.kind}`, one)} /></b>${t("colon")}${" "}
          <${Said} text=${t(`portal.reason.${one.reason}`, one)} /></li>`,
      )}
    </ul>
    ${report.more_left > 0 && html`<p>${t("portal.import.more", { n: report.more_left })}</p>`}`;
}

// Anybody could make a key at the old portal, so nothing is chosen beforehand.
function KeyChoice({ report, chosen, choose }) {
  if (!report.keys.length) return null;
  return html`<h3>${t("portal.import.keys")}</h3>
    <p>${t("portal.import.keys.why")}</p>
    <${Table} empty="" heads=${[t("portal.key"), t("portal.key.label"), t("portal.import.use")]}
      rows=${report.keys.map(
        (key) => html`<tr key=${key.id}>
          <td><code><${Said} text=${key.key_id} /></code></td>
          <td><${Said} text=${key.agent_name || "-"} /></td>
          <td><select aria-label=${t("portal.import.use.of", { key: clean(key.key_id) })} value=${chosen[key.id] || ""}
            onChange=${(event) => choose({ ...chosen, [key.id]: event.target.value })}>
            <option value="">${t("portal.import.use.not")}</option>
            <option value="owner">${t("portal.import.use.owner")}</option>
            <option value="agent">${t("portal.import.use.agent")}</option>
          </select></td>
        </tr>`,
      )} />`;
}

export function Import({ session, own }) {
  const { told, error, look } = useImport();
  const [act, state] = useAct();
  const [sent, tell] = useState(null);
  const [chosen, choose] = useState({});
  const stopping = useRef(null);
  const step = told ? told.state : "none";
  const busy = state.busy || BUSY.includes(step);
  const bring = (path, file, signal) =>
    put("PUT", path, file, session, (bytes) => tell({ name: file.name, size: file.size, bytes }), signal);
  const begin = (event) => {
    event.preventDefault();
    const { database, at } = event.target.elements;
    const beside = FOLDERS.flatMap((folder) => [...event.target.elements[folder].files].map((file) => [folder, file]));
    const { signal } = (stopping.current = new AbortController());
    choose({});
    act(
      async () => {
        const [file] = database.files;
        if (file && file.size > MOST_BYTES) throw new Error(t("portal.import.large"));
        try {
          if (file) await bring(PATH, file, signal);
          for (const [folder, one] of beside) await bring(`${PATH}/${folder}/${encodeURIComponent(one.name)}`, one, signal);
        } finally {
          tell(null);
        }
        await ask(PATH, { at: at.value.trim() || null });
      },
      look,
    );
  };
  const take = () => {
    const of = (use) => Object.keys(chosen).filter((id) => chosen[id] === use);
    const [owner_key = null, second] = of("owner");
    act(
      () => {
        if (second) throw new Error(t("portal.import.one_owner"));
        return ask(PATH, { bring: true, at: told.at, owner_key, agent_keys: of("agent") });
      },
      look,
    );
  };
  const drop = () => act(() => ask(PATH, {}, "DELETE"), look);
  const there = ["uploaded", "looked"].includes(step) || (step === "failed" && told.size > 0);
  return html`<h2 id="import">${t("portal.import")}</h2>
    <p>${t("portal.import.why")}</p>
    <form class="fields" onSubmit=${begin}>
      <label>${t("portal.import.database")} <input name="database" type="file" required=${!there} disabled=${busy} /></label>
      <label>${t("portal.import.photos")} <input name="photos" type="file" multiple disabled=${busy} /></label>
      <label>${t("portal.import.attachments")} <input name="owner_files" type="file" multiple disabled=${busy} /></label>
      <label>${t("portal.import.at")} <input name="at" type="url" placeholder=${clean(own)} disabled=${busy} /></label>
      <button disabled=${busy}>${t("portal.import.look")}</button>
    </form>
    <div role="status">
      ${sent &&
      html`<p>${t("portal.import.uploading")} <${Said} text=${sent.name} /> <${Size} bytes=${sent.size} />${" "}
        <progress max=${Math.max(sent.size, 1)} value=${sent.bytes} aria-label=${t("portal.pick.progress", { name: clean(sent.name) })}></progress></p>`}
      ${!sent && step !== "none" && html`<p>${t(`portal.step.${step}`)}</p>`}
    </div>
    ${["looking", "bringing"].includes(step) &&
    html`<p><progress max=${Math.max(told.total, 1)} value=${told.done} aria-label=${t("portal.import.progress")}></progress></p>`}
    ${sent && html`<p><button type="button" onClick=${() => stopping.current.abort()}>${t("portal.pick.stop")}</button></p>`}
    <${Failed} state=${state} />
    <${Failed} state=${{ error }} />
    ${told && told.fault && html`<p class="trouble" role="alert">${told.fault.reason ? t(`portal.fault.${told.fault.reason}`) : clean(named(told.fault.code, told.fault.detail))}</p>`}
    ${told &&
    told.report &&
    html`<${Came} report=${told.report} state=${step} />
      <${Stays} report=${told.report} />
      ${step === "looked" && html`<${KeyChoice} report=${told.report} chosen=${chosen} choose=${choose} />`}`}
    ${!sent &&
    step !== "none" &&
    html`<p class="acts">
      ${["looked", "failed"].includes(step) && told.size > 0 && html`<button type="button" disabled=${busy} onClick=${take}>${t("portal.import.bring")}</button>${" "}`}
      ${step !== "uploading" && html`<button type="button" class="danger" disabled=${state.busy} onClick=${drop}>${t(busy ? "portal.pick.stop" : "portal.import.drop")}</button>`}
    </p>`}
    <p>${t("portal.import.command")}</p>
    <${Copy} text=${`clawlink portal import portal.db --at ${own} --data DIR`} />`;
}
