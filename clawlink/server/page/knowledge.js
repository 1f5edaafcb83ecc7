// Broadcasts that the relay keeps, by topic, tag and author.
import { html } from "./htm-preact.js";
import { asked, go, More, NoRows, Search } from "./lists.js";
import { address, Ago, AgentLink, count, Said, t, Trouble, useData } from "./parts.js";

export function Knowledge({ query, session }) {
  const { topic, tag, author } = query;
  const state = useData(`admin/broadcasts${asked(query, ["topic", "tag", "author", "limit"])}`);
  const set = (change) => go("knowledge", { ...query, limit: null, ...change });
  const told = state.data ? state.data.broadcasts : [];
  const topics = new Map();
  for (const one of told) topics.set(one.topic, (topics.get(one.topic) || 0) + 1);
  return html`<article><h1>${t("knowledge")}</h1>
    <div class="filters">
      <${Search} name=${t("topic")} value=${query.topic || ""} onChange=${(topic) => set({ topic })} />
      <${Search} name=${t("tag")} value=${query.tag || ""} onChange=${(tag) => set({ tag })} />
      <${Search} name=${t("author")} value=${query.author || ""} onChange=${(author) => set({ author })} />
    </div>
    <${Trouble} state=${state} />
    ${topics.size > 1 && html`<p class="chips" aria-label=${t("topics")}>
      ${[...topics].map(([topic, n]) => html`<a class="chip" href=${address("knowledge", { ...query, topic })}><${Said} text=${topic} /> ${count(n)}</a> `)}</p>`}
    ${state.data && !told.length && html`<p class="empty"><${NoRows} view="knowledge" filters=${{ topic, tag, author }}>
      ${t("empty.knowledge")} ${!session.read_only && html`<a href=${address("write", { kind: "broadcast" })}>${t("write.one")}</a>`}<//></p>`}
    <ol class="talk">
      ${told.map(
        (one) => html`<li key=${one.message_id}>
          <div class="head"><${AgentLink} id=${one.from_agent} /> → <a href=${address("knowledge", { topic: one.topic })} data-row><${Said} text=${one.topic} /></a>
            ${one.tags.map((tag) => html`<a class="chip" href=${address("knowledge", { tag })}><${Said} text=${tag} /></a> `)}
            <${Ago} at=${one.stored_at} /> <span class="none">${t("told", { n: count(one.recipients) })}</span></div>
          ${one.text !== null && html`<${Said} text=${one.cut ? `${one.text}…` : one.text} block />`}
        </li>`,
      )}
    </ol>
    ${state.data && html`<${More} view="knowledge" query=${query} next=${state.data.next} />`}</article>`;
}
