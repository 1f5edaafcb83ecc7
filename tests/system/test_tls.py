"""TLS with a certificate of one's own, or of a CA of one's own: who trusts it, and what then works."""

from __future__ import annotations

import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from clawlink.cli.main import main
from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.errors import NotARelay, RelayUnreachable
from tests.conftest import RelayProcess, Start
from tests.operations import Authority, make_authority
from tests.processes import run
from tests.system.raw import address
from tests.waiting import PATIENCE
from tests.websockets import connected

DATA = Path(__file__).parent.parent / "data"


class Certificate(NamedTuple):
    """A certificate and its key, as PEM files."""

    cert: str
    key: str


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make a certificate for 127.0.0.1 that nobody has signed but itself."""
    if shutil.which("openssl") is None:
        return Certificate(str(DATA / "tls-cert.pem"), str(DATA / "tls-key.pem"))
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made.key, "-out", made.cert]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture
def relay(start_relay: Start, certificate: Certificate) -> RelayProcess:
    return start_relay("--tls-cert", certificate.cert, "--tls-key", certificate.key, "--token", "t")


def test_a_client_that_trusts_the_certificate_works(relay: RelayProcess, certificate: Certificate) -> None:
    assert relay.url.startswith("https://127.0.0.1:")
    with Client(relay.url, token="t", ca=certificate.cert) as client:
        assert client.health().status == "ok"
        client.register("ann")
        assert [a.name for a in client.discover().agents] == ["ann"]


def test_a_client_that_does_not_trust_it_says_so(relay: RelayProcess) -> None:
    with Client(relay.url, token="t") as client, pytest.raises(NotARelay, match="TLS"):
        client.health()


def test_plain_http_is_not_answered(relay: RelayProcess) -> None:
    client = Client(relay.url.replace("https", "http"), token="t", timeout=5, backoff=Backoff(tries=1))
    with client, pytest.raises((NotARelay, RelayUnreachable)):
        client.health()


def test_the_command_that_joins_works_as_it_stands(
    relay: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWLINK_HOME", str(tmp_path))
    command = shlex.split(relay.banner.splitlines()[1].partition(":  ")[2])
    assert command[:3] == ["clawlink", "--relay", relay.url]
    assert relay.url.startswith("https://")
    assert main(command[1:]) == 0


def test_a_page_of_the_relays_own_https_origin_is_served(relay: RelayProcess, certificate: Certificate) -> None:
    trusting = ssl.create_default_context(cafile=certificate.cert)
    host, port = address(relay.url)
    with socket.create_connection((host, port)) as raw, trusting.wrap_socket(raw, server_hostname=host) as tls:
        lines = f"GET /healthz HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {relay.url}\r\nConnection: close\r\n\r\n"
        tls.sendall(lines.encode())
        assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize("missing", ["cert", "key", "both"])
def test_files_that_are_not_there_or_no_pem_end_it_with_a_sentence(
    certificate: Certificate, tmp_path: Path, missing: str
) -> None:
    nothing, nonsense = str(tmp_path / "none.pem"), str(tmp_path / "nonsense.pem")
    Path(nonsense).write_text("nonsense")
    cert, key = {
        "cert": (nothing, certificate.key),
        "key": (certificate.cert, nothing),
        "both": (nonsense, nonsense),
    }[missing]
    command = [sys.executable, "-m", "clawlink.server", "--port", "0", "--tls-cert", cert, "--tls-key", key]
    done = run(command, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "certificate" in done.stderr
    assert cert in done.stderr or key in done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a CA, and a certificate that it signed, with the commands of references/operations.md."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def signed(start_relay: Start, authority: Authority) -> RelayProcess:
    return start_relay("--tls-cert", authority.cert, "--tls-key", authority.key, "--token", "t")


def test_who_trusts_the_ca_trusts_what_it_signed(signed: RelayProcess, authority: Authority) -> None:
    for url in (signed.url, signed.url.replace("127.0.0.1", "localhost")):
        with Client(url, token="t", ca=authority.ca) as client:
            assert client.info().auth_required


def test_who_does_not_or_trusts_another_is_told(
    signed: RelayProcess, relay: RelayProcess, authority: Authority, certificate: Certificate
) -> None:
    for url, ca in ((signed.url, None), (signed.url, certificate.cert), (relay.url, authority.ca)):
        with Client(url, token="t", ca=ca) as client, pytest.raises(NotARelay, match="TLS"):
            client.health()


async def test_a_websocket_over_tls(signed: RelayProcess, authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=authority.ca)
    bearer = {"Authorization": "Bearer t"}
    async with aiohttp.ClientSession(signed.url, headers=bearer) as session:

        async def post(path: str, **body: object) -> dict[str, str]:
            async with session.post(path, json=body, ssl=trusting) as response:
                reply: dict[str, str] = await response.json()
                assert response.status == 200, reply
                return reply

        for name in ("ann", "bob"):
            await post("/register", agent_id=name)
        place = f"{signed.url.replace('https', 'wss')}/ws/bob?lease=60"
        async with connected(session, place, ssl=trusting) as stream:
            task = await post("/delegate", from_agent="ann", to_agent="bob", task="count")
            message = await stream.frame()
            assert (message["task"], message["message_id"]) == ("count", task["message_id"])
            acked = await stream.reply(type="ack", receipts=[message["delivery"]["receipt"]])
            assert acked["results"][0]["status"] == "acked"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.ws_connect(place)
