"""The requests of A2A as structs. Fields come in camelCase or snake_case, null is absent, unknown ones are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from clawlink.domain import limits
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.errors import BadRequest
from clawlink.protocol.invalid import bad_field

T = TypeVar("T")

MAX_PARTS = 256
MAX_ID_LENGTH = 256
MAX_PAGE_SIZE = 100
PAGE_SIZE = 50
MAX_URL_LENGTH = 2048

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
# An absent id may be sent as an empty string, the default of the protocol's buffers.
MaybeId = Annotated[str, Meta(max_length=MAX_ID_LENGTH)]
Object = dict[str, Any]
HistoryLength = Annotated[int, Meta(ge=0, le=2**31 - 1)]
State = Literal[
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
]
_CONTENTS = ("text", "raw", "url", "data")


class Part(Struct, frozen=True, rename="camel"):
    """A piece of a message or artifact: exactly one of text, raw (base64), url and data."""

    text: str | UnsetType = UNSET
    raw: str | UnsetType = UNSET
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_LENGTH)] | UnsetType = UNSET
    data: Any = UNSET
    metadata: Object | UnsetType = UNSET
    filename: Annotated[str, Meta(max_length=limits.MAX_FILE_NAME_LENGTH)] | UnsetType = UNSET
    media_type: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        given = [name for name in _CONTENTS if getattr(self, name) is not UNSET]
        if len(given) != 1:
            said = "none of them" if not given else " and ".join(given)
            raise ValueError(f"a part has exactly one of text, raw, url and data, not {said}")


def json_of(struct: Struct) -> Object:
    """Return a struct of JSON as an object, with the values that it has. Large values are not copied."""
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return {told: value for name, told in names if (value := getattr(struct, name)) is not UNSET}


class Message(Struct, frozen=True, rename="camel"):
    """A turn of the exchange between client and agent."""

    message_id: Id
    role: Literal["ROLE_USER"]
    parts: Annotated[list[Part], Meta(min_length=1, max_length=MAX_PARTS)]
    context_id: MaybeId = ""
    task_id: MaybeId = ""
    metadata: Object | UnsetType = UNSET
    extensions: Annotated[list[str], Meta(max_length=MAX_PARTS)] | UnsetType = UNSET
    reference_task_ids: Annotated[list[MaybeId], Meta(max_length=MAX_PARTS)] | UnsetType = UNSET


class Authentication(Struct, frozen=True, rename="camel"):
    """The proof by which a webhook knows the relay."""

    scheme: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+\Z")]
    credentials: Annotated[str, Meta(max_length=4096, pattern=r"^[\x20-\x7e]*\Z")] = ""


class PushConfig(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A webhook that hears of a task."""

    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_LENGTH)]
    id: MaybeId = ""
    task_id: MaybeId = ""
    token: Annotated[str, Meta(max_length=4096, pattern=r"^[\x20-\x7e]*\Z")] = ""
    authentication: Authentication | None = None


class Configuration(Struct, frozen=True, rename="camel"):
    """The client's wishes for the answer to a message."""

    accepted_output_modes: Annotated[list[str], Meta(max_length=MAX_PARTS)] = []
    history_length: HistoryLength | None = None
    return_immediately: bool = False
    task_push_notification_config: PushConfig | None = None


class SendMessage(Struct, frozen=True, rename="camel"):
    """A message for an agent."""

    message: Message
    configuration: Configuration = Configuration()
    metadata: Object | UnsetType = UNSET


class TaskQuery(Struct, frozen=True, rename="camel"):
    """A task, and how much of its history is wanted."""

    id: Id
    history_length: HistoryLength | None = None


class ListTasks(Struct, frozen=True, rename="camel"):
    """A page of a list of tasks."""

    context_id: MaybeId = ""
    status: State | Literal["", "TASK_STATE_UNSPECIFIED"] = ""
    page_size: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE)] = PAGE_SIZE
    page_token: Annotated[str, Meta(max_length=512)] = ""
    history_length: HistoryLength | None = None
    status_timestamp_after: Annotated[str, Meta(max_length=64)] = ""
    include_artifacts: bool = False


class OnePushConfig(Struct, frozen=True, rename="camel"):
    """A webhook of a task, by its id."""

    task_id: Id
    id: Id


class ListPushConfigs(Struct, frozen=True, rename="camel"):
    """The webhooks of a task."""

    task_id: Id
    page_size: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    page_token: Annotated[str, Meta(max_length=512)] = ""


class Nothing(Struct, frozen=True):
    """A request without fields."""


# The objects within a request whose fields have names of the protocol. All other objects stay as they came.
_PART: dict[str, Any] = {}
_MESSAGE: dict[str, Any] = {"parts": _PART}
_PUSH: dict[str, Any] = {"authentication": {}}
_NAMES: dict[str, Any] = {"message": _MESSAGE, "configuration": {"taskPushNotificationConfig": _PUSH}, **_PUSH}


def read(fields: Any, kind: type[T], *, texts: bool = False) -> T:
    """Read an object as a request. With ``texts`` its values are those of a query. Raises BadRequest, A2AError."""
    if not isinstance(fields, dict):
        raise A2AError("INVALID_PARAMS", "the parameters are an object")
    tidy = camel(fields, _NAMES)
    try:
        return msgspec.convert(tidy, kind, strict=not texts)
    except msgspec.ValidationError as error:
        raise bad_field(error, None, tidy if texts else None) from None
    except RecursionError:
        raise BadRequest("the request is nested too deep") from None


def camel(value: Any, names: dict[str, Any]) -> Any:
    """Return an object with the protocol's names in camelCase, and without null, but for the ``data`` of a part."""
    if isinstance(value, list):
        return [camel(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    tidy: dict[str, Any] = {}
    for name, given in value.items():
        known = str(_CAMEL.get(name, name))
        if given is None and not (known == "data" and names is _PART):
            continue
        inner = names.get(known)
        tidy[known] = given if inner is None else camel(given, inner)
    return tidy


_KINDS: tuple[Any, ...] = (
    *(Part, Message, Authentication, PushConfig, Configuration, SendMessage, TaskQuery, ListTasks),
    *(OnePushConfig, ListPushConfigs),
)
_CAMEL: dict[str, str] = {}
for _kind in _KINDS:
    _CAMEL.update(zip(_kind.__struct_fields__, _kind.__struct_encode_fields__, strict=True))
