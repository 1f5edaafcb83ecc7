"""Both clients under the same tests: ``connect`` makes the blocking one, or the other behind blocking methods."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.client.sync import Client

KINDS = ("blocking", "asyncio")


class Chosen:
    """The client that is tested; the fixture ``each_client`` sets it."""

    kind = "blocking"


def connect(*args: Any, **options: Any) -> Client:
    """Make a client of the chosen kind."""
    if Chosen.kind == "blocking":
        return Client(*args, **options)
    return Facade(AsyncClient(*args, **options))  # type: ignore[return-value]


@lru_cache
def loop() -> asyncio.AbstractEventLoop:
    """The one event loop that all clients of the tests share, in a thread of its own."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, daemon=True, name="clients").start()
    return made


class Facade:
    """An ``AsyncClient`` whose methods block."""

    def __init__(self, client: AsyncClient) -> None:
        self.__dict__["_client"] = client

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._client, name, value)

    def __enter__(self) -> Facade:
        wait(self._client.__aenter__())
        return self

    def __exit__(self, *failure: Any) -> None:
        wait(self._client.__aexit__(*failure))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if inspect.iscoroutinefunction(found):
            return lambda *args, **kwargs: wait(found(*args, **kwargs))
        return each(found) if inspect.isasyncgenfunction(found) else found


def wait(work: Any) -> Any:
    """Run something in the clients' loop, and return what comes of it."""
    return asyncio.run_coroutine_threadsafe(work, loop()).result(60)


def each(generate: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """Turn an asynchronous generator into a plain one."""

    def plain(*args: Any, **kwargs: Any) -> Iterator[Any]:
        generator = generate(*args, **kwargs)
        try:
            while True:
                try:
                    yield wait(generator.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            wait(generator.aclose())

    return plain
