"""The hooks of OpenClaw's gateway, by which its main session is woken: on, with a token of ours."""

from __future__ import annotations

import re
import secrets

from clawlink.client.programs import json_text

# A token that connect made, and may remove.
TOKEN = re.compile(r"clawlink-[0-9a-f]{48}")


def with_webhook(text: str | None) -> str:
    """Turn the hooks on. An object ``hooks`` that is there is the person's own choice, and stays.

    Raises Unmergeable if ``hooks`` is no object.
    """
    settings = json_text.read(text, {})
    if "hooks" not in settings:
        settings["hooks"] = {"enabled": True, "token": f"clawlink-{secrets.token_hex(24)}"}
    elif not isinstance(settings["hooks"], dict):
        raise json_text.Unmergeable("its hooks are no object")
    return json_text.written(settings, text)


def without_webhook(text: str) -> str | None:
    """Take the hooks out if they are as connect made them. Returns None if that leaves nothing."""
    settings = json_text.read(text, {})
    hooks = settings.get("hooks")
    if not isinstance(hooks, dict) or set(hooks) != {"enabled", "token"} or hooks["enabled"] is not True:
        return text
    if TOKEN.fullmatch(str(hooks["token"])) is None:
        return text
    del settings["hooks"]
    return json_text.written(settings, text) if settings else None
