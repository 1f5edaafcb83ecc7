"""Pages in a real Chromium under watch, and relays with texts that a page must never run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import requests

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

# All lists. A view of one agent, task, file or talk comes from what a test put there.
VIEWS = (
    "overview",
    "inbox",
    "write",
    "agents",
    "agents?status=stale",
    "tasks?status=open",
    "tasks?status=final",
    "conversations",
    "knowledge",
    "files",
    "dead-letters",
    "load",
    "search",
    "audit",
)
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "</bdi></td><iframe srcdoc='<script>alert(1)</script>'>",
    "javascript:alert(1)",
    '"><a href=javascript:alert(1) autofocus onfocus=alert(1)>',
    "{{constructor.constructor('alert(1)')()}}${alert(1)}",
    "<style>*{display:none}</style>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><button id=x>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
)
BIDI = "\u202egnp.exe\u2066\x07"


class Watched:
    """A page, and what a page must never do: dialogs, errors, violations of its policy, other hosts."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self.agrees = False  # to the questions of the page itself
        self.words: str | None = None  # for what the page itself asks for
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.faults.append(f"error {error}"))
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(url) else self.faults.append(asked.url))

    def _dialog(self, dialog: Dialog) -> None:
        if self.agrees and dialog.type == "confirm":
            dialog.accept()
        elif self.words is not None and dialog.type == "prompt":
            dialog.accept(self.words)
        else:
            self.faults.append(f"dialog {dialog.message}")
            dialog.dismiss()

    def show(self, url: str, view: str) -> str:
        """Open a view, wait until it is there, and return its text."""
        self.page.goto(f"{url}/#/{view}")
        self.settle(view)
        return self.page.inner_text("main")

    def settle(self, view: str) -> None:
        """Wait until a view has all that it asked for, or says why not."""
        self.page.wait_for_selector(f'main[data-at="#/{view}"] :is(article, .empty, .trouble)')
        self.page.wait_for_selector(".loading", state="detached")


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE * 1000)
    yield Watched(context.new_page(), url)
    context.close()


def post(url: str, path: str, body: Any, **headers: str) -> Any:
    answer = requests.post(url + path, json=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def many_hostile() -> list[str]:
    """Return 200 texts that break out of a place in markup and then run a script."""
    before = ("", '"', "'", "</title>", "</textarea>", "-->", "]]>", "</script>", "`", "\\u003e")
    attacks = (
        *HOSTILE,
        "<video><source onerror=alert(1)>",
        "<details open ontoggle=alert(1)>",
        "<input autofocus onfocus=alert(1)>",
        "<object data=javascript:alert(1)>",
        "<embed src=javascript:alert(1)>",
        "<link rel=stylesheet href=//evil.example/x.css>",
        "<button popovertarget=x>x</button><div popover id=x onbeforetoggle=alert(1)>",
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    )
    return [f"{prefix}{attack}" for attack in attacks for prefix in before]


def fill(url: str, texts: Sequence[str] = HOSTILE) -> list[str]:
    """Put hostile texts wherever agents may write, and return the views that show one thing each.

    Names of agents, capabilities and topics have 128 characters at most, tags 64.
    """
    views = ["agents/a"]
    post(url, "/register", {"agent_id": "a", "name": "Ann", "subscriptions": []})
    for n, text in enumerate(texts):
        agent = {"agent_id": f"h{n}", "name": text, "capabilities": [text], "description": text + BIDI, "machine": text}
        post(url, "/register", agent | {"subscriptions": []})
        post(url, "/send", {"from_agent": f"h{n}", "to_agent": "a", "content": text})
        post(url, "/delegate", {"from_agent": f"h{n}", "capability": [text, f"nobody {n}"], "task": text})
        ask = {"from_agent": f"h{n}", "to_agent": f"h{n}", "task": text + BIDI, "context": {text: text}}
        task = post(url, "/delegate", ask)["message_id"]
        report = {"from_agent": f"h{n}", "message_id": task, "note": text, "result": {text: [text + BIDI]}}
        post(url, "/respond", report | {"status": ("in_progress", "input_required", "failed")[n % 3], "progress": 5})
        post(url, "/broadcast", {"from_agent": f"h{n}", "content": text + BIDI, "topic": text, "tags": [text[:64]]})
        file = {"agent_id": f"h{n}", "file_key": text, "content": text, "file_type": text}
        post(url, "/files", file)
        post(url, "/files", file | {"content": text + BIDI})
        post(url, "/locks", {"agent_id": f"h{n}", "file_key": text, "note": text, "seconds": 600})
        views += [f"agents/h{n}", f"tasks/{task}", f"conversations?{urlencode({'agent': f'h{n}', 'with': 'a'})}"]
        views += [f"files/{quote(text, safe='')}?version=2", f"files/{quote(text, safe='')}?version=2&diff=1"]
    return views
