"""The row of an endpoint in ``paths``: its address, its structs, and what it asks of a request."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

from clawlink.protocol import headers

_TAKES = {"task_id": "[^/]+", "message_id": "[^/]+", "upload_id": "[^/]+"}
_PARAMETER = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Endpoint:
    """A method of a path. ``parameters`` in the path are percent-encoded as one piece, slashes included."""

    name: str
    method: str
    path: str
    summary: str
    reply: Any
    body: Any = None
    query: Any = None
    acts: bool = False  # acts as an agent: a claimed agent must show its key
    looks: bool = False  # shows an agent its private records, if it proves its identity
    open: bool = False  # needs no token
    agent_key: bool = False  # the bearer may be an agent key in place of the token; the handler checks it
    admin: bool = False  # for the relay's operator alone; GET only looks
    keyless: bool = False  # refuses agent keys and the relay's token, also where this machine needs none
    session: bool = False  # a session of the owner may use it in place of the keys that the route asks for
    audited: str = ""  # the field of the reply that names the target of an act of the operator
    text: bool = False  # answers text or a foreign document instead of a reply struct
    stays: bool = False  # the reply goes on for as long as the connection lasts
    headers: tuple[headers.Header, ...] = field(
        default=(), hash=False
    )  # of the request, besides those of every request
    tells: tuple[str, ...] = ()  # headers of the reply that a client needs
    claims: bool = False  # a GET that takes messages: a page in a browser must prove its right, and HEAD is refused
    ticket: bool = False  # a ticket of POST /tickets stands for token and key
    socket: bool = False  # a websocket: its token may also come in the address, or as a subprotocol
    takes_bytes: bool = False  # the body is bytes as they are, not JSON
    gives_bytes: bool = False  # so is the reply
    empty: bool = False  # the reply has headers alone
    use: str = ""  # the use case that does it, in JSON: a method of a part of the relay
    by: str = ""  # the field of the body, or the parameter of the path, that names the acting agent
    receipts: bool = False  # settles messages by the field `receipts`: they are read together with the acting agent
    otherwise: tuple[str, ...] = ()  # fields of the query that name the asking agent if nothing else does
    quiet: bool = False  # is no sign of life of the acting agent
    registers: bool = False  # without keys of ClawLink 1.1, registers an unknown agent by the way

    @property
    def shared(self) -> bool:
        """Return True if pages that ask at nearly the same time may get one answer: see ``SharedAnswers``."""
        return self.admin and self.method == "GET" and bool(self.use)

    @cached_property
    def plain(self) -> bool:
        """Return True if token, Origin and Host are all that a request must show."""
        further = self.claims or self.admin or self.ticket or self.session or self.agent_key
        return not further and self.name != "register"

    def url(self, **parameters: str) -> str:
        """Fill in the path's parameters."""
        return _PARAMETER.sub(lambda found: quote(parameters[found[1]], safe=""), self.path)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Match the endpoint's path, percent-encoded. At its end a parameter takes slashes too, but for ids we make."""
        literal = self.path.replace(".", r"\.")
        return re.compile(_PARAMETER.sub(lambda found: f"(?P<{found[1]}>{_TAKES.get(found[1], '.+')})", literal))
