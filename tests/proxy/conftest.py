"""A relay behind nginx or Caddy, each configured as references/operations.md says. Run by ``make test-proxy``."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.client.sync import Client
from tests.binaries import find
from tests.conftest import RelayProcess, Start
from tests.operations import NAME, Authority, block, make_authority, replaced
from tests.ports import free_port
from tests.waiting import PATIENCE, wait_until

TOKEN = "the-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
_RELAY = "127.0.0.1:9077"
_CERT, _KEY = "/etc/clawlink/relay.pem", "/etc/clawlink/relay-key.pem"
_STOP_SECONDS = 3.0


@dataclass
class Behind:
    """A relay behind a proxy that does TLS for it."""

    proxy: str
    url: str
    authority: Authority
    relay: RelayProcess
    log: Path
    restart_relay: Callable[[], RelayProcess]

    @property
    def trusting(self) -> ssl.SSLContext:
        """The context that trusts the CA of the proxy's certificate."""
        return ssl.create_default_context(cafile=self.authority.ca)

    def connection(self) -> http.client.HTTPSConnection:
        """Return a bare connection to the proxy."""
        place = self.url.removeprefix("https://")
        return http.client.HTTPSConnection(place, context=self.trusting, timeout=PATIENCE)

    def client(self, **options: Any) -> Client:
        """Return a client that goes through the proxy."""
        return Client(self.url, token=TOKEN, ca=self.authority.ca, **options)


def nginx(folder: Path, port: int, relay: str, authority: Authority) -> list[str]:
    """Write nginx's configuration, and return the command that runs it."""
    site = replaced(
        block("nginx", "proxy_pass"),
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",
            _RELAY: relay,
            _CERT: authority.cert,
            _KEY: authority.key,
            "/var/log/nginx/clawlink.log": str(folder / "access.log"),
        },
    )
    (folder / "clawlink.conf").write_text(site)
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{name}_temp_path {folder / name};" for name in places)
    # Started by root, its workers would be somebody who may not read what the tests have written.
    as_whom = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    main = f"daemon off;\n{as_whom}\npid {folder / 'nginx.pid'};\nerror_log {folder / 'error.log'};\n"
    limits = replaced(block("nginx", "worker_connections"), {"65536": "1024", "32768": "512"})
    http = f"http {{\n{temporary}\ninclude {folder / 'clawlink.conf'};\n}}\n"
    (folder / "nginx.conf").write_text(main + limits + http)
    return [str(find("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def caddy(folder: Path, port: int, relay: str, authority: Authority) -> list[str]:
    """Write Caddy's configuration, and return the command that runs it."""
    site = replaced(
        block("caddy", "reverse_proxy"),
        {
            f"{NAME} {{": f"https://{NAME}:{port}, https://127.0.0.1:{port} {{",
            _RELAY: relay,
            _CERT: authority.cert,
            _KEY: authority.key,
        },
    )
    ours = (
        f"{{\nadmin off\nauto_https disable_redirects\nskip_install_trust\nstorage file_system {folder}/storage\n}}\n"
    )
    (folder / "Caddyfile").write_text(ours + site)
    return [str(find("caddy")), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


_PROXIES = {"nginx": nginx, "caddy": caddy}


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a proxy until it listens, and end it in the end."""
    said = folder / "output.txt"
    homes = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    with said.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **homes}
        )
    try:

        def listens() -> bool:
            assert process.poll() is None, f"{command[0]} has ended:\n{said.read_text()}"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                return False
            return True

        wait_until(listens, say=lambda: f"{command[0]} does not listen:\n{said.read_text()}")
        yield
    finally:
        process.terminate()  # a master that is killed would leave its workers behind
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for connections that nobody closes
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def door_flags() -> tuple[str, ...]:
    """Return the flags that open a door of the relay."""
    return ()


@pytest.fixture(params=list(_PROXIES))
def behind(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    start_relay: Start,
    authority: Authority,
    door_flags: tuple[str, ...],
) -> Iterator[Behind]:
    """Run a relay, and a proxy before it."""
    if not os.environ.get("CLAWLINK_TEST_PROXY"):
        pytest.skip("make test-proxy runs this")
    name: str = request.param
    assert find(name) is not None, f"there is no {name}; see: python -m tests.binaries nginx caddy"

    def start(*flags: str) -> RelayProcess:
        known = ("--host", "127.0.0.1", "--allow-host", NAME, *door_flags)
        return start_relay(*known, *flags, env={"CLAWLINK_TOKEN": TOKEN})

    relay, port = start(), free_port()
    address = relay.url.removeprefix("http://")
    command = _PROXIES[name](tmp_path, port, address, authority)
    with running(command, port, tmp_path):
        yield Behind(
            name,
            f"https://127.0.0.1:{port}",
            authority,
            relay,
            tmp_path / "access.log",
            lambda: start("--port", re.findall(r"\d+$", address)[0]),
        )


@pytest.fixture
async def session(behind: Behind) -> AsyncIterator[aiohttp.ClientSession]:
    """Ask through the proxy, with the token."""
    connector = aiohttp.TCPConnector(ssl=behind.trusting)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(behind.url, headers=BEARER, connector=connector, timeout=timeout) as session:
        yield session
