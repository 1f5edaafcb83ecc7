"""The door withstands what the relay's own routes withstand."""

from __future__ import annotations

import pytest
from msgspec.structs import fields

from clawlink.doors.a2a import Settings
from clawlink.doors.a2a.wire import shapes
from tests.conftest import Running
from tests.system.attacks import OWN, Targets
from tests.system.test_attacks import COUNT, SEED, attack, attacked, torture

__all__ = ["attacked"]

_METHODS = (
    "SendMessage",
    "SendStreamingMessage",
    "GetTask",
    "ListTasks",
    "CancelTask",
    "SubscribeToTask",
    "CreateTaskPushNotificationConfig",
    "ListTaskPushNotificationConfigs",
    "message/send",
    "tasks/get",
    "x" * 300,
)
_MESSAGES = (
    {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
    {"messageId": "m", "role": "ROLE_USER", "parts": [{"raw": "AAAA" * 300, "filename": "../../etc/passwd"}]},
    {"messageId": "m", "role": "ROLE_USER", "parts": [{"url": "file:///etc/passwd"}, {"data": [[]] * 300}]},
    {"messageId": "m", "role": "ROLE_USER", "parts": [], "taskId": "no", "contextId": "\u202e"},
    {"message_id": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]},
)
_PUSH = (
    {"url": "http://169.254.169.254/latest", "token": "t"},
    {"url": "http://[::1]:1/", "authentication": {"scheme": "Bearer", "credentials": "\r\nX: 1"}},
    {"url": "x" * 3000},
)
_ROUTES = (
    ("POST", "", ("jsonrpc", "id", "method", "params")),
    ("POST", "/message:send", tuple(field.encode_name for field in fields(shapes.SendMessage))),
    ("POST", "/message:stream", tuple(field.encode_name for field in fields(shapes.SendMessage))),
    ("POST", "/tasks/no:cancel", ("metadata",)),
    ("POST", "/tasks/no:subscribe", ()),
    ("POST", "/tasks/no/pushNotificationConfigs", tuple(field.encode_name for field in fields(shapes.PushConfig))),
    ("GET", "/tasks", tuple(field.encode_name for field in fields(shapes.ListTasks))),
    ("DELETE", "/tasks/no/pushNotificationConfigs/%2e%2e", ()),
    ("GET", "/.well-known/agent-card.json", ()),
)
TARGETS = Targets(
    ("/ws/victim",),
    lambda random: [
        (method, random.choice(("/a2a/victim", "/a2a/%00", "/a2a-pools/python")) + path, names)
        for method, path, names in _ROUTES
    ],
    plausible={
        **OWN.plausible,
        "jsonrpc": ("2.0",),
        "method": _METHODS,
        "params": (
            *({"message": one, "configuration": {"returnImmediately": True}} for one in _MESSAGES),
            *({"taskId": "no", "pushNotificationConfig": one} for one in _PUSH),
            {"id": "no", "historyLength": 2**40},
            {"pageSize": -1, "pageToken": "%"},
        ),
        "message": _MESSAGES,
        "configuration": ({"returnImmediately": True}, {"acceptedOutputModes": ["x"] * 300}),
    },
)


@pytest.fixture
def open_doors() -> dict[str, Settings]:
    return {"a2a": Settings(on=True)}


async def test_attacks_disturb_nobody(attacked: Running) -> None:
    await attack(attacked, SEED, COUNT // 4, TARGETS)


@pytest.mark.torture
@pytest.mark.both_loops
async def test_attacks_of_other_seeds_disturb_nobody(attacked: Running) -> None:
    await torture(attacked, TARGETS)
