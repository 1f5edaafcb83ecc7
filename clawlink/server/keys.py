"""The relay's own secrets: made once, and kept in a folder where only its owner may read them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from clawlink import private
from clawlink.config import ADMIN_TOKEN, DATA_FOLDER, SECRET, TOKEN, ServerConfig, folder_of
from clawlink.random_text import random_text

_BYTES = 24
_log = logging.getLogger("clawlink.server")


def keep(folder: Path, name: str, *, anew: bool = False, before: Path | None = None) -> str:
    """Return the secret of that name.

    Without one in the folder, keep that of the folder ``before``. Make and keep a new one if there is none, or if
    ``anew`` is True. Raises OSError.
    """
    path = folder / name
    kept = "" if anew else _read(path)
    if kept:
        with contextlib.suppress(OSError):
            path.chmod(0o600)
        return kept
    private.make_folder(folder)
    made = random_text(_BYTES)
    if before is not None and not anew:
        with contextlib.suppress(OSError):
            made = _read(before / name) or made
    private.write(path, f"{made}\n".encode("ascii"))
    return made


def _of_folder(config: ServerConfig, folder: Path) -> str | None:
    """Return the given token and keep it in the data folder; without one, the token of the last start there.

    So a relay that had a token does not run without one after a restart. Raises ValueError if it cannot be read.
    """
    path = folder / TOKEN
    why = "it holds no token"
    try:
        kept = _read(path)
        if config.token not in (None, kept):
            private.write(path, f"{config.token}\n".encode())
    except OSError as error:
        kept, why = "", error.strerror or str(error)
        if config.token is not None:
            _log.warning("the token cannot be kept in the data folder, so give it at each start: %s", why)
    if config.token is None and not kept and path.exists():
        raise ValueError(f"the token in {path} cannot be read ({why}): set CLAWLINK_TOKEN, or give --no-auth")
    return config.token or kept or None


def _read(path: Path) -> str:
    """Return a kept secret; "" if there is none."""
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return path.read_text("utf-8").strip()
    return ""


def _note(data: Path, port: int, environ: Mapping[str, str]) -> None:
    """Note in the account's own folder where a relay keeps its secrets, so that commands find them.

    Without a home folder, or without room there, it notes nothing: the commands then ask for the admin token.
    """
    with contextlib.suppress(OSError, RuntimeError):
        folder = folder_of(port, environ)
        noted = os.fsencode(data.resolve())
        with contextlib.suppress(FileNotFoundError):
            if (folder / DATA_FOLDER).read_bytes() == noted:
                return
        private.make_folder(folder)
        private.write(folder / DATA_FOLDER, noted)


@contextlib.contextmanager
def noted(config: ServerConfig, port: int, environ: Mapping[str, str]) -> Iterator[None]:
    """Note where a relay that listens keeps its secrets: for later commands, too, unless the system chose its port.

    A relay that is killed leaves its note. This does no harm: a reader asks for the proof that the relay on the port
    knows the secret in the folder. A relay that finds its port taken leaves the note of the relay there.
    """
    if config.data is None or not (config.port or config.admin_token):
        yield
        return
    _note(Path(config.data), port, environ)
    if config.port:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            folder = folder_of(port, environ)
            if (folder / DATA_FOLDER).read_bytes() == os.fsencode(Path(config.data).resolve()):
                (folder / DATA_FOLDER).unlink()  # and not that of the next relay on the port
            folder.rmdir()  # it stays if a relay has kept something there


def _of_port(port: int, environ: Mapping[str, str]) -> Path | None:
    """Return where a relay without ``--data`` keeps its secrets, so that its agents know it again with ``--data``."""
    with contextlib.suppress(OSError, RuntimeError):
        return folder_of(port, environ) if port else None
    return None


def with_secrets(config: ServerConfig, environ: Mapping[str, str]) -> ServerConfig:
    """Return the configuration with all the secrets that its relay needs, kept from an earlier start or made.

    Raises ValueError with a sentence if a token has to be made and cannot be kept, or if it is the admin token.
    """
    needs_token = config.token is None and not config.no_auth and (config.public or not config.on_loopback)
    if config.store is not None and needs_token:
        raise ValueError(
            "relays with --store share one token, so none is made: set CLAWLINK_TOKEN to the same token for all of "
            "them, or give --no-auth"
        )
    if config.port == 0 and config.data is None:  # no agent can know this relay again
        return replace(config, token=random_text(_BYTES)) if needs_token else config
    try:
        folder = folder_of(config.port, environ) if config.data is None else Path(config.data)
        before = None if config.data is None else _of_port(config.port, environ)
        secret = keep(folder, SECRET, before=before).encode()
        token = config.token
        if needs_token:
            token = keep(folder, TOKEN, anew=config.new_token, before=before)
        elif config.data is not None and not config.no_auth:
            token = _of_folder(config, folder)
        admin_token = config.admin_token
        if admin_token is None and not replace(config, token=token).operated_locally:
            admin_token = keep(folder, ADMIN_TOKEN, anew=config.new_token, before=before)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if needs_token:
            raise ValueError(
                f"this relay asks for a token, and none can be kept in its home folder ({why}): "
                "set CLAWLINK_TOKEN, or CLAWLINK_HOME to a folder that it may write to"
            ) from None
        _log.warning("no secret can be kept, so agents know this relay at its current address only: %s", why)
        return config
    if token is not None and token == admin_token:
        raise ValueError(f"--admin-token must be another than the token in {folder}, or every agent is the operator")
    kept = folder if config.token is None and token is not None else None
    return replace(config, token=token, admin_token=admin_token, secret=secret, kept=kept)
