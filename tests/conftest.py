"""Shared by the tests: relays that really listen, in this process or in their own."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import pytest

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from clawlink.relay.timestamps import steady_clock
from clawlink.server.app import App
from clawlink.store.base import Store
from clawlink.store.memory import MemoryStore
from clawlink.store.sqlite.folder import DataFolder
from clawlink.store.valkey.mesh import Mesh
from tests import mcp_programs, shells, valkey, waiting
from tests.browser import programs
from tests.effort import size
from tests.processes import Popen
from tests.store.faulty import FaultyStore
from tests.system.raw import Clock
from tests.virtual_time import VirtualLoop
from tests.waiting import PATIENCE

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that started us in the background has Ctrl-C ignored, and every process of ours would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.platform == "win32":  # there is no uvloop for Windows
    _UVLOOP: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {}
else:
    import uvloop

    _UVLOOP = {"uvloop": uvloop.new_event_loop}
_LOOPS = {"asyncio": asyncio.new_event_loop, **_UVLOOP}

_MESHES = (f"mesh{os.getpid()}.{number}" for number in itertools.count())

STORES = ("memory", "faulty", "sqlite", "valkey")

# Keep compiled modules: each worker compiles all tests otherwise, and each process the package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# No test trusts an authority of this machine, and each process takes a tenth of a second to read them.
os.environ["SSL_CERT_FILE"] = os.devnull
# No test meets a relay or a store of this machine. What says how to test stays.
for _name in [name for name in os.environ if name.startswith("CLAWLINK_")]:
    if not _name.startswith(("CLAWLINK_TEST_", "CLAWLINK_TORTURE")):
        del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--loops`` and ``--stores``: what the tests run on."""
    parser.addoption(
        "--loops",
        choices=["marked", "all"],
        default="marked",
        help="run each asynchronous test on asyncio and uvloop, or only those marked both_loops (the default)",
    )
    parser.addoption(
        "--stores",
        choices=["marked", "all", *STORES],
        default="marked",
        help="run each test of a relay on all stores, on one of them, or as it is marked: both_stores adds the faulty "
        "one, durable that in SQLite, shared that on a Valkey server (the default)",
    )


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the pages out where there is no browser to open them; ``pytest_terminal_summary`` says so."""
    if collection_path == Path(programs.__file__).parent and programs.missing():
        return True
    return True if collection_path.name == "page" and programs.no_browser() else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each thing that was left out."""
    missing = programs.missing()
    if missing:
        terminalreporter.write_line(f"left out: tests/browser, since {missing} (see tests/browser/programs.py)")
    if (no_browser := programs.no_browser()) is not None:
        terminalreporter.write_line(f"left out: the tests of pages, since {no_browser}")
    absent = shells.left_out()
    if absent:
        terminalreporter.write_line(f"left out: {absent}")
    if (no_client := mcp_programs.left_out()) is not None:
        terminalreporter.write_line(f"left out: {no_client}")
    if (no_server := valkey.left_out()) is not None:
        terminalreporter.write_line(f"left out: {no_server}")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run a test on asyncio, and on uvloop as well if its rule waits or times and is marked ``both_loops``.

    A test that is marked ``virtual_time`` runs on a loop of its own, and not on uvloop: its clock cannot be moved.
    """
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": VirtualLoop}
    if config.getoption("--loops") == "all" or item.get_closest_marker("both_loops") is not None:
        return _LOOPS
    return {"asyncio": asyncio.new_event_loop}


def both_stores(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``store_kind`` on the stores for which it is marked, or on those that all are to."""
    if "store_kind" not in metafunc.fixturenames:
        return
    marked = metafunc.definition.get_closest_marker("both_stores") is not None
    durable = metafunc.definition.get_closest_marker("durable") is not None
    shared = metafunc.definition.get_closest_marker("shared") is not None
    own = hasattr(metafunc.module, "store_kind") or any(
        "store_kind" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")
    )
    if own:
        return
    asked = metafunc.config.getoption("--stores")
    kinds = [
        *("memory", *(["faulty"] if marked else []), *(["sqlite"] if durable else []), *(["valkey"] if shared else []))
    ]
    if asked != "marked":
        kinds = list(STORES) if asked == "all" else [asked]
    if metafunc.definition.get_closest_marker("virtual_time") is not None:  # a thread and a server take real time
        kinds = [kind for kind in kinds if kind not in ("sqlite", "valkey")] or ["memory"]
    if kinds != ["memory"]:
        metafunc.parametrize("store_kind", kinds, indirect=True)


@dataclass
class Running:
    """A relay in this process, reached over a real socket, and a session to ask it with."""

    url: str
    app: App
    session: aiohttp.ClientSession

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """GET and return status and JSON."""
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """POST JSON and return status and JSON."""
        return await self.ask("POST", path, json=body, **options)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send any request and return status and JSON."""
        async with self.session.request(method, self.url + path, **options) as response:
            return response.status, await response.json(content_type=None)

    async def register(self, name: str, **fields: Any) -> str:
        """Register an agent and return its id."""
        status, body = await self.post("/register", {"name": name, **fields})
        assert status == 200, body
        agent_id: str = body["agent"]["agent_id"]
        return agent_id


Serve = Callable[..., Awaitable[Running]]

# How long an example takes says more about what else the machine does.
hypothesis.settings.register_profile("clawlink", deadline=None, max_examples=size(30, 100, 500))
hypothesis.settings.load_profile("clawlink")

# For a test that sends more at once than one agent may: ``await serve(limits=UNPACED)``.
UNPACED = {"rate_agent": 0.0, "rate_pair": 0.0, "rate_copies": 0.0, "rate_register": 0.0, "rate_files": 0.0}


def make_store(kind: str) -> Store:
    """Return a store: the default one, or the same behind injected conflicts, delays and stale index reads."""
    if kind != "faulty":
        return MemoryStore()
    return FaultyStore(MemoryStore(), random.Random(20261121), conflicts=0.1, delays=0.3, stale=0.2)


# Where tests start processes or wait: these begin first, so that no worker is left alone with them at the end.
_LONG = (
    *("system", "relay/test_task_machine", "store/test_machine", "bench", "page", "doors/portal/page"),
    *("doors/portal/test_bench", "test_", "cli", "wake", "doors", "client", "store", "server"),
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among the collected tests: they all stay, and each process would look a second for it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix()
        return next((n for n, long in enumerate(_LONG) if name.startswith(long)), len(_LONG))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """Leave the log of the package as it was before a relay or a command set it up: later tests read it."""
    log = logging.getLogger("clawlink")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that ``serve`` uses: ``memory``, ``sqlite``, or ``faulty``, which gives only what a store must."""
    kind: str = getattr(request, "param", "memory")
    return kind


@pytest.fixture
async def serve(store_kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """Start relays on free loopback ports: ``await serve(token=..., limits={...})``.

    Those with the same ``mesh`` share a store on a Valkey server. A test that joins one by itself also leaves it.
    """
    apps: list[App] = []
    meshes: list[Mesh] = []
    folders: list[DataFolder] = []
    sessions: list[aiohttp.ClientSession] = []

    async def start(
        *,
        limits: dict[str, Any] | None = None,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
        mesh: str | Mesh | None = None,
        **options: Any,
    ) -> Running:
        config = replace(ServerConfig(port=0, limits=Limits(**(limits or {}))), **options)
        if clock is None and isinstance(asyncio.get_running_loop(), VirtualLoop):
            clock = Clock()
        data = None
        if store_kind == "sqlite" and store is None:
            data = DataFolder(tempfile.mkdtemp(prefix="clawlink-"), sync="normal")
            folders.append(data)
        joined = mesh if isinstance(mesh, Mesh) else None
        if joined is None and (mesh is not None or (store_kind == "valkey" and store is None)):
            server: valkey.Server = request.getfixturevalue("valkey")
            prefix = mesh if isinstance(mesh, str) else next(_MESHES)
            # A mesh keeps its folder for contents, also over several tests.
            of_meshes: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
            blobs = config.blobs or str(of_meshes.getbasetemp() / f"blobs-{prefix}")
            joined = await Mesh.open(server.url, prefix=prefix, blobs=blobs, steady=steady_clock())
            meshes.append(joined)
        own = None if data or joined else store or make_store(store_kind)
        app = App(config, store=own, clock=clock, data=data, mesh=joined)
        apps.append(app)
        port = await app.start(close_seconds=0.1)
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        sessions.append(session)
        return Running(f"http://127.0.0.1:{port}", app, session)

    yield start
    for session in sessions:
        await session.close()
    for app in apps:
        await app.stop()
    for joined in meshes:
        await joined.close()
    for data in folders:
        data.close()
        shutil.rmtree(data.path)


@dataclass
class RelayProcess:
    """A relay in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    banner: str

    def stop(self, number: int = signal.SIGTERM, *, within: float = PATIENCE) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)


Start = Callable[..., RelayProcess]


@pytest.fixture
def loop_kind(request: pytest.FixtureRequest) -> str:
    """Name the event loop of a relay that is a process of its own: that of the test, or asyncio."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    return next((kind for kind, factory in _LOOPS.items() if factory in parameters.values()), "asyncio")


@pytest.fixture
def start_relay(loop_kind: str, tmp_path: Path) -> Iterator[Start]:
    """Start relays as processes: ``start_relay("--token", "t", env={...})``; they are killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str, env: dict[str, str] | None = None) -> RelayProcess:
        command = [sys.executable, "-m", "clawlink.server", *(("--port", "0") if "--port" not in flags else ()), *flags]
        own = {"CLAWLINK_LOOP": loop_kind, "CLAWLINK_HOME": str(tmp_path / "relay-home")}
        environment = {**own, **os.environ, **(env or {})}
        process = Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        banner = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"listening on (\S+)", banner)
        assert found, f"the relay did not start: {banner!r}"
        return RelayProcess(found[1], process, banner)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def clawlink_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account of its own: no identity, no settings."""
    for name in [name for name in os.environ if name.startswith("CLAWLINK_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "clawlink-home"
    monkeypatch.setenv("CLAWLINK_HOME", str(home))
    return home


@pytest.fixture
async def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until something is true: ``await until(lambda: relay.waiting == 1)``."""
    return waiting.until


@pytest.fixture(scope="session", name="valkey")
def valkey_server() -> Iterator[valkey.Server]:
    """Run a Valkey server for all tests of this process; each takes a mesh of its own."""
    if valkey.program() is None:
        pytest.skip("there is no valkey-server here")
    with valkey.running() as server:
        server.url = server.patient_url
        yield server
