"""Services of the account: texts as each system reads them, and the commands in their order."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shlex
import shutil
import stat
import subprocess
import sys
import venv
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from clawlink import service
from clawlink.service import Done, Service, ServiceError, Services
from tests.waiting import PATIENCE

WORDS = ("/opt/my python/bin/python", "-m", "clawlink", "wake", '50% "$HOME" \\ $$')
ENVIRON = {"CLAWLINK_HOME": "/home/my user/100%"}
USER = "HOME & CO\\me"
SERVICE = Service("clawlink-wake", "Wakes agents, 100%", WORDS, ENVIRON)


class System:
    """A system that notes commands; ``fails`` are the first words of those that fail."""

    def __init__(self, *fails: str) -> None:
        self.ran: list[str] = []
        self._fails = fails

    def __call__(self, words: Sequence[str]) -> Done:
        line = " ".join(words)
        self.ran.append(line)
        return Done(5, "no\nbus") if any(line.startswith(fail) for fail in self._fails) else Done(0, "state = running")


def test_a_unit_has_each_word_as_it_was(tmp_path: Path) -> None:
    text = service.systemd_unit(SERVICE)
    (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    # Double quotes mean the same to a shell, after the marks that only systemd reads.
    assert shlex.split(start.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$")) == list(WORDS)
    assert 'Environment="CLAWLINK_HOME=/home/my user/100%%"' in text
    assert "Description=Wakes agents, 100%%" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        unit = tmp_path / "clawlink-wake.service"
        unit.write_text(service.systemd_unit(SERVICE._replace(words=("/bin/sh", *WORDS[1:]))))
        environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        command = [analyze, "verify", "--user", "--man=no", str(unit)]
        checked = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=PATIENCE)
        assert "clawlink-wake" not in checked.stderr, checked.stderr


def test_a_property_list_and_a_task_have_each_word_as_it_was() -> None:
    read = plistlib.loads(service.launchd_plist(SERVICE))
    assert read["ProgramArguments"] == list(WORDS)
    assert read["EnvironmentVariables"] == ENVIRON
    assert (read["Label"], read["RunAtLoad"], read["KeepAlive"]) == (
        "org.clawlink.wake",
        True,
        {"SuccessfulExit": False},
    )
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    task = ET.fromstring(service.windows_task(SERVICE._replace(environ={}), USER).decode("utf-16"))
    assert task.findtext(".//t:Command", namespaces=space) == WORDS[0]
    assert task.findtext(".//t:Arguments", namespaces=space) == subprocess.list2cmdline(WORDS[1:])
    task = ET.fromstring(service.windows_task(SERVICE._replace(environ={"A": "b & <c>"}), USER).decode("utf-16"))
    assert task.findtext(".//t:Command", namespaces=space) == "cmd.exe"
    arguments = task.findtext(".//t:Arguments", namespaces=space) or ""
    assert arguments.startswith('/d /s /c "set "A=b & <c>" && ')
    assert arguments.endswith(subprocess.list2cmdline(WORDS) + '"')


# From the schema of the Task Scheduler, version 1.2: the elements, and the values that they may have.
_TRUTH = "true|false"
_DURATION = r"PT0S|PT\d+M"
_TASK = {
    "Task": {"RegistrationInfo", "Triggers", "Settings", "Data", "Principals", "Actions"},
    "RegistrationInfo": {"Date", "Author", "Version", "Description", "Documentation", "URI"},
    "Triggers": {"BootTrigger", "LogonTrigger", "TimeTrigger", "EventTrigger"},
    "LogonTrigger": ["Repetition", "StartBoundary", "EndBoundary", "ExecutionTimeLimit", "Enabled", "UserId", "Delay"],
    "Principals": {"Principal"},
    "Principal": {"UserId", "LogonType", "GroupId", "DisplayName", "RunLevel", "RequiredPrivileges"},
    "Settings": {
        *("AllowStartOnDemand", "RestartOnFailure", "MultipleInstancesPolicy", "DisallowStartIfOnBatteries"),
        *("StopIfGoingOnBatteries", "AllowHardTerminate", "StartWhenAvailable", "RunOnlyIfNetworkAvailable"),
        *("WakeToRun", "Enabled", "Hidden", "DeleteExpiredTaskAfter", "IdleSettings", "ExecutionTimeLimit"),
        *("Priority", "RunOnlyIfIdle"),
    },
    "RestartOnFailure": {"Interval", "Count"},
    "Actions": {"Exec", "ComHandler", "SendEmail", "ShowMessage"},
    "Exec": {"Command", "Arguments", "WorkingDirectory"},
}
_VALUES = {
    **dict.fromkeys(("Enabled", "Hidden", "DisallowStartIfOnBatteries", "StopIfGoingOnBatteries"), _TRUTH),
    "MultipleInstancesPolicy": "Parallel|Queue|IgnoreNew|StopExisting",
    "LogonType": "S4U|Password|InteractiveToken|InteractiveTokenOrPassword",
    "RunLevel": "LeastPrivilege|HighestAvailable",
    "ExecutionTimeLimit": _DURATION,
    "Interval": _DURATION,
    "Count": r"[1-9]\d?|1\d\d|2[0-4]\d|25[0-5]",
}


def test_a_task_has_what_the_schema_of_windows_knows_and_is_of_one_account() -> None:
    for environ in ({}, {"CLAWLINK_HOME": "C:\\x"}):
        text = service.windows_task(SERVICE._replace(environ=environ), USER)
        assert text.startswith((b"\xff\xfe", b"\xfe\xff"))
        task = ET.fromstring(text.decode("utf-16"))
        assert task.get("version") == "1.2"
        space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
        for element in task.iter():
            assert element.tag.startswith(space)
            name, children = element.tag.removeprefix(space), [one.tag.removeprefix(space) for one in element]
            assert set(children) <= set(_TASK.get(name, ())), name
            assert len(children) == len(set(children)), name
            if isinstance(known := _TASK.get(name), list):  # a sequence
                assert children == sorted(children, key=known.index), name
            if name in _VALUES:
                assert re.fullmatch(_VALUES[name], element.text or ""), (name, element.text)
        # Without an account the task would start at each log-on, and only an administrator may set that up.
        assert [one.text for one in task.iter(f"{space}UserId")] == [USER, USER]
        principals = [one.get("id") for one in task.iter(f"{space}Principal")]
        assert [one.get("Context") for one in task.iter(f"{space}Actions")] == principals


def test_a_property_list_has_what_launchd_knows() -> None:
    known = {
        "Label": str,
        "ProgramArguments": list,
        "EnvironmentVariables": dict,
        "RunAtLoad": bool,
        "KeepAlive": dict,
        "ThrottleInterval": int,
        "ProcessType": str,
        "Umask": int,
    }
    read = plistlib.loads(service.launchd_plist(SERVICE))
    assert {name: type(value) for name, value in read.items()} == known
    assert read["ProcessType"] in ("Background", "Standard", "Adaptive", "Interactive")
    assert all(type(word) is str for word in (*read["ProgramArguments"], *read["EnvironmentVariables"].values()))
    assert read["Umask"] == 0o77, "launchd reads a number as decimal"


def test_a_service_comes_and_goes(tmp_path: Path) -> None:
    domain = f"gui/{os.getuid() if hasattr(os, 'getuid') else 0}"
    label = f"{domain}/org.clawlink.wake"
    unit = "clawlink-wake.service"
    table = {
        "systemd": (
            ["systemctl --user daemon-reload", f"systemctl --user enable {unit}", f"systemctl --user restart {unit}"],
            [f"systemctl --user disable --now {unit}", "systemctl --user daemon-reload"],
        ),
        "launchd": (
            [f"launchctl bootout {label}", f"launchctl bootstrap {domain} PATH"],
            [f"launchctl bootout {label}"],
        ),
        "windows": (
            [
                "schtasks /End /TN clawlink-wake",
                "schtasks /Create /TN clawlink-wake /XML PATH /F",
                "schtasks /Run /TN clawlink-wake",
            ],
            ["schtasks /End /TN clawlink-wake", "schtasks /Delete /TN clawlink-wake /F"],
        ),
    }
    plain = SERVICE._replace(environ={"CLAWLINK_HOME": "/home/x"})
    for kind, (comes, goes) in table.items():
        system = System()
        home = tmp_path / kind
        services = Services(home, kind=kind, run=system)
        path = services.install(plain)
        assert path.exists()
        assert [line.replace(str(path), "PATH") for line in system.ran] == comes
        if os.name == "posix":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, "a variable may be a secret"
        assert services.install(plain) == path, "a second time replaces it"
        shown = services.status(plain)
        assert (shown.installed, shown.kind) == (True, kind)
        assert shown.running == (kind != "windows")
        system.ran.clear()
        assert services.uninstall(plain) is True
        assert system.ran == goes
        assert not path.exists()
    assert Services(tmp_path / "none", kind="systemd", run=System()).uninstall(SERVICE) is False
    assert Services(tmp_path / "none", kind="launchd", run=System()).uninstall(SERVICE) is False
    assert Services(tmp_path / "none", kind="windows", run=System("schtasks")).uninstall(SERVICE) is False
    for kind in table:
        system = System("systemctl", "launchctl", "schtasks")
        shown = Services(tmp_path / "none", kind=kind, run=system).status(SERVICE)
        assert (shown.installed, shown.running) == (False, False)


def test_a_system_that_refuses_leaves_no_file(tmp_path: Path) -> None:
    def absent(words: Sequence[str]) -> Done:
        raise FileNotFoundError(2, "No such file or directory")

    for kind, fails in (("systemd", "systemctl"), ("launchd", "launchctl bootstrap"), ("windows", "schtasks /Create")):
        for system in (System(fails), absent):
            services = Services(tmp_path / kind, kind=kind, run=system)
            with pytest.raises(ServiceError, match=f"{fails.split()[0]}.*start the program by hand"):
                services.install(SERVICE._replace(environ={}))
            assert not services.place(SERVICE).exists()
    for wrong in (
        SERVICE._replace(words=("python", "a\nExecStartPre=/bin/evil")),
        SERVICE._replace(words=()),
        SERVICE._replace(words=("",)),
        SERVICE._replace(environ={"A": "b\nC=d"}),
        SERVICE._replace(description="a\n[Service]"),
    ):
        with pytest.raises(ServiceError, match="nothing was installed"):
            Services(tmp_path, kind="systemd", run=System()).install(wrong)
    with pytest.raises(ServiceError, match="cmd"):
        Services(tmp_path, kind="windows", run=System()).install(SERVICE)
    assert service.kind_here() in ("systemd", "launchd", "windows")


def test_a_service_that_ends_with_the_login_says_how_it_goes_on(tmp_path: Path) -> None:
    """On a server nobody is signed in for long."""

    def none(words: Sequence[str]) -> Done:
        raise FileNotFoundError(words[0])

    def advice(kind: str, said: str) -> str | None:
        return Services(tmp_path, kind=kind, run=lambda words: Done(0, said)).advice()

    assert "loginctl enable-linger" in str(advice(service.SYSTEMD, "no\n"))
    assert advice(service.SYSTEMD, "yes\n") is None
    assert advice(service.LAUNCHD, "no\n") is None
    assert Services(tmp_path, kind=service.SYSTEMD, run=none).advice() is None


def test_our_own_command_runs_this_clawlink_and_no_older_one(tmp_path: Path) -> None:
    venv.create(tmp_path / "old", symlinks=os.name == "posix")
    (python,) = (tmp_path / "old").glob("*/python.exe" if os.name == "nt" else "bin/python")
    (packages,) = (tmp_path / "old").glob("Lib/site-packages" if os.name == "nt" else "lib/*/site-packages")
    for name in ("cli/main", "client/aio", "client/sync"):
        file = packages / "clawlink" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        for path in (file, file.with_name("__init__.py"), packages / "clawlink" / "__init__.py"):
            path.touch()
    ask = "import json, clawlink.service; print(json.dumps(clawlink.service.own_command()))"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = subprocess.run([str(python), "-c", ask], capture_output=True, env=environ, check=True, timeout=PATIENCE)
    assert "-I" not in json.loads(told.stdout)


def test_our_own_command_runs_beside_files_that_are_called_as_modules_are(tmp_path: Path) -> None:
    for name in ("functools", "json", "clawlink"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    venv.create(tmp_path / "bare", symlinks=os.name == "posix")
    (bare,) = (tmp_path / "bare").glob("*/python.exe" if os.name == "nt" else "bin/python")
    for python in (sys.executable, str(bare)):
        ask = "import json, clawlink.service; print(json.dumps(clawlink.service.own_command()))"
        told = subprocess.run([python, "-c", ask], capture_output=True, env=environ, check=True, timeout=PATIENCE)
        words = json.loads(told.stdout)
        assert words[0] == python
        # A bare environment has ClawLink by PYTHONPATH alone.
        assert words[1:2] == (["-I"] if python == sys.executable else ["-P"] if sys.version_info >= (3, 11) else ["-m"])
        if words[1] != "-m":  # Python 3.10 has no way to run it there
            shown = [*words, "--version"]
            done = subprocess.run(shown, capture_output=True, env=environ, cwd=tmp_path, check=False, timeout=PATIENCE)
            assert done.stdout.startswith(b"clawlink "), done
