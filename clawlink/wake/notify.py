"""Tells the person that an agent could not be woken: on the desktop, by ntfy, and by a webhook."""

from __future__ import annotations

import asyncio
import contextlib
import html
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from clawlink.wake.settings import Notify

TITLE = "ClawLink"
PER_HOUR = 30
_SECONDS = 10.0
_HOUR = 3600.0

Run = Callable[[Sequence[str]], None]
"""Runs a command of the desktop. Raises OSError, or subprocess.SubprocessError."""


def desktop_command(text: str, platform: str = sys.platform) -> list[str] | None:
    """Return the command that shows a text on the desktop; None where there is none."""
    if platform == "darwin":
        show = f'display notification (item 1 of argv) with title "{TITLE}"'
        return ["osascript", "-e", "on run argv", "-e", show, "-e", "end run", text]
    if platform == "win32":
        return None
    return ["notify-send", "--app-name", TITLE, "--", TITLE, html.escape(text, quote=False)]


class Notifier:
    """Sends texts of our own, at most ``PER_HOUR``. A way that fails is said by ``log``, and hinders no other."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        *,
        clock: Callable[[], float],
        log: Callable[[str], None],
        run: Run | None = None,
    ) -> None:
        self._http = http
        self._clock = clock
        self._log = log
        self._run = _run if run is None else run
        self._times: list[float] = []

    async def tell(self, ways: Notify, text: str, facts: dict[str, Any]) -> None:
        """Tell the person. ``facts`` are the fields of the webhook beside the text."""
        now = self._clock()
        self._times = [at for at in self._times if now - _HOUR < at <= now]
        if len(self._times) >= PER_HOUR:
            return
        self._times.append(now)
        doing = []
        if ways.desktop:
            doing.append(self._on_desktop(text))
        if ways.ntfy is not None:
            doing.append(self._post(ways.ntfy, data=text.encode(), headers={"Title": TITLE}))
        if ways.webhook is not None:
            doing.append(self._post(ways.webhook, json={"text": text, **facts}))
        await asyncio.gather(*doing)

    async def _on_desktop(self, text: str) -> None:
        command = desktop_command(text)
        if command is None or shutil.which(command[0]) is None:
            return
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            await asyncio.to_thread(self._run, command)

    async def _post(self, url: str, **request: Any) -> None:
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with self._http.post(url, timeout=timeout, allow_redirects=False, **request) as answer:
                if answer.status >= 300:
                    self._log(f"a notification was refused with {answer.status}")
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            self._log(f"a notification could not be sent: {error or type(error).__name__}")


def _run(command: Sequence[str]) -> None:
    subprocess.run(  # noqa: S603 - the desktop's own command, with our text as one argument
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
    )
