"""The relay, the token and the agent of a command."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from clawlink.cli import settings
from clawlink.cli.exits import UsageError
from clawlink.cli.settings import Given, Where
from clawlink.client.identity import Identities, NoIdentity, Saved, SeveralIdentities
from clawlink.config import DEFAULT_RELAY
from tests.tables import each

ADA = Saved("ada", "a1", "http://one:9077", token="t1", agent_key="k1")
BOB = Saved("Bob", "b1", "http://one:9077", token="t1", agent_key="k2")
ADA_ELSEWHERE = Saved("ada", "a2", "http://two:9077", token="t2", ca="/two.pem")


def kept(folder: Path, *saved: Saved) -> Identities:
    """Return a folder with these identities."""
    identities = Identities(folder)
    for one in saved:
        identities.save(one)
    return identities


def asked(
    relay: str | None = None,
    token: str | None = None,
    ca: str | None = None,
    named: str | None = None,
    insisted: bool = True,
) -> Given:
    return Given(relay, token, ca, named, insisted and named is not None)


def arguments(**given: str) -> Namespace:
    return Namespace(**{"relay": None, "token": None, "ca": None, "named": None, **given})


def test_a_flag_goes_before_a_variable(tmp_path: Path) -> None:
    for name in ("flag.pem", "env.pem"):
        (tmp_path / name).touch()
    environ = {
        "CLAWLINK_RELAY": "env:1",
        "CLAWLINK_TOKEN": "env",
        "CLAWLINK_AGENT": "env",
        "CLAWLINK_CA": str(tmp_path / "env.pem"),
    }
    from_environment = settings.given(arguments(), environ)
    assert from_environment == Given("http://env:1", "env", str(tmp_path / "env.pem"), "env", False)
    flags = arguments(relay="flag:1", token="flag", named="flag", ca=str(tmp_path / "flag.pem"))
    assert settings.given(flags, environ) == Given("http://flag:1", "flag", str(tmp_path / "flag.pem"), "flag", True)
    assert settings.given(arguments(), {}) == Given(None, None, None, None, False)


def test_a_certificate_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no certificate file"):
        settings.given(arguments(ca=str(tmp_path / "none.pem")), {})


@each(
    ("typed", "address"),
    [
        ("127.0.0.1:9077", "http://127.0.0.1:9077"),
        (" http://Host:9077/ ", "http://host:9077"),
        ("HTTPS://Relay.Example/base/", "https://relay.example/base"),
        ("http://User:Pass@Host", "http://User:Pass@host:9077"),
        ("http://", "http://"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_addresses_are_brought_into_one_form(typed: str, address: str) -> None:
    assert settings.address(typed) == address


def test_acting_uses_what_was_kept_unless_told_otherwise() -> None:
    assert settings.acting(ADA, asked()) == Where("http://one:9077", "t1", None, ADA)
    assert settings.acting(ADA, asked(token="t", ca="/c")) == Where("http://one:9077", "t", "/c", ADA)


def test_a_visitor_uses_the_identity_it_names(tmp_path: Path) -> None:
    identities = kept(tmp_path, ADA, BOB, ADA_ELSEWHERE)
    assert settings.visiting(asked(named="bob"), identities).relay == "http://one:9077"
    assert settings.visiting(asked(named="ada", relay="http://two:9077"), identities).token == "t2"
    with pytest.raises(NoIdentity):
        settings.visiting(asked(named="nobody"), identities)


def test_a_visitor_without_a_name_uses_what_all_identities_share(tmp_path: Path) -> None:
    assert settings.visiting(asked(), kept(tmp_path / "one", ADA, BOB)) == Where("http://one:9077", "t1", None, None)
    two = kept(tmp_path / "two", ADA, ADA_ELSEWHERE)
    with pytest.raises(SeveralIdentities, match=r"http://one:9077.*http://two:9077.*--relay URL"):
        settings.visiting(asked(), two)
    with pytest.raises(SeveralIdentities, match="--relay URL and"):
        settings.registering(asked(), "bob", two)
    assert settings.visiting(asked(relay="http://two:9077"), two).token == "t2"


def test_only_where_nothing_says_which_relay_the_default_is_a_guess(tmp_path: Path) -> None:
    nobody = kept(tmp_path / "none")
    guess = Where(DEFAULT_RELAY, "t", None, None, assumed=True)
    assert settings.visiting(asked(token="t"), nobody) == guess
    assert settings.visiting(asked(token="t", named="ada", insisted=False), nobody) == guess
    assert settings.registering(asked(token="t"), "ada", nobody) == guess
    for found in (
        settings.visiting(asked(relay="http://three"), nobody),
        settings.registering(asked(relay="http://three"), "ada", nobody),
    ):
        assert not found.assumed


def test_a_visitor_takes_no_token_to_another_relay(tmp_path: Path) -> None:
    identities = kept(tmp_path, ADA, BOB, ADA_ELSEWHERE)
    assert settings.visiting(asked(relay="http://three"), identities) == Where("http://three", None, None, None)
    assert settings.visiting(asked(relay="http://one:9077"), identities).token == "t1"


def test_a_variable_may_name_an_agent_that_is_not_registered_yet(tmp_path: Path) -> None:
    identities = kept(tmp_path, ADA)
    assert settings.visiting(asked(named="new", insisted=False), identities).relay == "http://one:9077"


def test_registering_resumes_the_identity_of_that_name(tmp_path: Path) -> None:
    identities = kept(tmp_path, ADA, BOB)
    assert settings.registering(asked(), "ADA", identities) == Where("http://one:9077", "t1", None, ADA)
    assert settings.registering(asked(named="bob"), "ada", identities).saved == ADA


def test_registering_a_new_name_goes_where_the_others_are(tmp_path: Path) -> None:
    identities = kept(tmp_path, ADA, BOB)
    assert settings.registering(asked(), "carol", identities) == Where("http://one:9077", "t1", None, None)
    assert settings.registering(asked(relay="http://two"), "ada", identities) == Where("http://two", None, None, None)


def test_registering_a_name_that_is_kept_on_several_relays_must_say_which(tmp_path: Path) -> None:
    identities = kept(tmp_path, ADA, ADA_ELSEWHERE)
    with pytest.raises(SeveralIdentities, match="--relay URL"):
        settings.registering(asked(), "ada", identities)
    assert settings.registering(asked(relay="http://two:9077"), "ada", identities).saved == ADA_ELSEWHERE
