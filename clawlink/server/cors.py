"""The headers of CORS: they tell a browser the rights of an allowed page.

A page shows token and key in headers. The relay never asks for cookies and other credentials of the browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from aiohttp import hdrs

from clawlink.errors import BadRequest
from clawlink.server.request import Request
from clawlink.server.response import Reply

EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Last-Modified, Location, Repr-Digest, Retry-After, "
    "ClawLink-Burn-After-Read, ClawLink-Editor, ClawLink-Expires-At, ClawLink-File-Type, ClawLink-Owner, "
    "ClawLink-Readers, ClawLink-SHA256, "
    "ClawLink-Updated-At, ClawLink-Version, "
    "Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version, "
    "Upload-Defer-Length, Upload-Expires, Upload-Length, Upload-Metadata, Upload-Offset"
)
_MAX_AGE_SECONDS = 600
_NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAMES = re.compile(rf"{_NAME}(?:[ \t]*,[ \t]*{_NAME})*")
_PRIVATE_NETWORK = "Access-Control-Request-Private-Network"


def allowed(origin: str) -> Mapping[str, str]:
    """Return the headers of every reply to a page of this origin."""
    return {
        hdrs.VARY: hdrs.ORIGIN,
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: EXPOSED,
    }


def is_preflight(request: Request) -> bool:
    """Return True if a browser asks for the rights of a page."""
    headers = request.headers
    return hdrs.ORIGIN in headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers


def preflight(request: Request, methods: Iterable[str]) -> Reply:
    """Answer with the rights of an allowed page. It may send any header, because the request itself is checked later.

    Raises BadRequest.
    """
    headers: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
        hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_SECONDS),
    }
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").strip()
    if asked:
        if _NAMES.fullmatch(asked) is None:
            field = str(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
            raise BadRequest(f"{field} takes names of headers with commas between", field=field)
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
    if request.headers.get(_PRIVATE_NETWORK) == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return Reply(b"", 204, "", headers)
