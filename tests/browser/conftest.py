"""A real Chromium, and pages of origins of their own. Plain HTTP at a name is what a LAN address is to a browser."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.programs import TUS_SCRIPT, launch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LAN = "lan.example"


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        script = self.path == "/tus.js"
        body = TUS_SCRIPT.read_bytes() if script else b"<!doctype html><title>page</title><script src=/tus.js></script>"
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if script else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    """Serve pages on loopback, and return the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium, which finds the name of the LAN on loopback."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright, f"--host-resolver-rules=MAP {LAN} 127.0.0.1")
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open an empty page in a context of its own."""
    context = browser.new_context()
    yield context.new_page()
    context.close()
