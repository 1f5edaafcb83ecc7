"""Take pictures of a portal's pages: ``python -m tests.doors.portal.page.screenshots FOLDER``, or ``make screenshots``.

The owner's views come empty and with contents, and the front page and the login beside them. Each comes in both themes
and languages, 1280 and 390 pixels wide.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser.programs import launch
from tests.doors.portal.page.test_page import OWNER, PASSWORD, K, call, portal
from tests.doors.portal.page.test_tasks_and_photos import arrived, attached
from tests.page.screenshots import looks, snap, warn_of_fonts
from tests.page.watching import Watched
from tests.waiting import PATIENCE

_VIEWS = ("chat", "contacts", "guests", "portal-tasks", "portal-files", "photos", "keys", "portal")


def picture(width: int = 240, height: int = 150) -> bytes:
    """Return a PNG with bands of color."""
    rows = b"".join(b"\0" + bytes((40 + y, 110, 200 - y)) * width for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def story(ann: str, bob: str) -> list[str]:
    """Let two portals be contacts, talk, and work for each other. Return the views that show one thing each."""
    call(ann, "POST", "/api/contacts", {"portal_url": bob, "display_name": "Bob at the workshop", "agent_name": "bob"})
    key = call(ann, "GET", "/api/contacts")["contacts"][0]["SHARED_KEY"]
    call(bob, "POST", "/api/contacts", {"portal_url": ann, "agent_name": "ann", "SHARED_KEY": key})
    call(ann, "POST", "/api/contacts", {"portal_url": "https://eve.example", "agent_name": "eve", "SHARED_KEY": K})
    call(ann, "POST", "/api/portal/contacts/2", {"paused": True})
    for url, text in ((ann, "Is the bench free on Friday?"), (bob, "From ten o'clock on.\nBring the long clamps.")):
        call(url, "POST", "/api/portal/send", {"to": 1, "content": text})
    call(ann, "POST", "/api/guest/leave-message", {"content": f"I am Eve.\nMy portal: https://eve2.example\nKey: {K}x"})
    call(ann, "POST", "/api/guest/leave-message", {"content": "您好，我是小王，想与您联系。"})
    call(ann, "POST", "/api/chat/owner/send", {"content": "How far is the order?"})
    call(ann, "POST", "/api/chat/owner/reply", {"content": "Bob has cut the boards. I ask him for the invoice."})
    call(ann, "POST", "/api/key/create", {"agent_name": "laptop"})
    call(ann, "POST", "/api/portal/delegate", {"to": 1, "task": "Cut twelve boards of 80 cm, and send the invoice"})
    done = arrived(bob, 1)["task_id"]
    file = attached(bob, done, "invoice 12.txt", b"twelve boards")
    call(bob, "POST", f"/api/portal/tasks/{done}", {"result": "Cut, and ready to fetch.", "files": [file]})
    call(ann, "POST", "/api/portal/delegate", {"to": 1, "task": "Sand the table top"})
    asks = arrived(bob, 2)["task_id"]
    question = {"status": "input_required", "result": "Up to which grain?"}
    call(bob, "POST", f"/api/portal/tasks/{asks}", question)
    call(bob, "POST", "/api/portal/delegate", {"to": 1, "task": "Draw the front of the cupboard"})
    mine = arrived(ann, 3)["task_id"]
    call(ann, "POST", f"/api/portal/tasks/{mine}", {"status": "in_progress", "progress": 40, "result": "two of five"})
    photo = {"photo": ("bench.png", picture())}
    answer = requests.post(ann + "/api/photos/upload", files=photo, headers={"X-API-Key": OWNER}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    ours = [task["task_id"] for task in call(ann, "GET", "/api/portal/tasks")["tasks"]]
    return ["contacts/1", "guests?all=yes", *(f"portal-tasks/{id}" for id in ours), "portal-tasks/none"]


def signed_in(url: str) -> Any:
    """Sign the owner in once, as logins are throttled, and return the cookies of the session."""
    answer = requests.post(url + "/api/portal/session", json={"password": PASSWORD}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    name, _, value = answer.headers["Set-Cookie"].partition(";")[0].partition("=")
    return [{"name": name, "value": value, "url": url, "sameSite": "Strict"}]


def shoot(watched: Watched, url: str, folder: Path, views: list[str], name: str, look: str) -> None:
    for view in views:
        watched.page.goto(f"{url}/?owner#/{view}")
        watched.settle(view)
        snap(watched, folder, f"{name}-{view}", look)


def main(folder: Path) -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    warn_of_fonts()
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        browser = launch(playwright)
        with portal(patch) as ann, portal(patch) as bob:
            session = signed_in(ann)
            for watched, look in looks(browser, ann):
                watched.page.context.add_cookies(session)
                shoot(watched, ann, folder, list(_VIEWS), "owner-empty", look)
            ones = story(ann, bob)
            for watched, look in looks(browser, ann):
                watched.page.goto(ann)
                watched.page.wait_for_selector("#photos img")
                snap(watched, folder, "portal-front", look)
                watched.page.goto(ann + "/?owner")
                watched.page.wait_for_selector("main.login")
                snap(watched, folder, "portal-login", look)
                watched.page.goto("about:blank")  # a page that asks who signs in stays where only the view changes
                watched.page.context.add_cookies(session)
                shoot(watched, ann, folder, [*_VIEWS, *ones], "owner", look)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
