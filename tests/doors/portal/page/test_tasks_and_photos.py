"""Tasks that cross portals, and the photos of the front page, on the owner's page in a real Chromium."""

from __future__ import annotations

import hashlib
import random
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from clawlink.doors.portal.rules.file_parts import PART_BYTES
from tests.browser.programs import AXE_SCRIPT
from tests.doors.portal.page.test_page import GIF, OWNER, PASSWORD, call, portal, sign_in
from tests.page.conftest import browser
from tests.page.test_for_everybody import found
from tests.page.watching import BIDI, HOSTILE, Watched, opened
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

__all__ = ["browser"]

FOREIGN = "main :is(script, iframe, style, object, embed, video), main img:not([src^='/static/photos/'])"


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Give the addresses of two portals that are contacts of each other: of Ann, and of Bob."""
    with portal(monkeypatch) as ann, portal(monkeypatch) as bob:
        call(ann, "POST", "/api/contacts", {"portal_url": bob, "agent_name": "bob"})
        key = call(ann, "GET", "/api/contacts")["contacts"][0]["SHARED_KEY"]
        call(bob, "POST", "/api/contacts", {"portal_url": ann, "agent_name": "ann", "SHARED_KEY": key})
        yield ann, bob


def tasks(url: str) -> Any:
    return call(url, "GET", "/api/portal/tasks")["tasks"]


def arrived(url: str, count: int) -> Any:
    """Wait until this many tasks crossed a portal, and return the newest."""
    wait_until(lambda: len(tasks(url)) == count)
    return tasks(url)[0]


def enter(watched: Watched, url: str) -> None:
    sign_in(watched, url)
    watched.page.wait_for_selector("main article")
    watched.faults.clear()  # of the login


def attached(url: str, task: str, name: str, data: bytes) -> str:
    """Bring a file for the answer to a task of a contact, and return its id."""
    sums = {"md5": hashlib.md5(data, usedforsecurity=False).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    told = call(url, "POST", "/api/portal/files", {"task": task, "filename": name, "size": len(data), **sums})
    headers = {"Authorization": f"Bearer {OWNER}", "Content-Type": "application/octet-stream"}
    answer = requests.put(f"{url}/api/portal/files/{told['file_id']}/0", data=data, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    id: str = told["file_id"]
    return id


def test_a_task_goes_over_is_asked_about_and_answered_with_a_file(browser: Browser, pair: tuple[str, str]) -> None:
    ann, bob = pair
    with opened(browser, ann) as asks, opened(browser, bob) as works:
        enter(asks, ann)
        enter(works, bob)
        assert "No task crossed" in asks.show(ann, "portal-tasks")
        asks.page.click("summary")
        asks.page.fill("textarea[name=task]", "count the <b>sheep</b>")
        asks.page.click("form.write button")
        asks.page.wait_for_selector("tbody a:has-text('count the <b>sheep</b>')")
        task = arrived(bob, 1)
        works.show(bob, "portal-tasks")
        works.page.click("tbody a[data-row]")
        works.page.wait_for_selector("section.task :text('count the <b>sheep</b>')")
        works.page.select_option("select[name=status]", "input_required")
        works.page.fill("textarea[name=result]", "the black ones, too?")
        works.page.click("form.write button")
        asks.page.click("tbody a[data-row]")
        asks.page.wait_for_selector("section.question :text('the black ones, too?')")
        asks.page.fill("textarea[name=result]", "all of them")
        asks.page.click("form.write button")
        asks.page.wait_for_selector("section.question", state="detached")
        wait_until(lambda: tasks(bob)[0]["status"] != "input_required")
        file = attached(bob, task["task_id"], "count.txt", b"a hundred")
        call(bob, "POST", f"/api/portal/tasks/{task['task_id']}", {"result": "see there", "files": [file]})
        asks.page.wait_for_selector("section.result :text('see there')")
        asks.page.wait_for_selector("tbody a:has-text('count.txt')")
        with asks.page.expect_download() as waiting:
            asks.page.click("tbody a:has-text('count.txt')")
        assert waiting.value.path().read_bytes() == b"a hundred"
        assert asks.page.query_selector("main :is(textarea, button.danger)") is None, "it has ended"
        assert asks.faults + works.faults == []


DROP = """([selector, files]) => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    for (const type of ["dragover", "drop"])
        document.querySelector(selector).dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true }));
}"""


def here(url: str) -> dict[str, tuple[str, str]]:
    """Return state and SHA-256 of each file of a portal by its name."""
    found = call(url, "GET", "/api/portal/files")["files"]
    return {file["filename"]: (file["status"], file["sha256"]) for file in found}


def test_files_leave_for_a_contact_and_arrive_whole(browser: Browser, pair: tuple[str, str], tmp_path: Path) -> None:
    ann, bob = pair
    data = {"large.bin": random.Random(1).randbytes(PART_BYTES + 100_000), "empty.txt": b"", HOSTILE[1] + ".txt": b"x"}
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    with opened(browser, ann) as watched:
        page = watched.page
        enter(watched, ann)
        watched.show(ann, "contacts/1")
        page.set_input_files(".pick input", [tmp_path / name for name in data])
        page.click(".pick button[aria-label='Leave out empty.txt']")
        page.evaluate(DROP, [".pick", [["dropped.txt", "from a folder"]]])
        page.fill("textarea", "see the files")
        cut: list[str] = []

        def break_off(route: Route) -> None:
            cut.append(route.request.url)
            route.abort() if len(cut) == 2 else route.continue_()

        page.route("**/api/portal/files/*/*", break_off)
        page.click("form.write button:not([type])")
        page.wait_for_selector(".pick li", state="detached")  # all have left
        assert len(cut) == 5, "two parts of one file, two files of one part, and one part again"
        whole = {name: ("completed", hashlib.sha256(content).hexdigest()) for name, content in data.items() if content}
        whole["dropped.txt"] = ("completed", hashlib.sha256(b"from a folder").hexdigest())
        whole = {name.replace("<", "_").replace(">", "_"): told for name, told in whole.items()}
        wait_until(lambda: here(bob) == whole)
        page.wait_for_selector("li.sent:has-text('see the files')")
        wait_until(lambda: page.inner_text("tbody").count("sent") == 2 * len(whole))
        assert [fault for fault in watched.faults if "ERR_FAILED" not in fault] == []


def test_a_file_is_stopped_goes_on_and_is_refused_in_words(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "report.txt").write_bytes(b"x" * 2000)
    (tmp_path / "huge.bin").write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    with portal(monkeypatch) as ann, portal(monkeypatch, portal_contact_files=1000) as bob:
        call(ann, "POST", "/api/contacts", {"portal_url": bob, "agent_name": "bob"})
        key = call(ann, "GET", "/api/contacts")["contacts"][0]["SHARED_KEY"]
        call(bob, "POST", "/api/contacts", {"portal_url": ann, "agent_name": "ann", "SHARED_KEY": key})
        with opened(browser, ann) as watched:
            page = watched.page
            enter(watched, ann)
            watched.show(ann, "contacts/1")
            held: list[Route] = []
            page.route("**/api/portal/files/*/*", lambda route: held.append(route))
            page.set_input_files(".pick input", tmp_path / "report.txt")
            page.click("form.write button:not([type])")
            page.wait_for_selector(".pick progress")
            wait_until(lambda: page.evaluate("true") and held)  # Playwright calls us back while it is called
            page.click(".pick button:has-text('Stop')")
            page.wait_for_selector(".trouble:has-text('report.txt: you stopped it')")
            assert here(ann)["report.txt"][0] == "transferring"
            page.unroute("**/api/portal/files/*/*")
            page.click("form.write button:not([type])")
            page.wait_for_selector(
                "tbody:has-text('refused'):has-text('at most 1000 bytes'), tbody:has-text('1000 bytes')"
            )
            assert len(here(ann)) == 1, "it is the same file"
            watched.show(ann, "chat")
            page.set_input_files(".pick input", [tmp_path / "huge.bin", tmp_path / "report.txt"])
            assert "huge.bin has more than 10 MiB" in page.inner_text(".pick .trouble")
            page.fill("textarea", "read it")
            page.click("form.write button:not([type])")
            page.wait_for_selector(".talk li:has-text('read it')")
            lines = [
                line["content"].partition("\n")[0] for line in call(ann, "GET", "/api/chat/owner/history")["messages"]
            ]
            assert lines == ["[文件] report.txt", "read it"]
            assert [fault for fault in watched.faults if "ERR_FAILED" not in fault] == []


def test_a_task_and_its_answer_take_files_from_the_page(
    browser: Browser, pair: tuple[str, str], tmp_path: Path
) -> None:
    ann, bob = pair
    (tmp_path / "sheep.csv").write_bytes(b"black, white")
    (tmp_path / "count.txt").write_bytes(b"a hundred")
    with opened(browser, ann, locale="zh-CN") as asks, opened(browser, bob) as works:
        enter(asks, ann)
        enter(works, bob)
        asks.show(ann, "portal-tasks")
        asks.page.click("summary")
        assert "拖放" in asks.page.inner_text(".pick")
        asks.page.set_input_files(".pick input", tmp_path / "sheep.csv")
        asks.page.fill("textarea[name=task]", "count them")
        asks.page.click("form.write button:not([type])")
        task = arrived(bob, 1)
        works.show(bob, f"portal-tasks/{task['task_id']}")
        with works.page.expect_download() as waiting:
            works.page.click("tbody a:has-text('sheep.csv')")
        assert waiting.value.path().read_bytes() == b"black, white"
        works.page.set_input_files(".pick input", tmp_path / "count.txt")
        works.page.fill("textarea[name=result]", "see there")
        works.page.click("form.write button:not([type])")
        works.page.wait_for_selector("form.write", state="detached")
        asks.show(ann, f"portal-tasks/{tasks(ann)[0]['task_id']}")
        asks.page.wait_for_selector("section.result :text('see there')")
        with asks.page.expect_download() as waiting:
            asks.page.click("tbody a:has-text('count.txt')")
        assert waiting.value.path().read_bytes() == b"a hundred"
        assert asks.faults + works.faults == []


def test_a_task_is_taken_back_and_one_of_a_contact_is_not(browser: Browser, pair: tuple[str, str]) -> None:
    ann, bob = pair
    call(ann, "POST", "/api/portal/delegate", {"to": "bob", "task": "never mind"})
    there = arrived(bob, 1)["task_id"]
    with opened(browser, bob) as works:
        enter(works, bob)
        works.show(bob, f"portal-tasks/{there}")
        assert works.page.query_selector("main button.danger") is None, "it is the task of the contact"
    with opened(browser, ann, locale="zh-CN") as asks:
        enter(asks, ann)
        asks.agrees = True
        assert "联系人的任务" in asks.show(ann, "portal-tasks?contact=1")
        asks.page.click("tbody a[data-row]")
        asks.page.click("button.danger")
        asks.page.wait_for_selector("main .state.cancelled")
        assert asks.faults == []
    wait_until(lambda: tasks(bob)[0]["status"] == "cancelled")


@pytest.mark.skipif(not AXE_SCRIPT.exists(), reason="axe-core is not under .cache: python -m tests.browser.programs")
def test_texts_of_tasks_are_only_ever_text_and_axe_finds_nothing(browser: Browser, pair: tuple[str, str]) -> None:
    ann, bob = pair
    for n, text in enumerate(HOSTILE):
        call(ann, "POST", "/api/portal/delegate", {"to": "bob", "task": text if n % 2 else {text: [text + BIDI]}})
        task = arrived(bob, n + 1)["task_id"]
        file = attached(bob, task, text.replace("/", ""), b"<script>alert(1)</script>")
        report = {"status": ("input_required", "failed")[n % 2], "note": text, "result": text + BIDI}
        call(bob, "POST", f"/api/portal/tasks/{task}", report | {"files": [file] if n % 2 else []})
    wait_until(lambda: all(task["status"] in ("input_required", "failed") for task in tasks(ann)))
    for url in pair:
        with opened(browser, url, viewport={"width": 360, "height": 740}) as watched:
            enter(watched, url)
            ids = [one["task_id"] for one in tasks(url)]
            shown = watched.show(url, "portal-tasks")
            watched.page.evaluate(AXE_SCRIPT.read_text(encoding="utf-8"))
            for n, id in enumerate(ids):
                watched.page.evaluate("view => { location.hash = '#/' + view; }", f"portal-tasks/{id}")
                watched.settle(f"portal-tasks/{id}")
                shown += watched.page.inner_text("main")
                assert watched.page.query_selector(FOREIGN) is None
                assert watched.page.evaluate("document.documentElement.scrollWidth") <= 360
                if n < 2:
                    assert found(watched.page) == []
            assert watched.faults == []
            for text in HOSTILE:
                assert text in shown or text.replace('"', '\\"') in shown, text
            assert "\u202e" not in shown


def test_photos_are_added_shown_and_deleted(browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    picture, text = tmp_path / "garden.gif", tmp_path / "evil.png"
    picture.write_bytes(b64decode(GIF))
    text.write_text("<script>alert(1)</script>")
    with portal(monkeypatch) as url, opened(browser, url) as watched:
        page = watched.page
        watched.agrees = True
        enter(watched, url)
        assert "No photo." in watched.show(url, "photos")
        page.set_input_files("input[name=photo]", text)
        page.click("form.fields button")
        page.wait_for_selector(".trouble:has-text('a photo is a picture')")
        watched.faults.clear()  # the browser tells of the refusal
        page.set_input_files("input[name=photo]", picture)
        page.click("form.fields button")
        page.wait_for_selector(".photos img")
        assert page.evaluate("document.querySelector('.photos img').decode().then(() => 'drawn')") == "drawn"
        (photo,) = call(url, "GET", "/api/photos/list")["photos"]
        assert requests.get(url + photo["url"], timeout=PATIENCE).content == b64decode(GIF)
        statuses = page.evaluate(
            """async (photo) => {
                const body = new FormData();
                body.append("photo", new Blob(["GIF89a"]), "x.gif");
                const added = await fetch("api/photos/upload", { method: "POST", body });
                const gone = await fetch("api/photos/" + photo.split("/").pop(), { method: "DELETE" });
                const headers = { "Content-Type": "application/json" };
                const answered = await fetch("api/portal/tasks/x", { method: "POST", headers, body: "{}" });
                return [added.status, gone.status, answered.status];
            }""",
            photo["url"],
        )
        assert statuses == [403, 403, 403], "a write needs the token of the session"
        watched.faults.clear()
        page.click(".photos button.danger")
        page.wait_for_selector("text=No photo.")
        assert call(url, "GET", "/api/photos/list")["photos"] == []
        assert watched.faults == []


def test_no_foreign_page_gets_at_tasks_and_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    asks: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("POST", "/api/photos/upload", {"files": {"photo": ("x.gif", b64decode(GIF))}}),
        ("DELETE", "/api/photos/x.gif", {}),
        ("POST", "/api/portal/tasks/x", {"json": {"result": "x"}}),
        ("POST", "/api/portal/tasks/x/cancel", {"json": {}}),
        ("POST", "/api/portal/delegate", {"json": {"to": 1, "task": "x"}}),
        ("GET", "/api/portal/tasks", {}),
        ("GET", "/api/photos/list", {}),
        ("GET", "/admin/load", {}),
    )
    with portal(monkeypatch) as url:
        signed = requests.post(url + "/api/portal/session", json={"password": PASSWORD}, timeout=PATIENCE)
        cookie = {"Cookie": signed.headers["Set-Cookie"].partition(";")[0]}
        own = cookie | {"ClawLink-CSRF": signed.json()["csrf"]}

        def statuses(headers: dict[str, str]) -> list[int]:
            answers = [
                requests.request(how, url + path, headers=headers, timeout=PATIENCE, **ask) for how, path, ask in asks
            ]
            return [answer.status_code for answer in answers]

        assert statuses(own) == [200, 404, 404, 404, 404, 200, 200, 200]
        said = {"content": "the secret words"}
        requests.post(url + "/api/chat/owner/send", json=said, headers=own, timeout=PATIENCE).raise_for_status()
        call(url, "POST", "/api/chat/owner/send", {"content": "by the owner key, and not on the page"})
        audit = requests.get(url + "/admin/audit", headers=cookie, timeout=PATIENCE).json()["entries"]
        assert [entry["act"] for entry in audit] == ["portal_chat_send", "portal_photo_upload"]
        assert {entry["by"].partition(" ")[0] for entry in audit} == {"session"}
        assert "secret" not in str(audit)
        for headers in (cookie, own | {"ClawLink-CSRF": "x"}):
            assert statuses(headers) == [403] * 5 + [200] * 3, headers
        for foreign in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Host": "evil.example"},
        ):
            assert statuses(own | foreign) == [403] * 8, foreign
        for other in ({"Authorization": "Bearer boss"}, {"Authorization": "Bearer t"}, {}):
            assert statuses(other)[:7] == [401] * 6 + [200], other


def test_an_agent_key_gets_no_right_by_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with portal(monkeypatch) as url:
        key = call(url, "POST", "/api/key/create", {"agent_name": "bot"})["api_key"]
        headers = {"Authorization": f"Bearer {key}"}
        photo = {"photo": ("x.gif", b64decode(GIF))}
        answers = [
            requests.post(url + "/api/photos/upload", files=photo, headers=headers, timeout=PATIENCE),
            requests.delete(url + "/api/photos/x.gif", headers=headers, timeout=PATIENCE),
            requests.post(url + "/api/portal/session", json={"password": key}, headers=headers, timeout=PATIENCE),
            requests.get(url + "/admin/overview", headers=headers, timeout=PATIENCE),
        ]
        assert [answer.status_code for answer in answers] == [403, 403, 401, 401]
        for path in ("/api/portal/tasks", "/api/photos/list"):
            assert requests.get(url + path, headers=headers, timeout=PATIENCE).status_code == 200, path
