"""The settings of a relay: a flag goes before the environment, and that before the default."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

import pytest

from clawlink.config import ServerConfig, variable
from clawlink.domain.limits import LIMIT_FIELDS, Limits
from clawlink.server import __main__ as main
from clawlink.server import options
from tests.tables import each

FLAGS = {
    "--host": ("host", "192.168.1.5", "192.168.1.5"),
    "--port": ("port", "8080", 8080),
    "--token": ("token", "schlüssel", "schlüssel"),
    "--log-level": ("log_level", "debug", "debug"),
    "--loop": ("loop", "uvloop", "uvloop"),
    **{
        f.metadata["flag"]: (f.name, "7", 7) if isinstance(f.default, int) else (f.name, "7.5", 7.5)
        for f in LIMIT_FIELDS
    },
}


def config(*argv: str, **environ: str) -> ServerConfig:
    """Return what these flags and these variables say."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.read(parser.parse_args(argv), environ)


def value_of(told: ServerConfig, flag: str) -> object:
    name = FLAGS[flag][0]
    return getattr(told.limits if name in {f.name for f in LIMIT_FIELDS} else told, name)


def test_without_a_word_it_is_the_defaults() -> None:
    assert config() == ServerConfig()
    assert config().limits == Limits()
    assert (config().host, config().port, config().token) == ("127.0.0.1", 9077, None)


@each("flag", FLAGS)
def test_a_flag_goes_before_the_environment_and_that_before_the_default(flag: str) -> None:
    _, text, value = FLAGS[flag]
    default = value_of(config("--no-auth") if flag == "--host" else config(), flag)
    assert default != value
    assert value_of(config(flag, text), flag) == value
    assert value_of(config(**{variable(flag): text}), flag) == value
    other = {"--host": "10.0.0.1", "--log-level": "error", "--loop": "asyncio"}.get(flag, "9")
    assert value_of(config(flag, text, **{variable(flag): other}), flag) == value
    assert value_of(config(**{variable(flag): ""}), flag) == default  # an empty variable says nothing


def test_variables_are_named_after_their_flags() -> None:
    assert variable("--max-agents") == "CLAWLINK_MAX_AGENTS"
    assert variable("token") == "CLAWLINK_TOKEN"


@each(
    ("flag", "name", "on"),
    [
        ("--require-agent-keys", "require_agent_keys", True),
        ("--no-mdns", "mdns", False),
        ("--log-json", "log_json", True),
    ],
)
def test_switches_are_given_as_flag_or_as_yes_or_no(flag: str, name: str, on: bool) -> None:
    assert getattr(config(), name) is not on
    assert getattr(config(flag), name) is on
    for yes in ("1", "true", "YES", "on"):
        assert getattr(config(**{variable(flag): yes}), name) is on
    for no in ("0", "false", "No", "off", ""):
        assert getattr(config(**{variable(flag): no}), name) is not on
    with pytest.raises(ValueError, match=variable(flag)):
        config(**{variable(flag): "maybe"})


def test_hosts_and_origins_may_be_several() -> None:
    told = config("--allow-host", "a", "--allow-host", "b", "--allow-origin", "https://x", CLAWLINK_ALLOW_HOST="c")
    assert (told.allow_hosts, told.allow_origins) == (("a", "b"), ("https://x",))
    assert config(CLAWLINK_ALLOW_HOST="a,b,", CLAWLINK_ALLOW_ORIGIN="https://x").allow_hosts == ("a", "b")


@each("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_on_loopback_no_token_is_made(host: str) -> None:
    assert config("--host", host).token is None
    assert config("--host", host).on_loopback
    assert config("--host", host, "--token", "t").token == "t"


@each("host", ["::", "[::]", "::0", "0::0", "0:0:0:0:0:0:0:0"])
def test_each_spelling_of_all_addresses_is_the_same(host: str) -> None:
    assert config("--host", host, "--token", "t").host == "::"


def test_a_new_token_is_made_where_one_is_kept() -> None:
    assert config("--host", "0.0.0.0", "--new-token").new_token
    wrong: list[list[str]] = [[], ["--host", "::", "--token", "t"], ["--host", "::", "--no-auth"]]
    for flags in wrong:
        with pytest.raises(ValueError, match="--new-token is for"):
            config(*flags, "--new-token")


def test_large_files_may_lie_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "spool"
    assert (config().spool, config().spool_above) == (None, 1024 * 1024)
    told = config("--spool", str(folder), "--spool-above", "4096")
    assert (told.spool, told.spool_above) == (str(folder), 4096)
    assert list(folder.iterdir()) == []  # it was made and tried, and nothing is left of that
    told = config(CLAWLINK_SPOOL=str(folder), CLAWLINK_SPOOL_ABOVE="7")
    assert (told.spool, told.spool_above) == (str(folder), 7)
    assert config("--spool-above", "5", CLAWLINK_SPOOL_ABOVE="7").spool_above == 5
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--spool"):
        config("--spool", str(tmp_path / "file"))
    for wrong in ("0", "-1", "1.5", "much"):
        with pytest.raises(ValueError, match="CLAWLINK_SPOOL_ABOVE"):
            config(CLAWLINK_SPOOL_ABOVE=wrong)


@each("token", ["", " ", " t", "t\n", "a\nb", "a\x00", "\x1b[31m"])
def test_a_token_that_nobody_could_send_is_refused(token: str) -> None:
    """An empty one above all: it is what an unset variable in a script gives, and would lock everyone out."""
    for flag in ("--token", "--admin-token"):
        with pytest.raises(ValueError, match=f"^{flag} may not be empty"):
            config(flag, token)


@each(
    ("host", "sentence"),
    [
        ("http://127.0.0.1", "--host takes an address or a name alone, as 127.0.0.1, not 'http://127.0.0.1'"),
        ("http://a.example/x", "--host takes an address or a name alone, as a.example, not 'http://a.example/x'"),
        ("a:80", "--host takes an address or a name alone, as a, not 'a:80'; the port is a flag of its own: --port 80"),
        (
            "https://a:8",
            "--host takes an address or a name alone, as a, not 'https://a:8'; the port is a flag of its own",
        ),
        ("[::1]:9077", r"--host takes an address or a name alone, as \[::1\], not '\[::1\]:9077'; the port is a flag"),
        (":9077", "--host takes an address or a name alone, as 127.0.0.1, not ':9077'; the port is a flag of its own"),
    ],
)
def test_a_host_with_a_scheme_or_a_port_is_refused_with_what_belongs_there(host: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        config("--host", host)


@each("host", ["::", "[::1]", "::1:2", "fe80::1%eth0", "0.0.0.0", "a-host.example"])
def test_a_host_may_be_any_address_or_name(host: str) -> None:
    assert config("--host", host).host == host.strip("[]")


def test_an_empty_value_is_refused_for_each_flag() -> None:
    """It is what an unset variable gives: an empty --data would keep nothing, and an empty --host be taken for none."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    asked = re.findall(r"^  (--[a-z0-9-]+) \S", parser.format_help(), re.MULTILINE)
    assert len(asked) > 60
    for flag in asked:
        for given in ("", " "):
            # Either argparse refuses it, or the relay.
            with contextlib.suppress(SystemExit), pytest.raises(ValueError, match=f"^{flag} "):
                config(flag, given)


@each("flag", ["--tls-cert", "--tls-key"])
def test_certificate_and_key_go_together(flag: str) -> None:
    with pytest.raises(ValueError, match="go together"):
        config(flag, "x.pem")
    told = config("--tls-cert", "c.pem", "--tls-key", "k.pem")
    assert (told.tls_cert, told.tls_key, told.scheme) == ("c.pem", "k.pem", "https")
    assert config().scheme == "http"


def test_no_auth_and_a_token_contradict_each_other() -> None:
    for told in ({"CLAWLINK_TOKEN": "t"}, {}):
        argv = ["--no-auth"] if told else ["--no-auth", "--token", "t"]
        with pytest.raises(ValueError, match="contradict"):
            config(*argv, **told)


WRONG = [
    ("--port", "65536"),
    ("--port", "-1"),
    ("--port", "http"),
    ("--port", "٣"),
    ("--log-level", "loud"),
    ("--loop", "trio"),
    ("--max-agents", "0"),
    ("--max-agents", "-1"),
    ("--max-agents", "1.5"),
    ("--max-agents", "many"),
    ("--max-agents", "²"),
    ("--lease", "-1"),
    ("--lease", "nan"),
    ("--lease", "inf"),
    ("--lease", "soon"),
    ("--retention", "1h"),
]


@each(
    ("flag", "text", "told"),
    [
        ("--stale-after", "0", "it must be 1 or more seconds, not '0'; leave it out for 120 seconds"),
        ("--message-ttl", "1e300", "a number from 0 to 100000000000 is needed, not '1e300'"),
        ("--message-ttl", "0.5", "it must be 1 or more seconds, not '0.5'; leave it out for 86400 seconds"),
        ("--upload-ttl", "0", "it must be 1 or more seconds"),
        ("--forget-after", "0", "it must be 1 or more seconds"),
        ("--forget-claimed-after", "0", "it must be 1 or more seconds"),
        ("--lease", "1000000", "it must be from 5 to 3600 seconds, not '1000000'; leave it out for 60 seconds"),
        ("--lease", "0", "it must be from 5 to 3600 seconds, not '0'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_with_its_range(
    flag: str, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent would be stale at once, or no message would ever be claimed again."""
    with pytest.raises(SystemExit):
        config(flag, text)
    assert f"argument {flag}: {told}" in capsys.readouterr().err
    name = "CLAWLINK_" + flag[2:].replace("-", "_").upper()
    with pytest.raises(ValueError, match=f"^{name}: {told}"):
        config(**{name: text})


@pytest.mark.parametrize(("flag", "text"), WRONG)
def test_a_value_that_is_none_is_refused_with_a_sentence(
    flag: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        config(f"{flag}={text}")
    assert ended.value.code == 2
    assert flag in capsys.readouterr().err
    with pytest.raises(ValueError, match=variable(flag)):
        config(**{variable(flag): text})


@pytest.mark.parametrize(
    "argv",
    [["--tls-cert", "x"], ["--token", ""], ["--no-auth", "--token", "t"], ["--port", "x"], ["--nonsense"], ["more"]],
)
def test_the_server_command_ends_with_2_and_a_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(argv)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "usage:" in told
    assert "Traceback" not in told


def test_help_names_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--help"])
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for flag in (
        *FLAGS,
        "--spool",
        "--spool-above",
        "--no-auth",
        "--require-agent-keys",
        "--tls-cert",
        "--tls-key",
        "--no-mdns",
        "--log-json",
    ):
        assert flag in told
    assert "(default 9077)" in told
    assert "(default 86400 seconds)" in told
    assert "(default 100 per second)" in told
    assert "(default )" not in told


def test_the_server_command_hands_over_what_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ServerConfig] = []

    def run(config: ServerConfig) -> int:
        told.append(config)
        return 5

    monkeypatch.setattr("clawlink.server.run.run", run)
    for name in ("CLAWLINK_TOKEN", "CLAWLINK_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLAWLINK_MAX_AGENTS", "3")
    assert main.main(["--port", "0"]) == 5
    assert (told[0].port, told[0].limits.max_agents) == (0, 3)


def test_a_store_goes_with_its_prefix_and_blobs_and_with_no_other_keeper(tmp_path: Path) -> None:
    told = config("--store", "redis://h", "--store-prefix", "a.b", "--blobs", str(tmp_path))
    assert (told.store, told.store_prefix, told.blobs) == ("redis://h", "a.b", str(tmp_path))
    assert told.limits.max_file_bytes == Limits().max_file_bytes
    assert config("--store", "redis://h", "--store-replicas", "2").store_replicas == 2
    told = config(CLAWLINK_STORE="rediss://:s3cret@h", CLAWLINK_STORE_REPLICAS="1")
    assert told.store_replicas == 1
    assert (told.store, told.limits.max_file_bytes) == ("rediss://:s3cret@h", 1024 * 1024)
    assert "s3cret" not in repr(told)
    for flags, said in (
        (["--store", "redis://h", "--data", "d"], "--store and --data contradict"),
        (["--store", "redis://h", "--spool", str(tmp_path)], "--store and --spool contradict"),
        (["--store", "http://h"], "must begin with redis://"),
        (["--store", "redis://h", "--store-prefix", "a{b}"], "--store-prefix takes"),
        (["--blobs", str(tmp_path)], "--blobs is for a relay with --store"),
        (["--store-prefix", "p"], "--store-prefix is for a relay with --store"),
        (["--store-replicas", "1"], "--store-replicas is for a relay with --store"),
        (["--store", "redis://h", "--max-file-bytes", "2000000"], "need --blobs"),
    ):
        with pytest.raises(ValueError, match=said):
            config(*flags)


def test_a_data_folder_goes_with_sync_and_not_with_spool(tmp_path: Path) -> None:
    told = config("--data", "mesh", "--sync", "normal")
    assert (told.data, told.sync) == ("mesh", "normal")
    assert (config("--data", "mesh").sync, config().data) == ("full", None)
    assert config(CLAWLINK_DATA="mesh", CLAWLINK_SYNC="normal").sync == "normal"
    for argv, environ, why in (
        (["--sync", "full"], {}, "--sync is for a relay with --data"),
        (["--data", "mesh", "--spool", str(tmp_path)], {}, "leave out --spool"),
        (["--data", "mesh"], {"CLAWLINK_SYNC": "never"}, "CLAWLINK_SYNC must be one of full, normal"),
    ):
        with pytest.raises(ValueError, match=why):
            config(*argv, **environ)


def test_the_help_shows_seconds_in_full() -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    shown = parser.format_help()
    assert "(default 2592000 seconds)" in " ".join(shown.split())
    assert "e+0" not in shown
