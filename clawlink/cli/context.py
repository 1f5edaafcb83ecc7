"""The context of a command: the streams, the identities kept here, and a client of the chosen relay."""

from __future__ import annotations

import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from clawlink.cli.output import Output

if TYPE_CHECKING:
    from clawlink.cli.agents import Agents
    from clawlink.cli.settings import Given, Where
    from clawlink.client.identity import Identities, Saved
    from clawlink.client.sync import Client
    from clawlink.errors import NotAuthenticated
    from clawlink.protocol.replies import Info

DEFAULT_TIMEOUT = 10.0
_CHUNK_BYTES = 1024 * 1024


class Context:
    """Everything that a command needs beside its own arguments. Costly parts are made at their first use."""

    def __init__(
        self, args: Namespace, *, out: TextIO | None, err: TextIO | None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.args = args
        self.out = Output(out)
        self.err = Output(err)
        self.environ = environ
        self.json: bool = args.json
        self.timeout: float = args.timeout or DEFAULT_TIMEOUT
        self.acting_as: Saved | None = None
        self.nobody_nearby = False
        self.registered_anew = False
        self.places: set[str] = set()  # names for files of others, in commands that were shown
        self._clients: list[Client] = []

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()

    @property
    def may_ask(self) -> bool:
        """Return True if a person at a terminal reads and types. A script gets no question."""
        return self.out.terminal and not self.json and sys.stdin is not None and sys.stdin.isatty()

    def agreed(self, question: str) -> bool:
        """Ask at the terminal. Return True for yes."""
        self.err.pieces((f"{question} [y/N] ", "bold"))
        self.err.flush()
        return sys.stdin is not None and sys.stdin.readline().strip().lower() in ("y", "yes")

    @property
    def now(self) -> float:
        """The relay's time in seconds since the epoch.

        Before the first request it is the time of the clock here.
        """
        return time.time() + (self._ahead if self._clients else 0.0)

    @property
    def silence(self) -> float | None:
        """The time in seconds after which a silent agent loses its task; None if the relay does not tell."""
        told = self._told[0]
        return None if told is None else told.limits.get("stale_after")

    @cached_property
    def _ahead(self) -> float:
        """How far the relay's time is ahead of the clock here; 0 if it does not tell."""
        from clawlink.cli.render import epoch

        told, middle = self._told
        there = None if told is None else epoch(told.server_time)
        return 0.0 if there is None else there - middle

    @cached_property
    def _told(self) -> tuple[Info | None, float]:
        """The facts of the relay, and the time here in the middle of the request; None without an answer."""
        from clawlink.errors import ClawLinkError

        began = time.time()
        try:
            told = self._clients[-1].info()
        except ClawLinkError:
            return None, began
        return told, (began + time.time()) / 2

    @property
    def parent_task(self) -> str | None:
        """The task for which new work is done: the value of --parent, or else of the environment. Empty is none."""
        from clawlink.cli.ids import task

        given: str | None = self.args.parent
        given = (self.environ.get("CLAWLINK_PARENT_TASK") if given is None else given) or None
        return None if given is None else task(self, given)

    @cached_property
    def agents(self) -> Agents:
        """The agents of the relay, looked up at most once."""
        from clawlink.cli.agents import Agents

        return Agents(self._clients[-1] if self._clients else self.client)

    def take_patience(self) -> float | None:
        """Return --timeout as how long to wait in all; each request has the default then."""
        given: float | None = self.args.timeout
        self.timeout = DEFAULT_TIMEOUT
        return given

    # -- identity and relay --------------------------------------------------------------------------------------------

    @cached_property
    def identities(self) -> Identities:
        """The identities kept on this account; none where it has no home."""
        from clawlink.client.identity import Identities, NoHome, home

        try:
            return Identities(home(self.environ))
        except NoHome:
            return Identities(None)

    @cached_property
    def given(self) -> Given:
        """The relay and the identity, as flags and variables name them."""
        from clawlink.cli.ids import identity, is_prefix
        from clawlink.cli.settings import given

        said = given(self.args, self.environ)
        if said.named is None or not is_prefix(said.named):
            return said
        return said._replace(named=identity(self.identities.all(), said.named))

    @cached_property
    def me(self) -> Saved:
        """The identity to act as. Raises NoIdentity or SeveralIdentities."""
        self.acting_as = self.identities.pick(named=self.given.named, relay=self.given.relay)
        return self.acting_as

    @cached_property
    def client(self) -> Client:
        """A client that acts as the chosen identity. Raises NoIdentity or SeveralIdentities."""
        from clawlink.cli.settings import acting

        return self.connect(acting(self.me, self.given))

    @cached_property
    def visitor(self) -> Client:
        """A client that acts as no agent."""
        from clawlink.cli.settings import visiting

        return self.connect(self.located(visiting(self.given, self.identities)._replace(saved=None)))

    @property
    def answered(self) -> bool:
        """Return True if a relay has answered this command."""
        return any(client._answered for client in self._clients)

    def located(self, where: Where) -> Where:
        """Look on the local network where nothing says which relay is meant, and the default one is not there."""
        if not where.assumed:
            return where
        from clawlink.cli.nearby import look_around

        return look_around(self, where)

    def connect(self, where: Where) -> Client:
        """Return a client for a relay, acting as the identity if there is one."""
        from clawlink.client.sync import Client

        me = where.saved
        client = Client(
            where.relay,
            token=where.token,
            agent_id=None if me is None else me.agent_id,
            agent_key=None if me is None else me.agent_key,
            timeout=self.timeout,
            ca=where.ca,
        )
        if me is not None:
            from clawlink.cli.reregistration import Returning

            client._on_forgotten = Returning(self, where, me)
        self._clients.append(client)
        return client

    def source_of(self, error: NotAuthenticated) -> str | None:
        """Return where the token comes from that a relay refused: a flag, a variable, or a kept identity."""
        from clawlink.config import variable
        from clawlink.domain.access import WRONG_TOKEN

        if not self._clients or error.field != WRONG_TOKEN:
            return None
        token = self._clients[-1].token
        if token == self.given.token:
            return "--token" if self.args.token else variable("--token")
        return "the kept identity" if any(saved.token == token for saved in self.identities.all()) else None

    # -- commands to copy ----------------------------------------------------------------------------------------------

    def command(self, *words: str, tail: str = "", **flags: str | bool) -> str:
        """Return a command to copy, for this identity. ``tail`` stands unchanged at its end."""
        return _typed(words, flags, self._chosen_by(), tail)

    def register_command(self, me: Saved) -> str:
        """Return the command that registers this identity again."""
        return _typed(["register"], {"name": me.typed, **self._relay_of(me)})

    def _chosen_by(self) -> dict[str, str | bool]:
        me = self.acting_as
        if me is None or len(self.identities.all()) < 2:
            return {}
        return {"as": me.typed, **self._relay_of(me)}

    def _relay_of(self, me: Saved) -> dict[str, str | bool]:
        several = len(self.identities.matching(named=me.name, relay=None)) > 1
        return {"relay": me.relay} if several else {}

    # -- texts ---------------------------------------------------------------------------------------------------------

    def warn(self, sentence: str) -> None:
        """Say something beside the result, on stderr."""
        from clawlink.domain.terminal import cell

        if self.json:
            self.err.json({"warning": sentence}, one_line=True)
            self.err.flush()
        else:
            self.err.pieces(("clawlink:", "yellow"), (f" {cell(sentence)}", None))

    def read(self, text: str) -> str:
        """Return the text, or standard input if it is ``-``: UTF-8, without a byte-order mark and the last line end."""
        if text != "-":
            return text
        from clawlink.cli.exits import UsageError

        try:
            piped = self.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError(
                "standard input is not UTF-8 text; convert it, or share it with: clawlink file put"
            ) from None
        return piped.removesuffix("\n").removesuffix("\r")

    def read_bytes(self) -> bytes:
        """Return standard input exactly."""
        from clawlink.client.files.whole import read_some

        pieces = []
        while piece := read_some(self.stdin, _CHUNK_BYTES):
            pieces.append(piece)
        return b"".join(pieces)

    @property
    def stdin(self) -> Any:
        """Standard input as a file object of bytes; an empty one if it is closed."""
        import io
        import sys

        return io.BytesIO() if sys.stdin is None else sys.stdin.buffer


def _typed(
    words: Sequence[str],
    flags: Mapping[str, str | bool],
    chosen_by: Mapping[str, str | bool] | None = None,
    tail: str = "",
) -> str:
    """Put a command together. ``cell`` shows characters that cannot be typed, so that they do no harm."""
    from clawlink.cli.verbs import core

    verb = core().get(words[0])
    first = verb.typed.split() if verb else [words[0]]
    typed = ["clawlink", *first, *map(_word, words[1:])]
    for name, value in {**flags, **(chosen_by or {})}.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            typed.append(flag)
        else:
            # A value that looks like a flag must be joined to its own.
            typed.append(flag + ("=" if str(value).startswith("-") else " ") + _word(str(value)))
    return " ".join([*typed, tail] if tail else typed)


def _word(text: str) -> str:
    from clawlink.domain.terminal import cell

    return shlex.quote(cell(text))
