"""The relay against its own /openapi.json."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests

from clawlink.config import ServerConfig
from clawlink.server.openapi import document
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE

_ROOT = Path(__file__).parents[2]


@pytest.mark.storm
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis wants Python 3.11")
def test_replies_are_as_documented() -> None:
    """Run ``schema_operations.py``: for every operation, whatever the document allows and whatever it does not."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=-q"]
    cases = "tests/system/schema_operations.py"
    done = subprocess.run([*command, cases], cwd=_ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-20_000:]
    passed = int(done.stdout.rpartition(" passed")[0].split()[-1])
    assert passed == sum(map(len, json.loads(document())["paths"].values())) - 2  # the streams of events go on


def test_a_client_that_follows_the_document_writes_reads_and_uploads() -> None:
    """With nothing but the parameters that it says are needed, and the examples that it gives for them."""
    document_: dict[str, Any] = json.loads(document())
    with relay_in_thread(ServerConfig(port=0)) as relay, requests.Session() as session:
        session.post(relay + "/register", json={"agent_id": "agent"}, timeout=PATIENCE)

        def follow(method: str, path: str, url: str, body: bytes | None = None) -> requests.Response:
            told = document_["paths"][path][method.lower()]
            needed = [p for p in told["parameters"] if p["in"] == "header" and p["required"]]
            headers = {p["name"]: str(p["example"]) for p in needed}
            if body is not None:
                (kind,) = told["requestBody"]["content"]
                headers["Content-Type"] = kind.replace("*/*", "text/plain")
            done = session.request(method, relay + url, data=body, headers=headers, timeout=PATIENCE)
            assert done.ok, (method, path, done.text)
            named = {name.lower() for name in done.headers}
            assert {h for h in told["responses"]["2XX"].get("headers", ()) if h.lower() not in named} <= {
                "ClawLink-Version",
                "ClawLink-SHA256",
                "ClawLink-Owner",
                "ClawLink-Readers",
                "Upload-Defer-Length",
                "Upload-Metadata",
            }, (method, path)
            return done

        follow("PUT", "/blobs/{file_key}", "/blobs/followed", b"abc")
        assert follow("GET", "/blobs/{file_key}", "/blobs/followed").content == b"abc"
        follow("HEAD", "/blobs/{file_key}", "/blobs/followed")
        follow("OPTIONS", "/uploads", "/uploads")
        where = follow("POST", "/uploads", "/uploads").headers["Location"]
        follow("HEAD", "/uploads/{upload_id}", where)
        follow("POST", "/uploads/{upload_id}", where, b"")
        assert "ClawLink-SHA256" in follow("PATCH", "/uploads/{upload_id}", where, b"abc").headers
        follow("DELETE", "/uploads/{upload_id}", where)
