"""Signed cards: the official SDK and the relay check each other's signatures, and no change passes."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_agent_card_signer, create_signature_verifier
from google.protobuf.json_format import MessageToDict, ParseDict
from jwt.api_jwk import PyJWK

from clawlink.doors.a2a import cards
from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.signatures import Claim, Key, canonical, claims, make_key, read_key, verify
from clawlink.errors import BadRequest, NameTaken
from tests.conftest import Serve
from tests.doors.a2a.conftest import Rest

JKU = "https://x/.well-known/jwks.json"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key") / "key.pem")


def card() -> dict[str, Any]:
    also = cards.presence("online", "2026-05-13T06:51:00.000Z")
    return cards.agent_card(
        "https://x/a2a/b", "Bób \u2028", "", ["python", "größe"], bearer=True, waits=86400.0, also=also
    )


def keys(key: Key) -> bytes:
    return json.dumps({"keys": [{"kty": "RSA"}, key.jwk]}).encode()


def test_the_sdk_takes_a_card_that_the_relay_signed(key: Key) -> None:
    signed = key.sign(card(), JKU)
    read = ParseDict(signed, pb.AgentCard())
    check = create_signature_verifier(lambda kid, jku: PyJWK(key.jwk), ["ES256"])
    check(read)
    read.description = "another"
    with pytest.raises(Exception, match="No valid signature"):
        check(read)


def test_the_relay_takes_a_card_that_the_sdk_signed(key: Key, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    own = make_key(path)
    sign = create_agent_card_signer(path.read_text(), {"alg": "ES256", "kid": "any", "jku": JKU, "typ": "JOSE"})
    signed = MessageToDict(sign(ParseDict(card(), pb.AgentCard())))
    (claim,) = claims(signed)
    assert (claim.kid, claim.jku) == ("any", JKU)
    assert verify(signed, claim, keys(own)) == own.kid
    with pytest.raises(BadRequest):
        verify(signed, claim, keys(key))


def test_fields_of_0_3_that_came_after_the_signature_change_nothing(key: Key) -> None:
    signed = key.sign(card(), JKU)
    (claim,) = claims(signed)
    for served in (v0_3.card(signed), agent_card_to_dict(ParseDict(signed, pb.AgentCard()))):
        assert served["url"]
        assert verify(served, claim, keys(key)) == key.kid
        with pytest.raises(BadRequest):
            verify({**served, "name": "Eve"}, claim, keys(key))


def test_no_change_of_a_signed_card_passes(key: Key) -> None:
    signed = key.sign(card(), JKU)
    (claim,) = claims(signed)
    assert verify(signed, claim, keys(key)) == key.kid
    for change in (
        {"name": "Eve"},
        {"supportedInterfaces": [{**signed["supportedInterfaces"][0], "url": "https://evil/"}]},
        {"more": 1},
        {"skills": signed["skills"][:1]},
        {"name": float("inf")},
        {"name": 2**60},
    ):
        with pytest.raises(BadRequest):
            verify({**signed, **change}, claim, keys(key))
    # Members in another order and defaults are the same card.
    again = dict(reversed(signed.items())) | {"iconUrl": "", "documentationUrl": None}
    assert verify(again, claim, keys(key)) == key.kid
    for other in (b"{", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}'):
        with pytest.raises(BadRequest):
            verify(signed, claim, other)
    short = Claim(claim.kid, claim.jku, claim.protected, "AAAA")
    with pytest.raises(BadRequest):
        verify(signed, short, keys(key))


def test_only_signatures_that_can_be_checked_are_claims() -> None:
    def protected(**header: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")

    good = {"protected": protected(alg="ES256", kid="k", jku=JKU), "signature": "s"}
    for given, found in (
        (None, 0),
        ("x", 0),
        ([], 0),
        ([None, 5, "x", {}, {"protected": 5, "signature": "s"}, {"protected": "é", "signature": "s"}], 0),
        ([{"protected": protected(alg="none", kid="k", jku=JKU), "signature": "s"}], 0),
        ([{"protected": protected(alg="HS256", kid="k", jku=JKU), "signature": "s"}], 0),
        ([{"protected": protected(alg="ES256", kid="k"), "signature": "s"}], 0),
        ([good, good], 2),
    ):
        assert len(claims({"signatures": given})) == found, given


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    given = {"b": 1.0, "a": {"z": [], "y": [{}], "x": ""}, "\u20ac": "\u000f\n", "required": False, "signatures": [1]}
    assert canonical(given) == '{"b":1,"€":"\\u000f\\n"}'.encode()


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key.pem"
    made = make_key(path)
    assert read_key(path).kid == made.kid
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NameTaken):
        make_key(path)
    path.write_text("no key")
    with pytest.raises(BadRequest):
        read_key(path)


async def test_each_card_of_a_relay_with_a_key_is_signed(serve: Serve, tmp_path: Path) -> None:
    from clawlink.doors.a2a import Settings

    path = tmp_path / "key.pem"
    own = make_key(path)
    relay = await serve(doors={"a2a": Settings(on=True, key=str(path))})
    await relay.register("bob", agent_id="bob", capabilities=["python"])
    _, published = await relay.get("/.well-known/jwks.json")
    rest = Rest(relay, "/a2a/bob")
    for shown in (
        (await relay.get("/.well-known/agent-card.json"))[1],
        (await rest.get("/.well-known/agent-card.json"))[1],
        (await rest.get("/extendedAgentCard"))[1],
        (await Rest(relay, "/a2a-pools/python").get("/.well-known/agent-card.json"))[1],
    ):
        (claim,) = claims(shown)
        assert claim.jku == f"{relay.url}/.well-known/jwks.json"
        assert verify(shown, claim, json.dumps(published).encode()) == own.kid
    _, again = await rest.get("/.well-known/agent-card.json")
    assert again == (await rest.get("/.well-known/agent-card.json"))[1], "the same card has the same signature"
    without = await serve(doors={"a2a": Settings(on=True)})
    assert (await without.get("/.well-known/jwks.json"))[0] == 404
