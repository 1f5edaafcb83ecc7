"""Take pictures of every view: ``python -m tests.page.screenshots FOLDER``, or ``make screenshots``.

Each view comes empty to a reader, and with contents to the operator, in both themes and languages, 1280 and 390 pixels
wide. So do the states of the page: it loads, somebody signs in, the session ended, all work is stopped, the relay is
away, texts are withheld. Without a font for Chinese its pictures show boxes: Debian has fonts-wqy-microhei.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from tests.browser.programs import launch
from tests.page.watching import VIEWS, Watched, opened, post
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_ADMIN = "boss"
_SIZES = ((1280, 800), (390, 844))
_PLAN = "# Release 2.4\n\n- [ ] freeze the branch\n- [ ] run the long tests\n- [ ] write the notes\n"
_AGENTS = (
    ("lead", "Lead", ("plan",), "Plans the release and hands out the work."),
    ("reviewer", "Reviewer", ("review", "python"), "Reads changes and asks."),
    ("builder", "Builder", ("build", "test"), "Builds and tests each change."),
    ("writer", "Writer", ("docs", "translate"), "Writes the notes."),
    ("scout", "Scout", ("research",), "Looks things up."),
    ("arabic", "مترجم", ("translate",), "يترجم الملاحظات."),
)


def story(url: str) -> list[str]:
    """Let six agents prepare a release. Return the views that show one thing each."""
    for id, name, capabilities, description in _AGENTS:
        about = {"capabilities": capabilities, "description": description, "machine": "devbox"}
        post(url, "/register", {"agent_id": id, "name": name, **about})

    def delegate(sender: str, to: str, task: str, **more: Any) -> str:
        made: str = post(url, "/delegate", {"from_agent": sender, "to_agent": to, "task": task, **more})["message_id"]
        return made

    def claim(agent: str) -> None:
        answer = requests.get(f"{url}/poll/{agent}?lease=600", timeout=PATIENCE).json()
        receipts = [d["receipt"] for d in answer["deliveries"]]
        if receipts:
            post(url, "/ack", {"agent_id": agent, "receipts": receipts})

    def respond(agent: str, task: str, status: str, **more: Any) -> None:
        post(url, "/respond", {"from_agent": agent, "message_id": task, "status": status, **more})

    release = delegate("scout", "lead", "Prepare release 2.4 and tell me when it is out", context={"branch": "main"})
    claim("lead")
    respond("lead", release, "in_progress", progress=40, note="reviews are under way")
    review = delegate("lead", "reviewer", "Review the change to the retry rules", parent_task=release, priority="high")
    build = delegate("lead", "builder", "Build main and run the long tests", parent_task=release, deadline=3600)
    notes = delegate("lead", "writer", "Write the notes for release 2.4", parent_task=release)
    for agent in ("reviewer", "builder", "writer"):
        claim(agent)
    respond("reviewer", review, "in_progress", progress=30, note="read 12 of 40 files")
    respond("reviewer", review, "input_required", result="Shall a refusal without Retry-After be tried again?")
    respond("builder", build, "in_progress", progress=75, note="3 of 4 platforms are green")
    respond("writer", notes, "completed", result="Notes are in notes/2.4.md, in English and Chinese.")
    for n, (who, what) in enumerate((("builder", "Build the docs"), ("reviewer", "Check the licences"))):
        done = delegate("lead", who, what)
        claim(who)
        respond(who, done, ("completed", "failed")[n], result=("All pages built.", "One licence file is missing.")[n])
    for text in ("Translate the notes into Arabic", "Translate the notes into Japanese"):
        post(url, "/delegate", {"from_agent": "writer", "capability": ["translate", "quickly"], "task": text})
    for sender, to, text in (
        ("builder", "lead", "The Windows runner is slow today, I moved two jobs."),
        ("lead", "builder", "Fine. Tell me if macOS turns red again."),
        ("builder", "lead", "It will not: the cache was stale.\nAll four platforms agree now."),
        ("arabic", "writer", "الملاحظات جاهزة للمراجعة 2.4"),
        ("writer", "arabic", "Thank you! See notes/2.4.md"),
        ("scout", "reviewer", "RFC 9110 says so in section 10.2.3."),
        ("scout", "lead", "Nothing new upstream."),
    ):
        post(url, "/send", {"from_agent": sender, "to_agent": to, "content": text})
    for author, topic, text, tags in (
        ("builder", "build.main", "main is green at 4f2c9e1", ["ci", "green"]),
        ("lead", "release", "The branch is frozen until tomorrow noon.", ["freeze"]),
        ("scout", "research.http", "Servers may send Retry-After with 503 and 429.", ["http"]),
    ):
        post(url, "/broadcast", {"from_agent": author, "topic": topic, "content": text, "tags": tags})
    for content in (_PLAN, _PLAN.replace("[ ] freeze", "[x] freeze"), _PLAN.replace("[ ]", "[x]") + "- [ ] tag it\n"):
        post(url, "/files", {"agent_id": "lead", "file_key": "plan/2.4.md", "content": content, "file_type": "plan"})
    post(url, "/files", {"agent_id": "writer", "file_key": "notes/2.4.md", "content": "Retry rules are kinder.\n"})
    lock = {"agent_id": "writer", "file_key": "notes/2.4.md", "note": "rewriting the summary", "seconds": 900}
    post(url, "/locks", lock)
    claimed = requests.get(url + "/poll/reviewer?lease=60", timeout=PATIENCE).json()
    post(url, "/nack", {"agent_id": "reviewer", "receipts": [d["receipt"] for d in claimed["deliveries"]]})
    requests.get(url + "/poll/reviewer?lease=60", timeout=PATIENCE)
    woken = post(url, "/send", {"from_agent": "lead", "to_agent": "scout", "content": "Any news?"})["message_id"]
    failed = {"agent_id": "scout", "adapter": "tmux", "result": "failed", "note": "the session is gone"}
    post(url, f"/messages/{woken}/woken", failed)
    return [
        "agents/lead",
        "agents/arabic",
        f"tasks/{release}",
        f"tasks/{review}",
        "conversations?agent=lead&with=builder",
        "knowledge?topic=release",
        "files/notes%2F2.4.md",
        "files/plan%2F2.4.md",
        "files/plan%2F2.4.md?version=3",
        "files/plan%2F2.4.md?version=3&diff=1",
        "search?text=release",
        "search?text=nothing-has-this",
        "tasks/none",
        "no-such-view",
    ]


def operate(url: str) -> None:
    """Act as the operator: ask for work, get an answer and a question, and leave traces in the audit."""

    def act(path: str, **body: Any) -> Any:
        return post(url, f"/admin/{path}", body, Authorization=f"Bearer {_ADMIN}")

    task = act("delegate", to_agent="writer", task="Write a line for the front page", priority="high")["message_id"]
    claimed = requests.get(f"{url}/poll/writer?lease=600", timeout=PATIENCE).json()
    post(url, "/ack", {"agent_id": "writer", "receipts": [d["receipt"] for d in claimed["deliveries"]]})
    answer = {
        "from_agent": "writer",
        "message_id": task,
        "status": "completed",
        "result": "Agents that keep their word.",
    }
    post(url, "/respond", answer)
    post(url, "/send", {"from_agent": "scout", "to_agent": "operator", "content": "May I read the mail of upstream?"})
    act("send", to_agent="scout", content="Look at the licences, too.")
    act("broadcast", topic="release", content="I tag it at noon.", tags=["release"])


def looks(browser: Browser, url: str, token: str | None = None, **options: Any) -> Iterator[tuple[Watched, str]]:
    """Open a page in each theme, language and size, and name them. With the admin token a person is signed in."""
    for scheme in ("light", "dark"):
        for language in ("en", "zh"):
            for width, height in _SIZES:
                size = {"width": width, "height": height}
                with opened(browser, url, viewport=size, color_scheme=scheme, locale=language, **options) as watched:
                    if token is not None:
                        sign_in(watched, url, token)
                    yield watched, f"{scheme}-{language}-{width}"


def sign_in(watched: Watched, url: str, token: str) -> None:
    signed = watched.page.request.post(f"{url}/admin/sessions", data={"admin_token": token})
    assert signed.ok, signed.text()


def snap(watched: Watched, folder: Path, name: str, look: str) -> None:
    watched.page.wait_for_timeout(200)  # for the plots, which come last
    watched.page.screenshot(path=folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[:70]}-{look}.png", full_page=True)


def shoot(browser: Browser, url: str, folder: Path, views: list[str], name: str, token: str | None = None) -> None:
    """Take pictures of these views."""
    for watched, look in looks(browser, url, token):
        for view in views:
            watched.page.goto(f"{url}/#/{view}")
            watched.settle(view)
            snap(watched, folder, f"{name}-{view}", look)


def shoot_states(browser: Browser, url: str, folder: Path) -> None:
    """Take pictures of what a page shows around its views."""
    for watched, look in looks(browser, url):
        page = watched.page
        page.goto(url)
        page.wait_for_selector("main.login")
        snap(watched, folder, "state-login", look)
        page.fill("input[name=token]", "wrong")
        page.press("input[name=token]", "Enter")
        page.wait_for_selector(".trouble")
        snap(watched, folder, "state-login-refused", look)
    for watched, look in looks(browser, url, _ADMIN):
        page = watched.page
        page.route("**/admin/agents?*", lambda route: None)
        page.goto(f"{url}/#/agents")
        page.wait_for_selector("main .loading")
        snap(watched, folder, "state-loading", look)
    for watched, look in looks(browser, url, _ADMIN):
        page = watched.page
        watched.show(url, "overview")
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        snap(watched, folder, "state-keys", look)
        page.keyboard.press("Escape")
        page.wait_for_selector(".live.on")
        post(url, "/admin/logout", {"all": True}, Authorization=f"Bearer {_ADMIN}")
        page.wait_for_selector("main.login .trouble", timeout=20_000)
        snap(watched, folder, "state-session-ended", look)


def shoot_away(browser: Browser, folder: Path) -> None:
    """Take pictures of pages whose relay has gone away."""
    with ExitStack() as stack:
        pages = []
        with relay_in_thread(ServerConfig(port=0)) as url:
            story(url)
            for scheme, language, (width, height) in (
                ("light", "en", _SIZES[0]),
                ("dark", "zh", _SIZES[0]),
                ("light", "zh", _SIZES[1]),
                ("dark", "en", _SIZES[1]),
            ):
                options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "locale": language}
                watched = stack.enter_context(opened(browser, url, **options))
                watched.show(url, "overview")
                watched.page.wait_for_selector(".live.on")
                pages.append((watched, f"{scheme}-{language}-{width}"))
        for watched, look in pages:
            watched.page.wait_for_selector(".live.off")
            snap(watched, folder, "state-away-overview", look)
            watched.page.goto(f"{url}/#/tasks")
            watched.page.wait_for_selector(".trouble")
            snap(watched, folder, "state-away-tasks", look)


def warn_of_fonts() -> None:
    """Say it if no font of this machine has Chinese."""
    listing = shutil.which("fc-list")
    if listing is not None and not subprocess.run([listing, ":lang=zh"], capture_output=True, check=False).stdout:
        print("no font of this machine has Chinese: the pictures in Chinese show boxes (Debian: fonts-wqy-microhei)")


def main(folder: Path) -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    warn_of_fonts()
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        with relay_in_thread(ServerConfig(port=0)) as url:
            shoot(browser, url, folder, list(VIEWS), "empty")
        few = Limits(max_attempts=1)
        with relay_in_thread(ServerConfig(port=0, limits=few, admin_token=_ADMIN)) as url:
            ones = story(url)
            operate(url)
            shoot(browser, url, folder, [*VIEWS, *ones], "full", _ADMIN)
            post(url, "/admin/stop", {"stopped": True}, Authorization=f"Bearer {_ADMIN}")
            shoot(browser, url, folder, ["overview", "write"], "stopped", _ADMIN)
        with relay_in_thread(ServerConfig(port=0, limits=few, page="metadata")) as url:
            ones = story(url)
            seen = [view for view in ones if view.startswith(("agents/lead", "tasks/", "conversations", "files"))]
            shoot(browser, url, folder, ["inbox", "dead-letters", "knowledge", *seen], "withheld")
        with relay_in_thread(ServerConfig(port=0, token="t", admin_token=_ADMIN)) as url:
            shoot_states(browser, url, folder)
        shoot_away(browser, folder)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
