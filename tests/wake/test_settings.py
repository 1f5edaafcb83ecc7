"""Settings of the person in ``wake.toml``: read as it is meant, and refused by its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from clawlink.wake.settings import Agent, BadSettings, Notify, Settings, load, parsed
from tests.tables import each

WHOLE = """
quiet = "22:00-07:30"   # the local time
per_hour = 6
per_day = 50
claim_seconds = 60
chain = ["session", "resume"]

[notify]
desktop = false
ntfy = "https://ntfy.sh/mine"
webhook = "http://127.0.0.1:8000/hook"

[agents."claude-*"]
quiet = ""
chain = ["session"]

[agents.Bob]
chain = ["command", "openclaw"]
command = ["/home/me/bin/wake", "bob"]
codex = "unix:///run/codex.sock"
opencode = "http://127.0.0.1:4096"
opencode_password = "secret"
"""


def test_settings_of_an_account_and_of_agents(tmp_path: Path) -> None:
    assert load(tmp_path) == Settings() == parsed("")
    (tmp_path / "wake.toml").write_text("\ufeff" + WHOLE.replace("\n", "\r\n"), encoding="utf-8")
    found = load(tmp_path)
    assert (found.per_day, found.notify) == (50, Notify(False, "https://ntfy.sh/mine", "http://127.0.0.1:8000/hook"))
    policy = found.general.policy
    assert (policy.quiet, policy.per_hour, policy.claim) == ((1320, 450), 6, 60.0)
    assert found.of("someone") == found.general
    claude = found.of("Claude-shop-0001")
    assert (claude.chain, claude.policy) == (("session",), policy._replace(quiet=None))
    bob = found.of("bob")
    assert bob == Agent(
        policy,
        ("command", "openclaw"),
        ("/home/me/bin/wake", "bob"),
        "unix:///run/codex.sock",
        "http://127.0.0.1:4096",
        "secret",
    )


@each(
    ("text", "field"),
    [
        ("quiet = 5", "quiet"),
        ('quiet = "22-7"', "quiet"),
        ('quiet = "24:00-07:00"', "quiet"),
        ("per_hour = 0", "per_hour"),
        ("per_hour = true", "per_hour"),
        ("per_day = -1", "per_day"),
        ("claim_seconds = 1", "claim_seconds"),
        ('chain = ["telepathy"]', "chain"),
        ('chain = ["session", "session"]', "chain"),
        ("chain = []", "chain"),
        ("agents = 5", "agents"),
        ("[agents]\nbob = 5", "bob"),
        ('[agents.bob]\nchain = ["command"]', 'agents."bob".command'),
        ('[agents.bob]\ncommand = "rm -rf"', 'agents."bob".command'),
        ("[agents.bob]\nper_day = 5", 'agents."bob".per_day'),
        ('[agents.bob]\ncodex = "http://x"', "codex"),
        ('[agents.bob]\nopencode = "127.0.0.1:4096"', "opencode"),
        ("[notify]\nmail = true", "notify.mail"),
        ('[notify]\ndesktop = "yes"', "notify.desktop"),
        ('[notify]\nntfy = "mine"', "notify.ntfy"),
        ("colour = 5", "colour"),
        ("quiet = ", "TOML"),
    ],
)
def test_a_wrong_setting_is_named(text: str, field: str) -> None:
    with pytest.raises(BadSettings) as found:
        parsed(text)
    assert field in str(found.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "wake.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match=r"wake\.toml is not UTF-8"):
        load(tmp_path)
