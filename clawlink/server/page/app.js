// The page: signs in, follows the relay, and shows the view that the address names.
import { html, render, useEffect, useRef, useState } from "./htm-preact.js";
import { addTexts, ask, BEGUN, choose, clean, language, LANGUAGES, learn, Live, painted, place, t, Trouble, trust } from "./parts.js";
import { Overview } from "./overview.js";
import { StopBanner, StopButton } from "./stop.js";
import doors from "./doors.js";

// The views by their address: the text that names each, the script that has it, and its parts for a list and for one.
// Only the first view is loaded with the page.
const views = () => import("./views.js");
const acting = () => import("./acting.js");
const VIEWS = {
  overview: { name: "overview", list: Overview },
  inbox: { name: "inbox", load: acting, list: "Inbox" },
  write: { name: "write", load: acting, list: "Write" },
  agents: { name: "agents", load: views, list: "Agents", one: "Agent" },
  tasks: { name: "tasks", load: views, list: "Tasks", one: "Task" },
  conversations: { name: "conversations", load: () => import("./conversations.js"), list: "Conversations" },
  knowledge: { name: "knowledge", load: () => import("./knowledge.js"), list: "Knowledge" },
  files: { name: "files", load: () => import("./files.js"), list: "Files", one: "File" },
  "dead-letters": { name: "needs.dead_letters", load: views, list: "DeadLetters" },
  load: { name: "load", load: () => import("./load.js"), list: "Load" },
  search: { name: "search", load: () => import("./search.js"), list: "SearchAll" },
  audit: { name: "audit", load: views, list: "Audit" },
};
const AGAIN_SECONDS = 3;
const SILENT_SECONDS = 45;
const SLOW_MS = 300;

// The scripts of doors. Each has "texts" by language, "views" for a session as above with the name of their "group", and
// perhaps "Login", its own.
const DOORS = [];

async function openDoors() {
  DOORS.push(...(await Promise.all(doors.map((name) => import(name)))));
  for (const { texts } of DOORS) addTexts(texts);
}

// The views of a session in the groups of the menu: those of each door, and those of the relay.
function groupsFor(session) {
  const found = DOORS.map((door) => ({ name: door.group, views: door.views(session) }));
  return [...found, { name: "relay", views: VIEWS }].filter(({ views }) => Object.keys(views).length);
}

// Without a prototype: an address may have any name, also that of a method.
const viewsFor = (session) => Object.assign(Object.create(null), ...groupsFor(session).map((group) => group.views));

// Take the one-time code of a link out of the address, so that no history keeps it.
function takeCode() {
  const found = location.hash.match(/^#code=([\w-]+)$/);
  if (found) history.replaceState(null, "", location.pathname + location.search);
  return found && found[1];
}

// Whether this tab had a session. Its cookie is out of sight of scripts, and says nothing once the relay has forgotten it.
const HAD = "clawlink-session";

function remember(session) {
  try {
    if (session && session.csrf) sessionStorage.setItem(HAD, "yes");
    else sessionStorage.removeItem(HAD);
  } catch {
    // The browser keeps nothing for this page.
  }
}

function hadSession() {
  try {
    return sessionStorage.getItem(HAD) !== null;
  } catch {
    return false;
  }
}

function Login({ onSession, said }) {
  const [trouble, complain] = useState(said);
  const [busy, set] = useState(false);
  const enter = (event) => {
    event.preventDefault();
    set(true);
    ask("admin/sessions", { admin_token: event.target.token.value }).then(onSession, (error) => {
      complain(error.code === "not_authenticated" ? new Error(t("login.refused")) : error);
      set(false);
    });
  };
  return html`<main class="login">
    <h1>ClawLink</h1>
    <p>${t("login.why")}</p>
    <form onSubmit=${enter}>
      <label>${t("login.token")} <input name="token" type="password" autocomplete="current-password" required /></label>
      <button disabled=${busy}>${t("login")}</button>
    </form>
    ${trouble && html`<p class="trouble" role="alert">${clean(trouble.message)}</p>`}
    <p>${t("login.link")}<code>clawlink open</code></p>
  </main>`;
}

function Help({ onClose }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${onClose} aria-label=${t("keys")}>
    <h2>${t("keys")}</h2>
    <dl class="facts">
      ${["j", "k", "/", "?", "Esc"].map((key) => html`<dt><kbd>${key}</kbd></dt><dd>${t(`key.${key}`)}</dd>`)}
    </dl>
    <form method="dialog"><button>${t("close")}</button></form>
  </dialog>`;
}

// Follow the overview by server-sent events. A hidden page closes the stream. A stream that is open and silent for longer
// than three signs of life would take has stalled on its way, and another one is opened. After a cut the session may be another one, or
// none: a relay of this machine shows the page to a reader without a session, too.
function useLive(session, overview, onFound, onEnd) {
  const [live, set] = useState({ overview, open: false });
  useEffect(() => {
    if (!session) return undefined;
    let source = null;
    let timer = null;
    let silent = null;
    let gone = false;
    let cut = false;
    const same = (found) => {
      if (found.csrf === session.csrf) return true;
      if (session.csrf) onEnd();
      else onFound(found);
      return false;
    };
    const refused = (error) => error.status === 401 || error.status === 403;
    const close = () => {
      if (source) source.close();
      clearTimeout(timer);
      clearTimeout(silent);
      source = null;
    };
    const hear = () => {
      clearTimeout(silent);
      silent = setTimeout(stalled, SILENT_SECONDS * 1000);
    };
    const stalled = () => {
      cut = true;
      set((old) => ({ ...old, open: false }));
      begin();
    };
    const lost = () => {
      cut = true;
      set((old) => ({ ...old, open: false }));
      if (source && source.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
      close();
      const later = (again) => {
        timer = setTimeout(again, AGAIN_SECONDS * 1000);
      };
      ask("admin/session").then(
        (found) => same(found) && later(begin),
        (error) => (refused(error) ? onEnd() : later(lost)),
      );
    };
    const begin = () => {
      close();
      if (document.hidden) return;
      source = new EventSource("admin/events?heartbeats=true");
      hear();
      source.addEventListener("heartbeat", hear);
      source.addEventListener("open", () => {
        hear();
        if (cut) ask("admin/session").then(same, (error) => refused(error) && onEnd());
        cut = false;
      });
      source.addEventListener("overview", (event) => {
        hear();
        set({ overview: learn(JSON.parse(event.data)), open: true });
      });
      source.addEventListener("error", lost);
    };
    const look = () => (document.hidden ? close() : begin());
    document.addEventListener("visibilitychange", look);
    painted.then(() => gone || begin());
    return () => {
      gone = true;
      document.removeEventListener("visibilitychange", look);
      close();
    };
  }, [session]);
  return live;
}

function keys(setHelp) {
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape") {
      setHelp(false);
      document.activeElement.blur();
    } else if (typing) {
      return;
    } else if (event.key === "?") {
      setHelp(true);
    } else if (event.key === "/") {
      const search = document.querySelector("[data-search]");
      event.preventDefault();
      if (search) search.focus();
      else location.hash = "#/search";
    } else if (event.key === "j" || event.key === "k") {
      const rows = [...document.querySelectorAll("[data-row]")];
      const at = rows.indexOf(document.activeElement);
      const next = rows[event.key === "j" ? at + 1 : Math.max(at - 1, 0)];
      if (next) next.focus();
    }
  };
}

// The scripts of views, by what loads them.
const LOADED = new Map();
const LOOP_MS = 30000;

// A browser does not ask again for a script that did not come. So the page is loaded again once the relay answers, though
// not time after time.
async function loadAgain() {
  const [{ type }] = performance.getEntriesByType("navigation");
  await ask("admin/session");
  if (type !== "reload" || performance.now() > LOOP_MS) location.reload();
}

function View({ session }) {
  const [where, set] = useState(place());
  const all = viewsFor(session);
  useEffect(() => {
    const moved = () => {
      if (/^#(\/|$)/.test(location.hash)) set(place());
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    document.title = `${t((all[where.view] || VIEWS.overview).name)} – ClawLink`;
    scrollTo(0, 0);
    const here = document.querySelector("nav [aria-current]");
    if (here) here.scrollIntoView({ block: "nearest", inline: "center" });
  }, [where.view, where.id, language]);
  const { view, id, query } = where;
  const wanted = all[view];
  const [missed, loaded] = useState(null);
  const script = wanted && wanted.load ? LOADED.get(wanted.load) : null;
  useEffect(() => {
    if (!wanted || !wanted.load || script) return undefined;
    let gone = false;
    let timer = null;
    const look = () =>
      wanted.load().then(
        (found) => {
          LOADED.set(wanted.load, found);
          if (!gone) loaded(found);
        },
        () => {
          if (gone) return;
          loaded(view);
          timer = setTimeout(() => loadAgain().finally(look), AGAIN_SECONDS * 1000);
        },
      );
    look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [view]);
  const part = wanted && (id !== null && wanted.one ? wanted.one : wanted.list);
  const Part = typeof part === "string" ? script && script[part] : part;
  const shown =
    !wanted ? html`<article><h1>${t("no_view")}</h1><p><a href="#/overview">${t("overview")}</a></p></article>`
    : !script && missed === view ? html`<${Trouble} state=${{ error: new Error(t("error.no_answer")) }} />`
    : Part ? html`<${Part} key=${id} id=${id} query=${query} session=${session} />`
    : html`<p class="loading" role="status">${t("loading")}</p>`;
  const groups = groupsFor(session);
  const links = (views) => Object.entries(views).map(
    ([name, about]) => html`<a href=${`#/${name}`} aria-current=${name === view ? "page" : null}>${t(about.name)}</a>`,
  );
  return html`<div><nav aria-label=${t("views")}>
      ${groups.length === 1 ? links(groups[0].views) : groups.map(
        (group) => html`<div class="group" role="group" aria-label=${t(group.name)}><b aria-hidden="true">${t(group.name)}</b>${links(group.views)}</div>`,
      )}
    </nav>
    <main data-at=${where.at}>${shown}</main></div>`;
}

// An address without a view is that of the first one.
function startAt(session) {
  const [first] = Object.keys(viewsFor(session));
  if (!location.hash && first !== "overview") history.replaceState(null, "", `#/${first}`);
}

// Sign in by the code of a link, or find the session that is there, and read the overview: both came with the page if the
// browser had shown its right. The result is what the first view needs, so that it is drawn in one step.
async function begin() {
  const code = takeCode();
  const opened = openDoors();
  const given = code ? null : BEGUN;
  const session = given ? given.session : code ? ask("admin/sessions", { code }) : ask("admin/session");
  // With a code the page was refused the overview, which index.html asks for, as it had no session yet.
  const overview = given ? learn(given.overview) : code ? null : ask("admin/overview");
  const [found, read] = await Promise.allSettled([session, overview, opened]);
  if (found.status === "rejected") {
    const { status } = found.reason;
    if (code || (status !== 401 && status !== 403)) return { session: null, login: { said: found.reason } };
    return { session: null, login: { said: hadSession() ? new Error(t("login.ended")) : null } };
  }
  trust(found.value);
  remember(found.value);
  startAt(found.value);
  return { session: found.value, login: null, overview: read.value || null };
}

function App({ first }) {
  const [session, setSession] = useState(first.session);
  const [login, setLogin] = useState(first.login);
  const [help, setHelp] = useState(false);
  const [name, setName] = useState(language);
  const enter = (made) => {
    trust(made);
    remember(made);
    startAt(made);
    setLogin(null);
    setSession(made);
  };
  const end = (said = null) => {
    if (!said) remember(null);
    setSession(null);
    setLogin({ said });
  };
  const live = useLive(session, first.overview, enter, () => end(new Error(t("login.ended"))));
  useEffect(() => {
    const press = keys(setHelp);
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  const leave = () => ask("admin/logout", {}).then(() => end(), end);
  const turn = (event) => {
    const wanted = event.target.value;
    choose(wanted).then(() => setName(wanted), () => setName(name));
  };
  const door = DOORS.find((one) => one.Login);
  if (login) return html`<${door ? door.Login : Login} operator=${Login} onSession=${enter} said=${login.said} />`;
  return html`<${Live.Provider} value=${live}><div>
    <header>
      <a class="brand" href="#/overview">ClawLink</a>
      <span class=${`live ${live.open ? "on" : "off"}`} role="status">${t(live.open ? "live" : "not_live")}</span>
      ${session.read_only && html`<span class="note">${t("read_only")}</span>`}
      ${!session.contents && html`<span class="note" title=${t("withheld")}>${t("withheld.short")}</span>`}
      <span class="space"></span>
      <label class="language"><span class="hidden">${t("language")}</span>
        <select onChange=${turn}>
          ${Object.entries(LANGUAGES).map(
            ([key, text]) => html`<option value=${key} lang=${key} selected=${key === name}>${text}</option>`,
          )}
        </select>
      </label>
      <${StopButton} session=${session} />
      <button class="keys" onClick=${() => setHelp(true)} aria-label=${t("keys")}>?</button>
      ${session.csrf && html`<button onClick=${leave}>${t("logout")}</button>`}
    </header>
    <${StopBanner} session=${session} />
    <${View} session=${session} key=${name} />
    ${help && html`<${Help} onClose=${() => setHelp(false)} />`}
  </div><//>`;
}

const place_of_all = document.getElementById("app");
const slow = setTimeout(() => render(html`<p class="loading" role="status">${t("loading")}</p>`, place_of_all), SLOW_MS);
begin().then((first) => {
  clearTimeout(slow);
  render(html`<${App} first=${first} />`, place_of_all);
});
