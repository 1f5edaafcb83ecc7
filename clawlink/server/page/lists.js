// What lists have in common: filters that stand in the address, and more rows on demand.
import { html, useEffect, useState } from "./htm-preact.js";
import { address, count, t } from "./parts.js";

const MOST = 1000;

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

export function Search({ name, value, onChange }) {
  const [text, set] = useState(value);
  useEffect(() => set(value), [value]);
  const enter = (event) => {
    event.preventDefault();
    onChange(text.trim());
  };
  return html`<form class="search" role="search" onSubmit=${enter}>
    <label>${name} <input type="search" data-search value=${text} onInput=${(event) => set(event.target.value)} /></label>
    <button>${t("show")}</button>
  </form>`;
}

// More of a list: the same address with a larger limit, so that it can be sent to somebody.
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
