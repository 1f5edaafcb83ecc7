// What lists have in common: filters that stand in the address, and rows that are read and drawn as needed.
import { html, Component, useEffect, useRef, useState } from "./htm-preact.js";
import { address, ask, count, language, t, Trouble, useName, usePaced } from "./parts.js";

// The height of a row in pixels, as in style.css: on a phone a row is a card.
const phone = matchMedia("(max-width: 40rem)");
const tall = () => (phone.matches ? 98 : 38);
const SPARE = 6; // rows drawn above and below those in sight
const FIRST = 60;
const NEXT = 300;

export const go = (view, query) => {
  location.hash = address(view, query);
};

export function Choice({ name, value, options, onChange }) {
  return html`<label>${name}
    <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select>
  </label>`;
}

export function Search({ name, value, onChange, button = t("show") }) {
  const [text, set] = useState(value);
  useEffect(() => set(value), [value]);
  const enter = (event) => {
    event.preventDefault();
    onChange(text.trim());
  };
  return html`<form class="search" role="search" aria-label=${name} onSubmit=${enter}>
    <label>${name} <input type="search" data-search value=${text} onInput=${(event) => set(event.target.value)} /></label>
    <button>${button}</button>
  </form>`;
}

// A filter by an agent, by the name of the agent whose id stands in the address.
export function AgentSearch({ name, id, onChange }) {
  const shown = useName(id);
  return html`<${Search} name=${name} value=${shown} onChange=${(text) => onChange(text === shown ? id : text)} />`;
}

// What a list without rows says: that the filters leave none, or the next step.
export function NoRows({ view, filters, children }) {
  if (!Object.values(filters).some(Boolean)) return html`${children}`;
  return html`${t("empty.match")} <a href=${address(view)}>${t("filters.clear")}</a>`;
}

// The whole text of a cell that is cut, once a pointer comes.
function tellAll(event) {
  const cell = event.target.closest("td");
  if (cell) cell.title = cell.scrollWidth > cell.clientWidth ? cell.innerText.trim() : "";
}

const MOST = 1000;

// More of a talk: the same address with a larger limit, so that it can be sent to somebody.
export function More({ view, query, next }) {
  const limit = Number(query.limit) || 50;
  if (next === null || next === undefined) return null;
  if (limit >= MOST) return html`<p class="empty">${t("narrow", { n: count(MOST) })}</p>`;
  const to = address(view, { ...query, limit: Math.min(limit * 4, MOST) });
  return html`<p><a class="button" href=${to}>${t("more")}</a></p>`;
}

export const asked = (query, fields) => {
  const known = Object.fromEntries(Object.entries(query).filter(([name, value]) => fields.includes(name) && value));
  const text = new URLSearchParams(known).toString();
  return text ? `?${text}` : "";
};

// The lists that a person scrolled, by their entries in the history of the browser: the way back leads to the same rows.
const LEFT = new Map();
const MOST_LEFT = 4;

function entry() {
  if (!history.state) history.replaceState({ entry: `${performance.timeOrigin} ${performance.now()}` }, "");
  return history.state.entry;
}

function leave(id, kept) {
  LEFT.delete(id);
  LEFT.set(id, kept);
  if (LEFT.size > MOST_LEFT) LEFT.delete(LEFT.keys().next().value);
}

function left(path) {
  const kept = LEFT.get(entry());
  return kept && kept.path === path ? kept : null;
}

// Read a list page by page. ``take`` gives its rows of a reply, and ``atTop`` tells whether its beginning is in sight.
// Only then is it read anew: a list that somebody reads further down stands still.
function useRows(path, take, atTop) {
  const fresh = () => {
    const kept = left(path);
    atTop.current = !kept || kept.atTop;
    return { path, rows: kept ? kept.rows : [], next: kept && kept.next, error: null, busy: !kept, whole: Boolean(kept) };
  };
  const [state, set] = useState(fresh);
  const now = useRef(state);
  const keep = (next) => {
    if (now.current.path === next.path) set((now.current = next));
  };
  if (now.current.path !== path) now.current = fresh();
  const read = async (after, again = false) => {
    const limit = after === null ? FIRST : NEXT;
    const query = new URLSearchParams({ limit, ...(after !== null && { after }) });
    keep({ ...now.current, path, busy: true });
    await ask(`${path}${path.includes("?") ? "&" : "?"}${query}`, undefined, "GET", again).then(
      (found) => {
        const before = after === null ? [] : now.current.rows;
        keep({ path, rows: before.concat(take(found)), next: found.next ?? null, error: null, busy: false, whole: true });
      },
      (error) => keep({ ...now.current, path, error, busy: false }),
    );
  };
  usePaced(async (again) => {
    if (!now.current.whole || atTop.current) await read(null, again);
  }, path);
  const more = () => {
    const { busy, next, error } = now.current;
    if (!busy && next !== null && !error) read(next);
  };
  useEffect(() => () => { now.current = { path: null }; }, []);
  return [now.current.path === path ? now.current : state, more];
}

// A row is drawn again only if what it shows is another: most rows stay as they are while a list scrolls.
class Row extends Component {
  shouldComponentUpdate({ one, at, inLanguage }) {
    return one !== this.props.one || at !== this.props.at || inLanguage !== this.props.inLanguage;
  }

  render({ one, at, row }) {
    return html`<tr aria-rowindex=${at}>${row(one)}</tr>`;
  }
}

// The height of the window. Asking for it while rows change would have the browser lay them out at once.
let height = innerHeight;
addEventListener("resize", () => {
  height = innerHeight;
});

// What a phone shows of a column: the cell alone, its name too, or nothing. There a narrow column has half a line at most.
export const NAMED = "named";
export const LEFT_OUT = "left out";
const WIDE = 12;

const onPhone = (heads) =>
  Object.fromEntries(
    heads.flatMap(([name, width, shown], n) => [
      ...(width >= WIDE ? [[`--most${n + 1}`, "100%"]] : []),
      ...(shown === NAMED ? [[`--head${n + 1}`, JSON.stringify(name)]] : []),
      ...(shown === LEFT_OUT ? [[`--show${n + 1}`, "none"]] : []),
    ]),
  );

// A list of any length: the rows in sight are drawn, and more are read near the end. ``heads`` are names and widths of
// columns, and what a phone shows of them. ``row`` gives the cells of a row, and ``id`` the key of it.
export function List({ path, take, heads, row, id, empty, above = null }) {
  const place = useRef(null);
  const atTop = useRef(true);
  const [first, look] = useState(0);
  const [size, turn] = useState(tall());
  const [state, more] = useRows(path, take, atTop);
  const { rows, error } = state;
  useEffect(() => {
    const kept = left(path);
    look(0);
    if (kept) requestAnimationFrame(() => scrollTo(0, kept.y));
  }, [path]);
  useEffect(() => {
    const turned = () => turn(tall());
    phone.addEventListener("change", turned);
    return () => phone.removeEventListener("change", turned);
  }, []);
  useEffect(() => {
    const id = entry();
    const scrolled = () => {
      moved();
      leave(id, { path, rows, next: state.next, y: scrollY, atTop: atTop.current });
    };
    const moved = () => {
      if (!place.current) return;
      const above = Math.max(0, -place.current.getBoundingClientRect().top);
      const at = Math.floor(above / size);
      atTop.current = at < FIRST / 2;
      look((old) => (Math.abs(old - at) >= SPARE / 3 || at < SPARE ? at : old));
      if ((rows.length - at) * size < 3 * height) more();
    };
    const soon = requestAnimationFrame(moved); // not now: new rows are not laid out yet
    addEventListener("scroll", scrolled, { passive: true });
    addEventListener("resize", moved);
    return () => {
      cancelAnimationFrame(soon);
      removeEventListener("scroll", scrolled);
      removeEventListener("resize", moved);
    };
  }, [path, rows.length, state.next, size]);
  if (!state.whole) return html`<${Trouble} state=${{ data: null, error }} />`;
  const begin = Math.max(0, first - SPARE);
  const shown = Math.ceil(height / size) + 2 * SPARE;
  const gap = (n) => n > 0 && html`<tr aria-hidden="true" class="gap"><td colspan=${heads.length} style=${{ height: `${n * size}px` }}></td></tr>`;
  return html`<div><${Trouble} state=${{ data: rows, error }} />
    ${above && above(rows)}
    ${rows.length === 0 && state.next === null
      ? html`<p class="empty">${empty}</p>`
      : html`<div class="scroll" tabindex="0" role="region" aria-label=${heads.map(([name]) => name).filter(Boolean).join(", ")}>
    <table class="rows" style=${onPhone(heads)} aria-rowcount=${state.next === null ? rows.length + 1 : -1}>
      <thead><tr>${heads.map(([name, width]) => html`<th scope="col" style=${{ width: `${width}rem` }}>${name}</th>`)}</tr></thead>
      <tbody ref=${place} onPointerOver=${tellAll}>
        ${gap(begin)}
        ${rows.slice(begin, begin + shown).map(
          (one, n) => html`<${Row} key=${id(one)} one=${one} at=${begin + n + 2} row=${row} inLanguage=${language} />`,
        )}
        ${gap(rows.length - begin - shown)}
      </tbody>
    </table>
  </div>`}
  ${state.next !== null && html`<p class="further">${t("loading")}</p>`}</div>`;
}
