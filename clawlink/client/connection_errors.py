"""Errors of failed connections: no such host, nothing listens, a request that did not leave."""

from __future__ import annotations

import contextlib
import shlex
import socket
from pathlib import Path

from clawlink.config import DEFAULT_PORT, TOKEN, data_folder_of
from clawlink.errors import ClawLinkError, RelayUnreachable

_MOST_CAUSES = 100


def unresolved(error: BaseException | None) -> bool:
    """Return True if an error goes back to a name that stands for no host."""
    return _goes_back(error, socket.gaierror, ("__cause__", "__context__", "os_error", "reason"))


def refused(error: BaseException) -> bool:
    """Return True if nothing listens at the address. An error that was handled before (its context) does not count."""
    return _goes_back(error, ConnectionRefusedError, ("__cause__", "os_error", "reason"))


def _goes_back(error: BaseException | None, kind: type[OSError], names: tuple[str, ...]) -> bool:
    """Return True if an error is of that kind, or one of its causes is. The names are the attributes for causes."""
    seen: list[object] = [error]
    for one in seen:
        if isinstance(one, kind):
            return True
        if isinstance(one, BaseException) and len(seen) < _MOST_CAUSES:
            inner = [getattr(one, name, None) for name in names]
            seen += [cause for cause in [*inner, *one.args] if isinstance(cause, BaseException)]
    return False


def unsent(sentence: str) -> RelayUnreachable:
    """Return the error for a request that got no connection."""
    error = RelayUnreachable(sentence)
    error.unsent = True
    return error


def may_have_left(error: ClawLinkError, before: bool) -> bool:
    """Return True if an attempt of a request may have left by now, and note it in the error of the last attempt."""
    if not isinstance(error, RelayUnreachable):
        return True
    error.unsent = error.unsent and not before
    return not error.unsent


def start_again(port: int, *, with_token: bool) -> tuple[str, str]:
    """Return the command that starts the relay of a port of this machine again, and the flags that it leaves out.

    The first names the data folder that the last relay there has noted; such a folder keeps the relay's token, too.
    ``with_token`` is True if the relay's client has a token, so that a relay without one would not be the same.
    """
    serve = serve_on(port)
    data = data_folder_of(port)
    if data is None:
        return serve, f"with its {'token, and its ' if with_token else ''}--data DIR, if it had one"
    return f"{serve} --data {shlex.quote(str(data))}", "with its token" if with_token and not _keeps(data) else ""


def serve_on(port: int) -> str:
    return "clawlink serve" if port == DEFAULT_PORT else f"clawlink serve --port {port}"


def _keeps(data: Path) -> bool:
    """Return True if a data folder keeps a token."""
    with contextlib.suppress(OSError):
        return (data / TOKEN).is_file()
    return False
