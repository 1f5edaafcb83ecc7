// The owner's views of a portal, and the owner's login. The page loads this script on a portal alone.
import { html, useState } from "./htm-preact.js";
import { ask, clean, t } from "./parts.js";
import en from "./portal-en.js";
import zh from "./portal-zh.js";

export const texts = { en, zh };

document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "page/portal.css" }));

const people = () => import("./portal-people.js");
const own = () => import("./portal-own.js");
const tasks = () => import("./portal-tasks.js");
const photos = () => import("./portal-photos.js");

export const group = "portal.yours";

// The operator of the relay has no part in what belongs to the owner.
export const views = (session) =>
  session.owner
    ? {
        chat: { name: "portal.chat", load: own, list: "Chat" },
        contacts: { name: "portal.contacts", load: people, list: "Contacts", one: "Contact" },
        guests: { name: "portal.guests", load: people, list: "Guests" },
        "portal-tasks": { name: "portal.tasks", load: tasks, list: "PortalTasks", one: "PortalTask" },
        "portal-files": { name: "portal.files", load: own, list: "PortalFiles" },
        photos: { name: "portal.photos", load: photos, list: "Photos" },
        keys: { name: "portal.keys", load: own, list: "Keys" },
        portal: { name: "portal.settings", load: own, list: "Settings" },
      }
    : {};

export function Login({ onSession, said, operator: Operator }) {
  const [trouble, complain] = useState(said);
  const [busy, set] = useState(false);
  const [other, turn] = useState(false);
  const enter = (event) => {
    event.preventDefault();
    set(true);
    ask("api/portal/session", { password: event.target.password.value }).then(onSession, (error) => {
      complain(error.code === "not_authenticated" ? new Error(t("portal.login.wrong")) : error);
      set(false);
    });
  };
  if (other) return html`<${Operator} onSession=${onSession} said=${null} />`;
  return html`<main class="login">
    <h1>ClawLink</h1>
    <p>${t("portal.login.why")}</p>
    <form onSubmit=${enter}>
      <label>${t("portal.password")}
        <input name="password" type="password" autocomplete="current-password" required autofocus /></label>
      <button disabled=${busy}>${t("login")}</button>
    </form>
    ${trouble && html`<p class="trouble" role="alert">${clean(trouble.message)}</p>`}
    <p>${t("portal.login.lost")}<code>clawlink portal password --data DIR</code></p>
    <p><button onClick=${() => turn(true)}>${t("portal.login.operator")}</button></p>
  </main>`;
}
