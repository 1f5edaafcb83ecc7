"""Texts of agents stay text in every view, whatever stands in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from clawlink.config import ServerConfig
from clawlink.domain.terminal import UNSAFE, cell
from tests.page.watching import HOSTILE, VIEWS, fill, many_hostile, opened
from tests.system.threaded import relay_in_thread

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_FOREIGN = "main :is(script, img, iframe, style, form:not(.search), object, embed, video)"


def test_texts_of_agents_are_only_ever_text(browser: Browser) -> None:
    """Try twelve texts, or 200 with CLAWLINK_TEST_PAGE: no dialog, no error, no violation of the policy."""
    all_of_it = bool(os.environ.get("CLAWLINK_TEST_PAGE"))
    texts = many_hostile() if all_of_it else HOSTILE
    with relay_in_thread(ServerConfig(port=0)) as url:
        ones = fill(url, texts)
        shown = []
        tall = {"width": 1280, "height": 12_000 if all_of_it else 3200}  # a list draws the rows in sight alone
        with opened(browser, url, viewport=tall) as watched:
            for view in (*VIEWS, "search?text=alert", "knowledge?limit=1000", *ones[:: 1 if all_of_it else 4]):
                shown.append(watched.show(url, view))
                assert watched.page.query_selector(_FOREIGN) is None, view
                assert watched.faults == [], view
    said = "\n".join(shown)
    for text in texts:
        assert text in said, text
    assert "<U+202E>gnp.exe<U+2066><U+0007>" in said
    assert "\u202e" not in said


def test_the_page_and_the_terminal_show_the_same_characters_by_their_numbers(browser: Browser) -> None:
    """The page leaves line ends and tabs as they are, and has no pictures of controls."""
    joined = ["👩🏽\u200d💻", "می\u200cخواهم", "क्\u200dष", "a\u200db", "👩\u200d\u200d💻", "\u200d", "日\u200d"]
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        watched.show(url, "overview")
        found, shown = watched.page.evaluate(
            """async (joined) => {
                const { clean } = await import(new URL("page/app.js", location.href));
                const numbered = (code) => clean(String.fromCodePoint(code)).startsWith("<U+");
                return [[...Array(0x110000).keys()].filter(numbered), joined.map(clean)];
            }""",
            joined,
        )
    assert found == [code for code in range(0x110000) if UNSAFE.match(chr(code)) and code not in (9, 10)]
    assert shown == [cell(text) for text in joined]
