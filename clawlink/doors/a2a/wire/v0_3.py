"""A2A 0.3 over JSON-RPC: its requests as those of 1.0, and the answers of 1.0 as those of 0.3.

The content is the same. Methods, states and roles have other names, parts and events have a ``kind``, and results lie
bare in the answer. What is wrong in a request stays as it is, for the reader of 1.0 to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

Json = dict[str, Any]

VERSION = "0.3"
_CARD_VERSION = "0.3.0"
METHODS = {
    "message/send": "SendMessage",
    "message/stream": "SendStreamingMessage",
    "tasks/get": "GetTask",
    "tasks/cancel": "CancelTask",
    "tasks/resubscribe": "SubscribeToTask",
    "tasks/pushNotificationConfig/set": "CreateTaskPushNotificationConfig",
    "tasks/pushNotificationConfig/get": "GetTaskPushNotificationConfig",
    "tasks/pushNotificationConfig/list": "ListTaskPushNotificationConfigs",
    "tasks/pushNotificationConfig/delete": "DeleteTaskPushNotificationConfig",
    "agent/getAuthenticatedExtendedCard": "GetExtendedAgentCard",
}
"""The methods of 0.3, and those of 1.0 in their place."""
_ROLES = {"user": "ROLE_USER", "agent": "ROLE_AGENT"}
_FINAL = frozenset({"completed", "failed", "canceled", "rejected"})
_INTERRUPTED = frozenset({"input-required", "auth-required"})
# How the official SDK marks data that is no object, which 0.3 does not have.
_NO_OBJECT = "data_part_compat"
OWN_FIELDS = ("url", "preferredTransport", "protocolVersion", "additionalInterfaces", "security")
"""The fields of a card that 0.3 alone has, with ``supportsAuthenticatedExtendedCard``."""
_EXTENDED = "supportsAuthenticatedExtendedCard"
_SCHEME = "SecurityScheme"


# -- requests ----------------------------------------------------------------------------------------------------------


def params(method: str, given: Json) -> Json:
    """Return the parameters of a method of 1.0, from those of 0.3."""
    name = METHODS[method]
    if name in ("SendMessage", "SendStreamingMessage"):
        return {**given, "message": _message_in(given.get("message")), "configuration": _wishes(given)}
    if "PushNotification" in name:
        return _push_in(name, given)
    if name == "GetTask":
        return _without_zero(given)
    return given


def _message_in(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    made = {**message}
    if isinstance(message.get("role"), str):
        made["role"] = _ROLES.get(message["role"], message["role"])
    if isinstance(message.get("parts"), list):
        made["parts"] = [_part_in(part) for part in message["parts"]]
    return made


def _part_in(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    made = {name: part[name] for name in ("text", "data", "metadata") if name in part}
    data, metadata = part.get("data"), part.get("metadata")
    if isinstance(metadata, dict) and metadata.get(_NO_OBJECT) is True and isinstance(data, dict) and "value" in data:
        made["data"] = data["value"]
        made["metadata"] = {name: value for name, value in metadata.items() if name != _NO_OBJECT} or None
    file = part.get("file")
    if isinstance(file, dict):
        names = (("bytes", "raw"), ("uri", "url"), ("mimeType", "mediaType"), ("name", "filename"))
        made |= {ours: file[theirs] for theirs, ours in names if file.get(theirs) is not None}
    return made


def file_of(part: Any) -> Json | None:
    """Return the file of a part, with its bytes; None for any other part."""
    file = part.get("file") if isinstance(part, dict) else None
    return file if isinstance(file, dict) else None


def _wishes(given: Json) -> Any:
    """Return the configuration of a message. Without ``blocking`` the client waits, as in 1.0."""
    asked = given.get("configuration")
    if not isinstance(asked, dict):
        return asked
    made = _without_zero(asked)
    blocking = made.pop("blocking", None)
    if blocking is not None:
        made["returnImmediately"] = not blocking if isinstance(blocking, bool) else blocking
    hook = made.pop("pushNotificationConfig", None)
    if hook is not None:
        made["taskPushNotificationConfig"] = _hook_in(hook)
    return made


def _without_zero(given: Json) -> Json:
    """Return parameters without a history of length 0, which means all of it in 0.3."""
    return {name: value for name, value in given.items() if name != "historyLength" or value != 0 or value is False}


def _push_in(name: str, given: Json) -> Json:
    """Return the parameters of a method of webhooks. A webhook without an id has that of its task."""
    if name == "CreateTaskPushNotificationConfig":
        hook = _hook_in(given.get("pushNotificationConfig"))
        task_id = given.get("taskId")
        return {"id": task_id, **hook, "taskId": task_id} if isinstance(hook, dict) else {"taskId": task_id}
    task_id = given.get("id")
    return {"taskId": task_id, "id": given.get("pushNotificationConfigId") or task_id}


def _hook_in(hook: Any) -> Any:
    if not isinstance(hook, dict):
        return hook
    made = {name: value for name, value in hook.items() if value is not None}
    proof = made.get("authentication")
    if isinstance(proof, dict):
        schemes = proof.get("schemes")
        if isinstance(schemes, list):
            rest = {name: value for name, value in proof.items() if name != "schemes"}
            made["authentication"] = {**rest, "scheme": schemes[0]} if schemes else None
    return made


# -- answers -----------------------------------------------------------------------------------------------------------


def result(method: str, answer: Json) -> Any:
    """Return the result of a method of 0.3, from the answer of 1.0."""
    name = METHODS[method]
    if name == "SendMessage":
        return _message(answer["message"]) if "message" in answer else task(answer["task"])
    if name in ("GetTask", "CancelTask"):
        return task(answer)
    if name == "ListTaskPushNotificationConfigs":
        return [_hook(one) for one in answer["configs"]]
    if name == "DeleteTaskPushNotificationConfig":
        return None
    if "PushNotification" in name:
        return _hook(answer)
    return card(answer)


def event(told: Json, *, through_questions: bool) -> Json:
    """Return an event of a stream, which tells by ``final`` whether the stream ends behind it."""
    if "task" in told:
        return task(told["task"])
    if "message" in told:
        return _message(told["message"])
    if "artifactUpdate" in told:
        update = told["artifactUpdate"]
        return {**update, "kind": "artifact-update", "artifact": _artifact(update["artifact"])}
    update = told["statusUpdate"]
    status = _status(update["status"])
    last = _FINAL if through_questions else _FINAL | _INTERRUPTED
    return {**update, "kind": "status-update", "status": status, "final": status["state"] in last}


def task(made: Json) -> Json:
    """Return a task."""
    shown = {**made, "kind": "task", "status": _status(made["status"])}
    if "artifacts" in made:
        shown["artifacts"] = [_artifact(artifact) for artifact in made["artifacts"]]
    if "history" in made:
        shown["history"] = [_message(message) for message in made["history"]]
    return shown


def _status(status: Json) -> Json:
    state = status["state"].removeprefix("TASK_STATE_").lower().replace("_", "-")
    shown = {**status, "state": state}
    if "message" in status:
        shown["message"] = _message(status["message"])
    return shown


def _message(message: Json) -> Json:
    role = "user" if message.get("role") == "ROLE_USER" else "agent"
    return {**message, "kind": "message", "role": role, "parts": [_part(part) for part in message["parts"]]}


def _artifact(artifact: Json) -> Json:
    return {**artifact, "parts": [_part(part) for part in artifact["parts"]]}


def _part(part: Json) -> Json:
    known = {"metadata": part["metadata"]} if "metadata" in part else {}
    if "text" in part:
        return {"kind": "text", "text": part["text"], **known}
    if "data" in part:
        data = part["data"]
        if isinstance(data, dict) or (isinstance(data, Raw) and bytes(data).startswith(b"{")):
            return {"kind": "data", "data": data, **known}
        return {"kind": "data", "data": {"value": data}, "metadata": {**known.get("metadata", {}), _NO_OBJECT: True}}
    names = (("raw", "bytes"), ("url", "uri"), ("mediaType", "mimeType"), ("filename", "name"))
    return {"kind": "file", "file": {theirs: part[ours] for ours, theirs in names if ours in part}, **known}


def _hook(config: Json) -> Json:
    made: Json = {name: config[name] for name in ("id", "url", "token") if name in config}
    proof = config.get("authentication")
    if proof is not None:
        made["authentication"] = {"schemes": [proof["scheme"]], "credentials": proof.get("credentials", "")}
    return {"taskId": config["taskId"], "pushNotificationConfig": made}


# -- cards -------------------------------------------------------------------------------------------------------------


def card(made: Json) -> Json:
    """Return a card of 1.0 with the fields of 0.3 beside: a reader of either version passes over the other's."""
    shown = {
        **made,
        "url": made["supportedInterfaces"][0]["url"],
        "preferredTransport": "JSONRPC",
        "protocolVersion": _CARD_VERSION,
        _EXTENDED: bool(made["capabilities"].get("extendedAgentCard")),
    }
    schemes = made.get("securitySchemes")
    if schemes:
        shown["securitySchemes"] = {name: {**one, "type": "http", "scheme": "bearer"} for name, one in schemes.items()}
        shown["security"] = [{name: []} for name in schemes]
    return shown


def without(card: Mapping[str, Any]) -> Json:
    """Return a card without the fields that 0.3 alone has, as servers add them to a card after they signed it."""
    left = {name: value for name, value in card.items() if name not in OWN_FIELDS and name != _EXTENDED}
    schemes = left.get("securitySchemes")
    if isinstance(schemes, dict):
        left["securitySchemes"] = {name: _only_of_1_0(scheme) for name, scheme in schemes.items()}
    skills = left.get("skills")
    if isinstance(skills, list):
        left["skills"] = [
            {name: value for name, value in one.items() if name != "security"} if isinstance(one, dict) else one
            for one in skills
        ]
    return left


def _only_of_1_0(scheme: Any) -> Any:
    if not isinstance(scheme, dict):
        return scheme
    return {name: value for name, value in scheme.items() if name.endswith(_SCHEME)}
