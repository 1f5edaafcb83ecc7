// The owner's chat with the agent, the keys, and the settings.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { Ago, ask, clean, one, Said, t, Table, Trouble, useData } from "./parts.js";
import { Import } from "./portal-import.js";
import { Copy, Failed, field, FileName, nameOf, Pick, Size, useAct, useFiles } from "./portal-parts.js";

// -- chat -------------------------------------------------------------------------------------------------------------

// An attachment stands in the chat as Agent P2P writes it. Its address is one of this portal, and is only downloaded.
const ATTACHED = /^\[文件\] ([^\n]*)\n(\/static\/owner_files\/[\w.-]+)$/;

function Line({ text }) {
  const [, name, url] = text.match(ATTACHED) || [];
  if (!url) return html`<${Said} text=${text} block />`;
  return html`<p class="attached"><a href=${url} download=${clean(name)}>${t("portal.attachment")} <${Said} text=${name} /></a></p>`;
}

const MOST_ATTACHED = 10 * 1024 * 1024;

async function attach({ upload }) {
  const { filename, url } = await upload("api/chat/owner/upload", "file");
  return ask("api/chat/owner/send", { content: `[文件] ${filename.replace(/\s+/g, " ")}\n${url}` });
}

export function Chat({ session }) {
  const [again, set] = useState(0);
  const [limit, more] = useState(50);
  const state = useData(`api/chat/owner/history?limit=${limit}&again=${again}`);
  const [act, sent] = useAct();
  const files = useFiles(session);
  const end = useRef(null);
  const lines = state.data ? state.data.messages : [];
  const last = lines.length ? lines[lines.length - 1].id : 0;
  useEffect(() => {
    if (end.current) end.current.scrollIntoView({ block: "nearest" });
  }, [last]);
  const say = (event) => {
    event.preventDefault();
    const content = event.target.elements.content.value;
    if (!content.trim() && !files.all.length) return;
    act(
      async () => {
        await files.each(attach);
        if (content.trim()) await ask("api/chat/owner/send", { content });
      },
      () => {
        event.target.reset();
        files.clear();
        set(again + 1);
      },
    );
  };
  return html`<article><h1>${t("portal.chat")}</h1>
    <p>${t("portal.chat.why")}</p>
    <${Trouble} state=${state} />
    ${lines.length >= limit && limit < 500 && html`<p><button onClick=${() => more(Math.min(limit * 2, 500))}>${t("more")}</button></p>`}
    ${state.data && !lines.length && html`<p class="empty">${t("portal.empty.chat")}</p>`}
    <ol class="talk">
      ${lines.map(
        (line) => html`<li key=${line.id} class=${line.role === "owner" ? "sent" : "received"}>
          <p class="head"><b>${t(`portal.role.${line.role}`)}</b> <${Ago} at=${line.created_at} /></p>
          <${Line} text=${line.content} />
        </li>`,
      )}
    </ol>
    <form class="write" onSubmit=${say} ref=${end}>
      <label>${t("portal.say")} <textarea name="content" rows="3"></textarea></label>
      <${Pick} files=${files} label=${t("portal.attach")} most=${MOST_ATTACHED} />
      <button disabled=${sent.busy}>${t("portal.send")}</button>
      <${Failed} state=${sent} />
    </form></article>`;
}

// -- files ------------------------------------------------------------------------------------------------------------

const peerOf = (file) => (file.type === "received" ? file.from_portal : file.to_portal);

// A contact by its name, or the address of one that was removed.
const Peer = ({ at, contact }) =>
  contact ? html`<a href=${one("contacts", String(contact.id))} title=${clean(at)}><${Said} text=${nameOf(contact)} /></a>` : html`<${Said} text=${at} />`;

export function PortalFiles() {
  const [again, set] = useState(0);
  const [act, state] = useAct();
  const found = useData(`api/portal/files?again=${again}`);
  const people = useData("api/contacts");
  const contactAt = (at) => people.data && people.data.contacts.find((contact) => contact.portal_url === at);
  const remove = (file) => {
    if (!confirm(t("portal.file.sure", { name: clean(file.filename) }))) return;
    act(() => ask(`api/portal/files/${encodeURIComponent(file.file_id)}`, {}, "DELETE"), () => set(again + 1));
  };
  return html`<article><h1>${t("portal.files")}</h1>
    <p>${t("portal.files.why")}</p>
    <${Failed} state=${state} />
    <${Trouble} state=${found} />
    ${found.data &&
    html`<${Table} empty=${t("portal.empty.files")}
      heads=${[t("portal.file"), t("portal.contact"), t("portal.size"), t("portal.state"), t("portal.since"), t("portal.acts")]}
      rows=${found.data.files.map(
        (file) => html`<tr key=${file.file_id}>
          <td><${FileName} file=${file} /></td>
          <td>${t(file.type === "received" ? "portal.from" : "portal.to")} <${Peer} at=${peerOf(file)} contact=${contactAt(peerOf(file))} /></td>
          <td><${Size} bytes=${file.size} /></td>
          <td>${t(`portal.file.${file.status}`)} ${file.detail && html`<${Said} text=${file.detail} />`}</td>
          <td><${Ago} at=${file.created_at} /></td>
          <td><button class="danger" disabled=${state.busy} onClick=${() => remove(file)}>${t("portal.remove")}</button></td>
        </tr>`,
      )} />`}</article>`;
}

// -- keys -------------------------------------------------------------------------------------------------------------

export function Keys() {
  const [again, set] = useState(0);
  const [made, show] = useState(null);
  const [act, state] = useAct();
  const found = useData(`api/key/list?again=${again}`);
  const make = (event) => {
    event.preventDefault();
    const agent_name = field(event, "label");
    act(
      () => ask("api/key/create", { agent_name }),
      (answer) => {
        event.target.reset();
        show(answer.api_key);
        set(again + 1);
      },
    );
  };
  const renew = () => {
    if (!confirm(t("portal.owner.sure"))) return;
    show(null);
    act(
      () => ask("api/portal/owner-key", {}),
      (answer) => {
        show(answer.api_key);
        set(again + 1);
      },
    );
  };
  const revoke = (key) => {
    if (!confirm(t("portal.revoke.sure", { name: clean(key.agent_name) }))) return;
    show(null); // it may be the key that ends
    act(() => ask(`api/key/revoke?${new URLSearchParams({ api_key: key.key_id })}`, {}), () => set(again + 1));
  };
  return html`<article><h1>${t("portal.keys")}</h1>
    <p>${t("portal.keys.why")}</p>
    <form class="fields" onSubmit=${make}>
      <label>${t("portal.key.label")} <input name="label" required maxlength="200" /></label>
      <button disabled=${state.busy}>${t("portal.key.make")}</button>
    </form>
    <${Failed} state=${state} />
    ${made && html`<div class="invite"><p>${t("portal.key.once")}</p><${Copy} text=${made} /></div>`}
    <${Trouble} state=${found} />
    ${found.data &&
    html`<${Table} empty=${t("portal.empty.keys")}
      heads=${[t("portal.key.label"), t("portal.key"), t("portal.key.since"), t("portal.key.used"), t("portal.acts")]}
      rows=${found.data.api_keys.map(
        (key) => html`<tr key=${key.key_id}>
          <td><${Said} text=${key.agent_name} /></td>
          <td><code><${Said} text=${key.key_id} /></code></td>
          <td><${Ago} at=${key.created_at} /></td>
          <td><${Ago} at=${key.last_used_at} /></td>
          <td><button class="danger" disabled=${state.busy} onClick=${() => revoke(key)}>${t("portal.revoke")}</button></td>
        </tr>`,
      )} />
      <h2>${t("portal.owner")}</h2>
      <p>${t("portal.owner.why")}</p>
      ${found.data.owner_key &&
      html`<dl class="facts">
        <dt>${t("portal.key")}</dt><dd><code><${Said} text=${found.data.owner_key.key_id || "–"} /></code></dd>
        <dt>${t("portal.key.since")}</dt><dd><${Ago} at=${found.data.owner_key.created_at} /></dd>
        <dt>${t("portal.key.used")}</dt><dd><${Ago} at=${found.data.owner_key.last_used_at} /></dd>
      </dl>`}
      <p><button class="danger" disabled=${state.busy} onClick=${renew}>${t("portal.owner.make")}</button></p>`}</article>`;
}

// -- settings ---------------------------------------------------------------------------------------------------------

export function Settings({ session }) {
  const about = useData("api/portal/about");
  const [act, state] = useAct();
  const [leave, left] = useAct();
  const [different, complain] = useState(false);
  const change = (event) => {
    event.preventDefault();
    const [old_password, new_password, again] = ["old", "new", "again"].map((name) => event.target.elements[name].value);
    complain(new_password !== again);
    if (new_password === again) act(() => ask("api/auth/change-password", { old_password, new_password }), () => location.reload());
  };
  return html`<article><h1>${t("portal.settings")}</h1>
    <${Trouble} state=${about} />
    ${about.data &&
    html`<dl class="facts">
      <dt>${t("portal.address")}</dt><dd><${Said} text=${about.data.url} /></dd>
      <dt>${t("portal.version")}</dt><dd><${Said} text=${about.data.version} /></dd>
    </dl>`}
    <h2>${t("portal.change")}</h2>
    <form class="fields" onSubmit=${change}>
      <label>${t("portal.old")} <input name="old" type="password" autocomplete="current-password" required /></label>
      <label>${t("portal.new")} <input name="new" type="password" autocomplete="new-password" minlength="6" required /></label>
      <label>${t("portal.again")} <input name="again" type="password" autocomplete="new-password" minlength="6" required /></label>
      <button disabled=${state.busy}>${t("portal.change.do")}</button>
    </form>
    ${different && html`<p class="trouble" role="alert">${t("portal.different")}</p>`}
    <${Failed} state=${state} />
    <h2>${t("portal.everywhere")}</h2>
    <p>${t("portal.everywhere.why")}</p>
    <p><button class="danger" disabled=${left.busy}
      onClick=${() => leave(() => ask("api/portal/logout-all", {}), () => location.reload())}>${t("portal.everywhere.do")}</button></p>
    <${Failed} state=${left} />
    <${Import} session=${session} own=${about.data ? about.data.url : "URL"} />
    <h2>${t("portal.bridge")}</h2>
    <p>${t("portal.bridge.why")}</p>
    <${Copy} text="clawlink portal bridge --install" /></article>`;
}
