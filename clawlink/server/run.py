"""Run a relay until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from clawlink.config import SECRET, ServerConfig
from clawlink.errors import ClawLinkError
from clawlink.relay.error_mapping import NO_THREAD, is_no_thread
from clawlink.relay.timestamps import steady_clock
from clawlink.server.accepting import require_free
from clawlink.server.app import App
from clawlink.server.banner import EVERYWHERE, banner, url_of, warnings
from clawlink.server.keys import noted, with_secrets
from clawlink.server.logs import set_up
from clawlink.server.memory_limit import memory_warning
from clawlink.server.threads import Threads
from clawlink.store.base import Store
from clawlink.timeouts import wait_for
from clawlink.version import VERSION, extra_command, former_distribution

if TYPE_CHECKING:
    from clawlink.store.sqlite.folder import DataFolder
    from clawlink.store.valkey.mesh import Mesh

_log = logging.getLogger("clawlink.server")
_CLOSE_SECONDS = 1.0
# Once all is stored, the process waits this long for calls in threads, as for a name server that is silent.
_LAST_SECONDS = 1.0
# How often the relay looks whether its store can still be written.
_LOOK_SECONDS = 1.0
# On an earlier uvloop a reply to an old poll counts as read though its reader died: the message is lost.
_LEAST_UVLOOP = (0, 23)
# New objects until the garbage collector looks at them, which takes 4 ms.
_GC_THRESHOLD = 15_000
# The numbers of open files to ask for, one after the other. The hard limit of macOS is "unlimited", which it refuses,
# as all above `kern.maxfilesperproc`.
_OPEN_FILES = (65_536, 24_576, 10_240, 4_096, 1_024)


class _Refused(Exception):
    """The relay cannot start. The first argument is the exit code, the second a sentence."""


def run(config: ServerConfig) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Returns the exit code."""
    _open_standard_streams()
    set_up(config.log_level, as_json=config.log_json)
    if (former := former_distribution()) is not None:
        _log.warning(former)
    _allow_many_connections()
    try:
        run_loop = _runner(config.loop)
    except ImportError:
        least = ".".join(map(str, _LEAST_UVLOOP))
        print(
            f"clawlink: --loop uvloop needs the package uvloop, {least} or later; in a checkout of ClawLink: "
            f"{extra_command('uvloop')}, or use --loop asyncio",
            file=sys.stderr,
        )
        return 1
    last = _Last()
    try:
        run_loop(_serve(config, last))
    except _Refused as refused:
        code, why = refused.args
        print(f"clawlink: {why}", file=sys.stderr)
        return int(code)
    except OSError as error:
        where = f"{config.host} port {config.port}"
        print(f"clawlink: cannot listen on {where}: {error.strerror or error}{_way_on(error, config)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_no_thread(error):
            raise
        print(f"clawlink: {NO_THREAD}, and start it again", file=sys.stderr)
        return 1
    except ClawLinkError as error:  # of a store, or of a door that cannot open
        print(f"clawlink: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        last.cancel()
    return 0


class _Last:
    """The end of a process whose event loop does not end: each loop waits until all calls in its threads return."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begin(self, code: int) -> None:
        """End the process with this exit code in a moment, unless the event loop ends before."""
        self._timer = threading.Timer(_LAST_SECONDS, self._end, [code])
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # the system gives no thread
            self._timer.start()

    def cancel(self) -> None:
        """Note that the event loop has ended."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _end(code: int) -> None:
        logging.shutdown()
        os._exit(code)


def _open_standard_streams() -> None:
    """Open at nothing the standard streams that came closed.

    Otherwise a socket gets such a number: uvloop aborts the process when it closes it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _way_on(error: OSError, config: ServerConfig) -> str:
    if error.errno == errno.EADDRINUSE:
        url = url_of(config, "127.0.0.1" if config.host in EVERYWHERE else config.host, config.port)
        there = f"clawlink --relay {url} relay info"
        return f"; a relay may run there already (see: {there}), or choose another port with --port"
    if error.errno == errno.EACCES:
        return "; this account may not have this port: choose another with --port, above 1023"
    if isinstance(error, socket.gaierror) or error.errno in (None, errno.EADDRNOTAVAIL):
        return "; --host takes an address or a name of this machine, as 127.0.0.1, or 0.0.0.0 for all of them"
    return ""


def _allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one: every waiting agent holds a connection."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for files in (hard, *_OPEN_FILES):
        if soft == resource.RLIM_INFINITY or (files != resource.RLIM_INFINITY and files <= soft):
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            return


def _runner(loop: str) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return the function that runs the event loop named by ``--loop``. Raises ImportError if it is not installed.

    A uvloop that is too old counts as not installed.
    """
    if loop == "asyncio":
        return asyncio.run
    try:
        import uvloop

        version = str(vars(uvloop)["__version__"])
        if tuple(map(int, version.split(".")[:2])) < _LEAST_UVLOOP:
            raise ImportError(f"uvloop {version} is too old")
    except ImportError:
        if loop == "uvloop":
            raise
        return asyncio.run
    run_with_uvloop: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
    return run_with_uvloop


class _Kept(NamedTuple):
    """The folder of ``--data`` or the server of ``--store``, if the relay has either."""

    data: DataFolder | None = None
    mesh: Mesh | None = None


@contextlib.asynccontextmanager
async def _kept(config: ServerConfig) -> AsyncIterator[_Kept]:
    """Open what keeps the records, and close it at the end. Raises ClawLinkError."""
    if config.data is not None:
        data = _data_folder(config.data, config.sync)
        try:
            yield _Kept(data=data)
        finally:
            data.close()
    elif config.store is not None:
        mesh = await open_mesh(config, config.store)
        try:
            yield _Kept(mesh=mesh)
        finally:
            await mesh.close()
    else:
        yield _Kept()


def _is_new(folder: str) -> bool:
    """Return True if there is no folder, or an empty one."""
    try:
        return not os.listdir(folder)
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def _data_folder(path: str, sync: str) -> DataFolder:
    from clawlink.store.sqlite.database import DataFolderError
    from clawlink.store.sqlite.folder import DataFolder

    data = DataFolder(path, sync=sync)
    secret = data.path / SECRET
    if data.store.last_alive is not None and not (secret.is_file() and secret.stat().st_size):
        data.close()
        raise DataFolderError(
            f"{secret} is missing or empty, and {data.path} has records: agents would meet another relay, and their "
            "keys would be wrong; restore the file from a backup, or write a new secret into it if it is lost"
        )
    return data


async def open_mesh(config: ServerConfig, url: str) -> Mesh:
    """Join the mesh of a configuration. Raises ClawLinkError, StoreError."""
    try:
        from clawlink.store.valkey.mesh import Mesh
    except ImportError as error:
        missing = f" ({error})" if error.name not in ("redis", "hiredis") else ""
        raise ClawLinkError(
            f"--store needs the package redis{missing}; in a checkout of ClawLink: {extra_command('redis')}"
        ) from None
    return await Mesh.open(
        url,
        prefix=config.store_prefix,
        blobs=config.blobs,
        steady=steady_clock(),
        replicas=config.store_replicas,
    )


async def _serve(config: ServerConfig, last: _Last) -> None:
    asyncio.get_running_loop().set_default_executor(Threads())
    try:
        await _serve_kept(config)
    except ClawLinkError:
        last.begin(1)
        raise
    last.begin(0)


async def _serve_kept(config: ServerConfig) -> None:
    if config.data is None or _is_new(config.data):
        await require_free(config.host, config.port)  # a start that fails there makes no folder and no token
    async with _kept(config) as kept:
        try:
            config = with_secrets(config, os.environ)
        except ValueError as error:
            raise _Refused(2, str(error)) from None
        try:
            tls = _tls(config)
        except OSError as error:
            files = f"{config.tls_cert} with the key {config.tls_key}"
            raise _Refused(1, f"cannot use the certificate {files}: {error.strerror or error}") from None
        await _serve_until_told(config, tls, kept)


async def _serve_until_told(config: ServerConfig, tls: ssl.SSLContext | None, kept: _Kept) -> None:
    data, mesh = kept
    stop = asyncio.Event()
    _on_signals(stop)
    app = App(config, data=data, mesh=mesh)
    port = await app.start(tls=tls, close_seconds=_CLOSE_SECONDS)
    with noted(config, port, os.environ):
        await _listen_until_told(config, app, port, kept, stop)


async def _listen_until_told(config: ServerConfig, app: App, port: int, kept: _Kept, stop: asyncio.Event) -> None:
    """Tell the operator where the relay listens, and serve until it is told to stop."""
    data, mesh = kept
    untold = _tell([*banner(config, port), *(line for door in app.doors.values() for line in door.news())])
    facts = {"address": config.host, "port": port, "version": VERSION, "tls": config.tls_cert is not None}
    _log.info("listening", extra=facts)
    if untold is not None:
        _log.warning(
            "standard output does not take the lines that tell how to join; the relay goes on",
            extra={"reason": untold},
        )
    if untold is not None or config.log_json or not _in_one_place():
        for warning in warnings(config):  # its reader has just read them otherwise
            _log.warning(warning)
    if data is not None:
        _log.info(
            "the data folder keeps all records; references/operations.md lists what a stop loses",
            extra={"folder": str(data.path)},
        )
        for warning in data.warnings:
            _log.warning(warning)
    if data is None and mesh is None and (too_little := memory_warning(config.limits)) is not None:
        _log.warning(too_little)
    if mesh is not None:
        _log.info("everything is kept on the server of the store", extra={"server": mesh.server})
        for warning in mesh.warnings:
            _log.warning(warning)
    # Objects of this moment live as long as the process: the collector need not look at them again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    async with _announced(config, port):
        broken = await _told_to_stop(stop, app.store)
    _log.info("draining")
    await app.relay.drain()
    await app.grace()
    await app.stop()
    _log.info("stopped")
    if broken is not None:  # a service manager starts the relay again, and it reads what the disk has
        raise ClawLinkError(f"the relay has stopped, because it cannot write to {config.data or 'its store'}: {broken}")


def _in_one_place() -> bool:
    """Return True if standard output and standard error have the same reader: a terminal, a file, or a journal."""
    if os.isatty(1) and os.isatty(2):
        return True
    try:
        out, err = os.fstat(1), os.fstat(2)
    except OSError:
        return False
    return out.st_ino != 0 and os.path.samestat(out, err)  # Windows tells no number of a pipe


def _tell(lines: Iterable[str]) -> str | None:
    """Print lines for the operator. Return the reason if standard output does not take them: the relay goes on."""
    try:
        for line in lines:
            print(line, flush=True)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            # The rest of them would fail again at the end, and change the exit code.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)
        return getattr(error, "strerror", None) or str(error)
    return None


async def _told_to_stop(stop: asyncio.Event, store: Store) -> str | None:
    """Wait until the relay is to stop. Return the reason if its store can commit nothing any more."""
    while not stop.is_set():
        if (broken := store.broken) is not None:
            _log.critical("nothing can be written to the store", extra={"reason": broken})
            return broken
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(stop.wait(), _LOOK_SECONDS)
    return None


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    # The end of the terminal, unless the parent process has it ignored, as nohup does.
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        numbers.append(hang_up)

    def first() -> None:
        stop.set()
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        try:
            loop.add_signal_handler(number, first)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(first))


def _tls(config: ServerConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(config.tls_cert, config.tls_key)
    return context


@contextlib.asynccontextmanager
async def _announced(config: ServerConfig, port: int) -> Any:
    """Announce the relay on the local network while it runs, where that makes sense and zeroconf is installed."""
    if config.on_loopback or not config.mdns:
        yield
        return
    from clawlink.lan import announce, reachable_at

    try:
        announcement = await announce(
            port, auth=config.token is not None, tls=config.tls_cert is not None, address=reachable_at(config.host)
        )
    except ImportError:
        _log.info(
            "not announced on the local network, as zeroconf is missing; in a checkout of ClawLink: "
            + extra_command("lan")
        )
        yield
        return
    except OSError as error:
        _log.warning("not announced on the local network", extra={"reason": str(error)})
        yield
        return
    try:
        yield
    finally:
        await announcement.close()
