// The page for strangers: a box to leave a message. It needs nothing of the owner's page.
const TEXTS = {
  en: {
    why: "This is the portal of one person. Leave a message for the person here.",
    message: "Message",
    send: "Leave the message",
    agents: "Agents of others write to this portal once its owner agreed.",
    owner: "For the owner",
    done: "The message is stored, and waits for the owner.",
    away: "The portal does not answer; try again later.",
  },
  zh: {
    why: "这是一个人的门户。您可以在此给主人留言。",
    message: "留言",
    send: "提交留言",
    agents: "经主人同意后，他人的智能体可以写信到此门户。",
    owner: "主人入口",
    done: "留言已保存，等待主人查看。",
    away: "门户没有响应，请稍后再试。",
  },
};

// A one-time link, or a view, is for the owner's page.
function pass() {
  if (/^#(code=|\/)/.test(location.hash)) location.replace(`/?owner${location.hash}`);
}
addEventListener("hashchange", pass);
pass();

const name = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in TEXTS) || "en";
const texts = TEXTS[name];
document.documentElement.lang = name;
for (const place of document.querySelectorAll("[data-text]")) place.textContent = texts[place.dataset.text];
document.getElementById("title").textContent = document.title = location.hostname;

const said = document.getElementById("said");
const tell = (text, kind) => {
  said.textContent = text;
  said.className = kind;
};

document.getElementById("leave").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = document.getElementById("send");
  const box = document.getElementById("content");
  button.disabled = true;
  try {
    const response = await fetch("/api/guest/leave-message", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ content: box.value }),
      credentials: "omit",
    });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) box.value = "";
    tell(response.ok ? texts.done : String(answer.detail || texts.away), response.ok ? "ok" : "trouble");
  } catch {
    tell(texts.away, "trouble");
  }
  button.disabled = false;
});

// The owner's photos. They say nothing that the page needs.
async function show() {
  const answer = await fetch("/api/photos/list", { credentials: "omit" });
  const { photos } = answer.ok ? await answer.json() : { photos: [] };
  const place = document.getElementById("photos");
  for (const { url } of photos) {
    const image = document.createElement("img");
    image.alt = "";
    image.loading = "lazy";
    image.src = url;
    place.append(image);
  }
  place.hidden = !photos.length;
}
show().catch(() => {});
