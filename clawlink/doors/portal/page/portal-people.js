// Contacts, what was written with them, and guests.
import { html, useEffect, useState } from "./htm-preact.js";
import { Ago, address, ask, clean, count, one, Said, t, Table, Trouble, useData } from "./parts.js";
import { Copy, Failed, field, FileName, nameOf, Pick, Size, useAct, useFiles, useKey } from "./portal-parts.js";

const MOST_ROWS = 200;
const PAGE = 50;
const MOST_FILES = 10;

const go = (view, query) => {
  location.hash = address(view, query);
};

// A link to the portal of somebody else. It learns nothing of this page.
const Place = ({ url }) =>
  /^https?:\/\//i.test(url)
    ? html`<a href=${url} target="_blank" rel="noopener noreferrer"><${Said} text=${url} /></a>`
    : html`<${Said} text=${url} />`;

// -- contacts ---------------------------------------------------------------------------------------------------------

function Add({ onDone }) {
  const [act, state] = useAct();
  const [invited, invite] = useState(null);
  const add = (event) => {
    event.preventDefault();
    const portal_url = field(event, "portal_url");
    const agent_name = field(event, "agent_name") || null;
    const given = field(event, "key") || null;
    const made = async () => {
      await ask("api/contacts", { portal_url, agent_name, SHARED_KEY: given });
      const [{ contacts }, { url }] = await Promise.all([ask("api/contacts"), ask("api/portal/about")]);
      const bare = (text) => text.toLowerCase().replace(/\/+$/, "");
      return { contact: contacts.find((found) => bare(found.portal_url) === bare(portal_url)) || contacts[0], own: url };
    };
    act(made, ({ contact, own }) => {
      const text = t("portal.invite.text", { own, key: contact.SHARED_KEY });
      invite(given ? null : { text, url: contact.portal_url });
      event.target.reset();
      onDone();
    });
  };
  return html`<details class="add"><summary>${t("portal.add")}</summary>
    <form class="fields" onSubmit=${add}>
      <label>${t("portal.address")} <input name="portal_url" type="url" required placeholder="https://" /></label>
      <label>${t("portal.agent_name")} <input name="agent_name" maxlength="200" /></label>
      <label>${t("portal.shared_key")} <input name="key" autocomplete="off" placeholder=${t("portal.key.made")} /></label>
      <button disabled=${state.busy}>${t("portal.add.do")}</button>
    </form>
    <${Failed} state=${state} />
    ${invited &&
    html`<div class="invite"><p>${t("portal.invite.why")} <${Place} url=${invited.url} /></p><${Copy} text=${invited.text} /></div>`}
  </details>`;
}

export function Contacts({ query }) {
  const [again, set] = useState(0);
  const [state, seen] = useContacts(again);
  const wanted = (query.text || "").toLowerCase();
  const all = state.data ? state.data.contacts : [];
  const found = all.filter((contact) => `${nameOf(contact)} ${contact.portal_url}`.toLowerCase().includes(wanted));
  return html`<article><h1>${t("portal.contacts")}</h1>
    <${Add} onDone=${() => set(again + 1)} />
    <div class="filters"><label>${t("portal.search")}
      <input type="search" data-search value=${query.text || ""} onInput=${(event) => go("contacts", { text: event.target.value })} />
    </label></div>
    <${Trouble} state=${state} />
    ${state.data &&
    html`<div><${Table}
        empty=${wanted ? html`${t("empty.match")} <a href="#/contacts">${t("filters.clear")}</a>` : t("portal.empty.contacts")}
        heads=${[t("portal.contact"), t("portal.address"), t("portal.unread"), t("portal.state"), t("portal.heard"), t("portal.added")]}
        rows=${found.slice(0, MOST_ROWS).map(
          (contact) => html`<tr key=${contact.id}>
            <td><a href=${one("contacts", String(contact.id))} data-row><${Said} text=${nameOf(contact)} /></a></td>
            <td><${Said} text=${contact.portal_url} /></td>
            <td class=${contact.unread_count ? "alarm" : ""}>${count(contact.unread_count)}</td>
            <td><${Reach} contact=${contact} seen=${seen[contact.id]} /></td>
            <td><${Ago} at=${seen[contact.id] && seen[contact.id].heard_at} /></td>
            <td><${Ago} at=${contact.created_at} /></td>
          </tr>`,
        )} />
      ${found.length > MOST_ROWS && html`<p class="empty">${t("narrow", { n: count(MOST_ROWS) })}</p>`}</div>`}</article>`;
}

const reachOf = (contact, seen) =>
  contact.blocked ? "blocked" : contact.paused ? "paused" : !seen ? "quiet" : seen.away ? "away" : "reached";

const Reach = ({ contact, seen }) =>
  html`<span class=${`reach ${reachOf(contact, seen)}`}>${t(`portal.reach.${reachOf(contact, seen)}`)}</span>`;

// The contacts, with the signs of their portals by number.
function useContacts(again) {
  const state = useData(`api/contacts?again=${again}`);
  const reach = useData(`api/portal/reach?again=${again}`);
  return [state, reach.data ? reach.data.contacts : {}];
}

export function Contact({ id, query, session }) {
  const [again, set] = useState(0);
  const [state, seen] = useContacts(again);
  const contact = state.data && state.data.contacts.find((found) => String(found.id) === id);
  return html`<article><h1><${Said} text=${contact ? nameOf(contact) : id} /></h1>
    <${Trouble} state=${state} />
    ${state.data && !contact && html`<p class="empty">${t("portal.no_contact")} <a href="#/contacts">${t("portal.all_contacts")}</a></p>`}
    ${contact &&
    html`<div><${Facts} contact=${contact} seen=${seen[contact.id]} onChange=${() => set(again + 1)} />
      <${Write} contact=${contact} session=${session} onDone=${() => set(again + 1)} />
      <${Files} contact=${contact} again=${again} />
      <${History} contact=${contact} again=${again} text=${query.text || ""} /></div>`}</article>`;
}

function Facts({ contact, seen, onChange }) {
  const [act, state] = useAct();
  const [shown, show] = useState(false);
  const rename = (event) => {
    event.preventDefault();
    const names = ["display_name", "agent_name", "user_name"].map((name) => [name, field(event, name) || null]);
    const body = { portal_url: contact.portal_url, ...Object.fromEntries(names) };
    act(() => ask(`api/contacts/${contact.id}`, body, "PUT"), onChange);
  };
  const set = (change) => () => act(() => ask(`api/portal/contacts/${contact.id}`, change), onChange);
  const remove = (path, question) => {
    if (confirm(t(question, { name: clean(nameOf(contact)) }))) act(() => ask(path, {}, "DELETE"), () => go("contacts"));
  };
  return html`<div><dl class="facts">
      <dt>${t("portal.address")}</dt><dd><${Place} url=${contact.portal_url} /></dd>
      <dt>${t("portal.state")}</dt><dd><${Reach} contact=${contact} seen=${seen} />${seen && html` · <${Ago} at=${seen.heard_at} />`}</dd>
      <dt>${t("portal.unread")}</dt><dd>${count(contact.unread_count)}</dd>
      <dt>${t("portal.added")}</dt><dd><${Ago} at=${contact.created_at} /></dd>
      <dt>${t("portal.shared_key")}</dt>
      <dd>${shown ? html`<${Copy} text=${contact.SHARED_KEY} />` : html`<button onClick=${() => show(true)}>${t("show")}</button>`}</dd>
    </dl>
    <details><summary>${t("portal.rename")}</summary>
      <form class="fields" onSubmit=${rename}>
        ${["display_name", "agent_name", "user_name"].map(
          (name) => html`<label>${t(`portal.${name}`)} <input name=${name} maxlength="200" defaultValue=${contact[name] || ""} /></label>`,
        )}
        <button disabled=${state.busy}>${t("portal.save")}</button>
      </form>
    </details>
    <p><a href=${address("portal-tasks", { contact: contact.id })}>${t("portal.tasks.with")}</a></p>
    <p class="buttons">
      <button disabled=${state.busy} onClick=${set({ paused: !contact.paused })}
        >${t(contact.paused ? "portal.resume" : "portal.pause")}</button>
      <button disabled=${state.busy} onClick=${set({ blocked: !contact.blocked })}
        >${t(contact.blocked ? "portal.unblock" : "portal.block")}</button>
      <button class="danger" disabled=${state.busy}
        onClick=${() => remove(`api/contacts/${contact.id}`, "portal.remove.sure")}>${t("portal.remove")}</button>
      <button class="danger" disabled=${state.busy}
        onClick=${() => remove(`api/portal/contacts/${contact.id}`, "portal.forget.sure")}>${t("portal.forget")}</button>
    </p>
    <${Failed} state=${state} /></div>`;
}

function Write({ contact, session, onDone }) {
  const [act, state] = useAct();
  const files = useFiles(session);
  const [keyed, renew] = useKey();
  const send = (event) => {
    event.preventDefault();
    const content = event.target.elements.content.value;
    if (!content.trim() && !files.all.length) return;
    act(
      async () => {
        if (content.trim()) await ask("api/portal/send", keyed({ to: contact.id, content }));
        await files.each(({ bring }) => bring({ to: contact.id }));
      },
      () => {
        event.target.reset();
        files.clear();
        renew();
        onDone();
      },
    );
  };
  return html`<form class="write" onSubmit=${send}>
    <label>${t("portal.write")} <textarea name="content" rows="3" disabled=${contact.blocked}></textarea></label>
    ${!contact.blocked && html`<${Pick} files=${files} label=${t("portal.pick")} />`}
    <button disabled=${state.busy || contact.blocked}>${t("portal.send")}</button>
    <${Failed} state=${state} />
  </form>`;
}

// The last files from and to a contact, and how far they came.
function Files({ contact, again }) {
  const state = useData(`api/portal/files?${new URLSearchParams({ contact: contact.id, again })}`);
  const files = state.data ? state.data.files.slice(0, MOST_FILES) : [];
  if (!files.length) return null;
  return html`<section><h2>${t("portal.files.count")}</h2><${Table} empty=""
    heads=${[t("portal.file"), t("portal.size"), t("portal.state"), t("portal.since")]}
    rows=${files.map(
      (file) => html`<tr key=${file.file_id}>
        <td>${t(`portal.${file.type}`)} <${FileName} file=${file} /></td>
        <td><${Size} bytes=${file.size} /></td>
        <td>${t(`portal.file.${file.status}`)} ${file.detail && html`<${Said} text=${file.detail} />`}</td>
        <td><${Ago} at=${file.created_at} /></td>
      </tr>`,
    )} /></section>`;
}

function History({ contact, again, text }) {
  const [limit, more] = useState(PAGE);
  const asked = new URLSearchParams({ contact_portal: contact.portal_url, limit, again, ...(text ? { text } : {}) });
  const state = useData(`api/messages/history?${asked}`);
  const search = (event) => {
    event.preventDefault();
    location.hash = `${one("contacts", String(contact.id))}${address("", { text: field(event, "text") }).slice(2)}`;
  };
  useEffect(() => more(PAGE), [text]);
  const found = state.data ? state.data.messages : [];
  return html`<section><h2>${t("portal.history")}</h2>
    <form class="search" role="search" onSubmit=${search}>
      <label>${t("portal.search.history")} <input type="search" name="text" data-search key=${text} defaultValue=${text} /></label>
      <button>${t("portal.search")}</button>
    </form>
    <${Trouble} state=${state} />
    ${state.data && !found.length && html`<p class="empty">${t("portal.empty.history")}</p>`}
    <ol class="talk">
      ${found.map(
        (message) => html`<li key=${message.id} class=${message.type} data-row tabindex="-1">
          <p class="head"><b>${t(`portal.${message.type}`)}</b> <${Ago} at=${message.created_at} />
            <span class=${`state ${message.state}`}>${t(`portal.state.${message.state}`)}</span></p>
          <${Said} text=${message.content} block />
          ${message.detail && html`<p class="hint"><${Said} text=${message.detail} /></p>`}
        </li>`,
      )}
    </ol>
    ${state.data && state.data.next_offset !== null && limit < 500 && html`<p><button onClick=${() => more(Math.min(limit * 2, 500))}>${t("more")}</button></p>`}
  </section>`;
}

// -- guests -----------------------------------------------------------------------------------------------------------

export function Guests({ query }) {
  const [again, set] = useState(0);
  const state = useData(`api/guest/messages?again=${again}`);
  const all = query.all === "yes";
  const found = state.data ? state.data.messages.filter((guest) => all || guest.status === "pending") : [];
  return html`<article><h1>${t("portal.guests")}</h1>
    <p>${t("portal.guests.why")}</p>
    <p><a class="button" href=${address("guests", all ? {} : { all: "yes" })}>${t(all ? "portal.guests.waiting" : "portal.guests.all")}</a></p>
    <${Trouble} state=${state} />
    ${state.data && !found.length && html`<p class="empty">${t("portal.empty.guests")}</p>`}
    <ol class="talk">
      ${found.slice(0, MOST_ROWS).map((guest) => html`<${Guest} key=${guest.id} guest=${guest} onDone=${() => set(again + 1)} />`)}
    </ol></article>`;
}

function Guest({ guest, onDone }) {
  const [act, state] = useAct();
  const { offers } = guest;
  const clear = offers.portal_url && offers.key;
  const decide = (decision) => (event) => {
    event.preventDefault();
    const form = event.target.form || event.target;
    const given = (name) => (form.elements[name] ? form.elements[name].value.trim() || null : null);
    const body = { decision, portal_url: given("portal_url"), key: given("key"), agent_name: given("agent_name") };
    act(() => ask(`api/portal/guests/${guest.id}`, body), onDone);
  };
  return html`<li class="received" data-row tabindex="-1">
    <p class="head"><b>${t("portal.guest", { n: guest.id })}</b> <${Ago} at=${guest.created_at} />
      <span class="state">${t(`portal.guest.${guest.status}`)}</span></p>
    <${Said} text=${guest.content} block />
    ${guest.status === "pending" &&
    html`<form class="fields" onSubmit=${decide("approve")}>
      ${clear
        ? html`<p>${t("portal.offers")} <${Place} url=${offers.portal_url} /></p>`
        : html`<label>${t("portal.address")} <input name="portal_url" type="url" placeholder=${offers.portal_url || "https://"} /></label>
            <label>${t("portal.shared_key")} <input name="key" autocomplete="off" /></label>`}
      <label>${t("portal.agent_name")} <input name="agent_name" maxlength="200" /></label>
      <span class="buttons">
        <button disabled=${state.busy}>${t("portal.approve")}</button>
        <button type="button" class="danger" disabled=${state.busy} onClick=${decide("deny")}>${t("portal.deny")}</button>
        ${!guest.is_read && html`<button type="button" disabled=${state.busy} onClick=${decide("read")}>${t("portal.read")}</button>`}
      </span>
    </form>`}
    <${Failed} state=${state} />
  </li>`;
}
