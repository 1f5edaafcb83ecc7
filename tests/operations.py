"""The commands of references/operations.md, for the tests to run them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parent.parent / "references" / "operations.md"
NAME = "relay.example.org"


def blocks(language: str, containing: str = "") -> list[str]:
    """Return the page's blocks of that language which contain a text, in order."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [block for block in found if containing in block]


def block(language: str, containing: str) -> str:
    """Return the page's only such block."""
    (found,) = blocks(language, containing)
    return found


def replaced(text: str, by: dict[str, str]) -> str:
    """Put in what is different here; each must be there."""
    for old, new in by.items():
        assert old in text, f"{old!r} is not in references/operations.md any more"
        text = text.replace(old, new)
    return text


class Authority(NamedTuple):
    """A CA of one's own, and a certificate that it signed, as PEM files."""

    ca: str
    cert: str
    key: str


def make_authority(folder: Path) -> Authority:
    """Make a CA and a certificate for 127.0.0.1, localhost and relay.example.org as the page says, or skip the test."""
    if shutil.which("openssl") is None or shutil.which("sh") is None:
        pytest.skip("there is no openssl here, or no shell")
    signing = replaced(block("sh", "> relay.ext"), {"IP:192.168.1.5": "IP:127.0.0.1,DNS:localhost"})
    for commands in (block("sh", "> ca.ext"), signing):
        done = subprocess.run(["sh", "-eu", "-c", commands], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return Authority(*(str(folder / name) for name in ("ca.pem", "relay.pem", "relay-key.pem")))
