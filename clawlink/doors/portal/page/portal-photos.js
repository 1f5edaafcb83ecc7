// The photos that the front page shows.
import { html, useState } from "./htm-preact.js";
import { ask, clean, t, Trouble, useData } from "./parts.js";
import { Failed, upload, useAct } from "./portal-parts.js";

function nameOf(photo) {
  const last = photo.url.slice(photo.url.lastIndexOf("/") + 1);
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

export function Photos({ session }) {
  const [again, set] = useState(0);
  const [act, state] = useAct();
  const found = useData(`api/photos/list?again=${again}`);
  const add = (event) => {
    event.preventDefault();
    const [file] = event.target.elements.photo.files;
    act(
      () => upload("api/photos/upload", "photo", file, session),
      () => {
        event.target.reset();
        set(again + 1);
      },
    );
  };
  const remove = (name) => {
    if (!confirm(t("portal.photo.sure", { name: clean(name) }))) return;
    act(() => ask(`api/photos/${encodeURIComponent(name)}`, {}, "DELETE"), () => set(again + 1));
  };
  const photos = found.data ? found.data.photos : [];
  return html`<article><h1>${t("portal.photos")}</h1>
    <p>${t("portal.photos.why")}</p>
    <form class="fields" onSubmit=${add}>
      <label>${t("portal.photo")} <input name="photo" type="file" accept="image/jpeg,image/png,image/gif,image/webp" required /></label>
      <button disabled=${state.busy}>${t("portal.photo.add")}</button>
    </form>
    <${Failed} state=${state} />
    <${Trouble} state=${found} />
    ${found.data && !photos.length && html`<p class="empty">${t("portal.empty.photos")}</p>`}
    <ul class="photos">
      ${photos.map((photo) => {
        const name = nameOf(photo);
        return html`<li key=${name}><figure><img src=${photo.url} alt=${t("portal.photo.of", { name: clean(name) })} loading="lazy" />
          <figcaption><code>${clean(name)}</code>
            <button class="danger" disabled=${state.busy} onClick=${() => remove(name)}>${t("portal.remove")}</button></figcaption></figure></li>`;
      })}
    </ul></article>`;
}
