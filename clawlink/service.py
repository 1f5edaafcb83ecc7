"""Programs that the system starts with the account: a user unit of systemd, an agent of launchd, a task of Windows.

The texts are pure. ``install``, ``uninstall`` and ``status`` run the system's own command.
"""

from __future__ import annotations

import getpass
import os
import plistlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from clawlink import private

SYSTEMD, LAUNCHD, WINDOWS = "systemd", "launchd", "windows"
_RESTART_SECONDS = 5
_COMMAND_SECONDS = 30.0
_BY_HAND = "nothing was installed; start the program by hand, or by your own means"
# All packages that ClawLink needs, and the question whether it is this ClawLink: an older one may be installed beside.
_IMPORTS = (
    "import clawlink.cli.main, clawlink.client.aio, clawlink.client.sync, clawlink.private, os, sys; "
    "sys.exit(not os.path.samefile(clawlink.private.__file__, sys.argv[1]))"
)
# The exit code of a command that SIGTERM has ended in order.
_TERMINATED = 143

Run = Callable[[Sequence[str]], "Done"]
"""Runs a command of the system. Raises OSError where there is none."""


class ServiceError(Exception):
    """The system did not do it; the message says why, and the next step."""


class Done(NamedTuple):
    """A command that has ended: its exit code, and its output with the errors."""

    code: int
    said: str


class Service(NamedTuple):
    """A program of the account. ``name`` has small letters, digits and hyphens, as ``clawlink-wake``.

    ``words`` are the program and its arguments; ``environ`` are variables beside those of the account.
    """

    name: str
    description: str
    words: tuple[str, ...]
    environ: Mapping[str, str] = {}


class Status(NamedTuple):
    """A service as the system shows it. ``place`` is its file, or the name of its task."""

    installed: bool
    running: bool
    place: str
    kind: str


def own_command() -> tuple[str, ...]:
    """Return the words that run ClawLink by this interpreter, whatever the working directory is.

    ``-m`` alone imports from that first, so a ``json.py`` of a project would run in place of Python's own. ``-I``
    prevents it. It leaves out the packages of the account and of PYTHONPATH, too. Where ClawLink needs these, ``-P``
    prevents it, which Python 3.10 does not know.
    """
    return (sys.executable, *_flags(sys.executable), "-m", "clawlink")


@cache
def _flags(python: str) -> tuple[str, ...]:
    for flag in ("-I", *(["-P"] if sys.version_info >= (3, 11) else [])):
        try:
            if _run((python, flag, "-c", _IMPORTS, private.__file__)).code == 0:
                return (flag,)
        except OSError:
            break
    return ()


# -- Texts -------------------------------------------------------------------------------------------------------------


def systemd_unit(service: Service) -> str:
    """Return the user unit of systemd."""
    lines = [
        "[Unit]",
        f"Description={_of_unit(service.description)}",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_word_of_unit, service.words))}",
        *(f"Environment={_quoted_of_unit(f'{name}={value}')}" for name, value in sorted(service.environ.items())),
        "Restart=on-failure",
        f"RestartSec={_RESTART_SECONDS}",
        f"SuccessExitStatus={_TERMINATED}",
        "UMask=0077",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    return "\n".join(lines)


def _of_unit(text: str) -> str:
    """Escape the percent sign, which names a fact of the system in a unit."""
    return text.replace("%", "%%")


def _quoted_of_unit(text: str) -> str:
    return '"' + _of_unit(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _word_of_unit(word: str) -> str:
    return _quoted_of_unit(word).replace("$", "$$")  # a variable, without that


def launchd_label(service: Service) -> str:
    """Return the name under which launchd knows the service."""
    return f"org.{service.name.replace('-', '.')}"


def launchd_plist(service: Service) -> bytes:
    """Return the property list of launchd."""
    settings = {
        "Label": launchd_label(service),
        "ProgramArguments": list(service.words),
        "EnvironmentVariables": dict(service.environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": _RESTART_SECONDS,
        "ProcessType": "Background",
        "Umask": 0o77,
    }
    return plistlib.dumps(settings)


def windows_task(service: Service, user: str) -> bytes:
    """Return the task as XML, in the UTF-16 that ``schtasks`` wants. It starts at the log-on, and after a failure.

    ``user`` is the account, as ``DOMAIN\\name``: without it the task would start at the log-on of each account, which
    an administrator alone may set up. Windows gives a task no variables of its own, so ``cmd`` sets them first.
    """
    program, arguments = service.words[0], subprocess.list2cmdline(service.words[1:])
    if service.environ:
        sets = " && ".join(f'set "{name}={value}"' for name, value in sorted(service.environ.items()))
        program, arguments = "cmd.exe", f'/d /s /c "{sets} && {subprocess.list2cmdline(service.words)}"'
    text = f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>{escape(service.description)}</Description></RegistrationInfo>
  <Triggers><LogonTrigger><Enabled>true</Enabled><UserId>{escape(user)}</UserId></LogonTrigger></Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{escape(user)}</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure><Interval>PT1M</Interval><Count>255</Count></RestartOnFailure>
    <Hidden>true</Hidden>
  </Settings>
  <Actions Context="Author">
    <Exec><Command>{escape(program)}</Command><Arguments>{escape(arguments)}</Arguments></Exec>
  </Actions>
</Task>
"""
    return text.encode("utf-16")


# -- The system --------------------------------------------------------------------------------------------------------


class Services:
    """The services of an account. ``kind`` is ``systemd``, ``launchd`` or ``windows``; ``run`` runs a command."""

    def __init__(self, home: Path, *, kind: str | None = None, run: Run | None = None) -> None:
        self._home = home
        self._run_command = _run if run is None else run
        self.kind = kind_here() if kind is None else kind

    def place(self, service: Service) -> Path:
        """Return the file of a service; on Windows a copy of the task, which the system keeps itself."""
        if self.kind == SYSTEMD:
            return self._home / ".config" / "systemd" / "user" / f"{service.name}.service"
        if self.kind == LAUNCHD:
            return self._home / "Library" / "LaunchAgents" / f"{launchd_label(service)}.plist"
        return self._home / ".clawlink" / "services" / f"{service.name}.xml"

    def install(self, service: Service) -> Path:
        """Install a service, or replace it, and start it. Returns its file. Raises ServiceError or OSError.

        If the system refuses a service that was not there before, its file is removed again.
        """
        self._check(service)
        path = self.place(service)
        there = path.exists()
        private.make_folder(path.parent, 0o755)
        try:
            self._install(service, path)
        except ServiceError as error:
            if not there:
                path.unlink(missing_ok=True)
            raise ServiceError(f"{error}; {_BY_HAND}") from None
        return path

    def _install(self, service: Service, path: Path) -> None:
        if self.kind == SYSTEMD:
            private.write(path, systemd_unit(service).encode())
            self._must("systemctl", "--user", "daemon-reload")
            self._must("systemctl", "--user", "enable", path.name)
            self._must("systemctl", "--user", "restart", path.name)
        elif self.kind == LAUNCHD:
            self._may("launchctl", "bootout", f"{_domain()}/{launchd_label(service)}")
            private.write(path, launchd_plist(service))
            self._must("launchctl", "bootstrap", _domain(), str(path))
        else:
            private.write(path, windows_task(service, _account()))
            self._may("schtasks", "/End", "/TN", service.name)
            self._must("schtasks", "/Create", "/TN", service.name, "/XML", str(path), "/F")
            self._must("schtasks", "/Run", "/TN", service.name)

    def uninstall(self, service: Service) -> bool:
        """Stop a service and remove it. Returns True if it was there. Raises ServiceError or OSError."""
        path = self.place(service)
        there = path.exists()
        if self.kind == SYSTEMD:
            if there:
                self._must("systemctl", "--user", "disable", "--now", path.name)
                path.unlink()
                self._must("systemctl", "--user", "daemon-reload")
        elif self.kind == LAUNCHD:
            self._may("launchctl", "bootout", f"{_domain()}/{launchd_label(service)}")
            path.unlink(missing_ok=True)
        else:
            self._may("schtasks", "/End", "/TN", service.name)
            there = self._may("schtasks", "/Delete", "/TN", service.name, "/F").code == 0 or there
            path.unlink(missing_ok=True)
        return there

    def advice(self) -> str | None:
        """Return how services go on while nobody is signed in, where the system ends them then; else None."""
        if self.kind == SYSTEMD:
            with suppress(ServiceError):
                shown = self._may("loginctl", "show-user", getpass.getuser(), "--property=Linger", "--value")
                if shown.said.strip() == "no":
                    return "it ends when the account signs out; to keep it on a server, run: loginctl enable-linger"
        return None

    def status(self, service: Service) -> Status:
        """Return whether a service is installed, and whether it runs."""
        path = self.place(service)
        place = str(path)
        if self.kind == SYSTEMD:
            running = path.exists() and self._may("systemctl", "--user", "is-active", "--quiet", path.name).code == 0
            return Status(path.exists(), running, place, self.kind)
        if self.kind == LAUNCHD:
            shown = self._may("launchctl", "print", f"{_domain()}/{launchd_label(service)}")
            return Status(path.exists(), shown.code == 0 and "state = running" in shown.said, place, self.kind)
        shown = self._may("schtasks", "/Query", "/TN", service.name, "/FO", "CSV", "/NH")
        # The word for a state depends on the language of the system; the copy of the task does not.
        return Status(shown.code == 0, shown.code == 0 and "Running" in shown.said, service.name, self.kind)

    def _check(self, service: Service) -> None:
        """Raise ServiceError for words that no file of the system can carry."""
        values = tuple(service.environ.values())
        texts = (service.name, service.description, *service.words, *service.environ, *values)
        if not all(text.isprintable() for text in texts) or not service.words or not all(map(str.strip, service.words)):
            raise ServiceError("a word of the command or a variable is empty or has a line end; nothing was installed")
        if self.kind == WINDOWS and any(mark in value for mark in '"%' for value in values):
            raise ServiceError("a variable has a quote or a percent sign, which cmd.exe changes; nothing was installed")

    def _must(self, *words: str) -> None:
        done = self._may(*words)
        if done.code != 0:
            said = " ".join(done.said.split())[:300]
            raise ServiceError(f"{' '.join(words)} failed with {done.code}: {said or 'it says nothing'}")

    def _may(self, *words: str) -> Done:
        try:
            return self._run_command(words)
        except OSError as error:
            raise ServiceError(f"{words[0]} cannot be run ({error.strerror or error})") from None


def kind_here() -> str:
    """Return the kind of services of this system."""
    return {"darwin": LAUNCHD, "win32": WINDOWS}.get(sys.platform, SYSTEMD)


def _account() -> str:
    """Return the account as Windows names it."""
    domain, name = os.environ.get("USERDOMAIN"), os.environ.get("USERNAME") or getpass.getuser()
    return f"{domain}\\{name}" if domain else name


def _domain() -> str:
    return f"gui/{os.getuid() if hasattr(os, 'getuid') else 0}"


def _run(words: Sequence[str]) -> Done:
    try:
        done = subprocess.run(  # noqa: S603 - commands of the system
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Done(124, f"it did not end within {_COMMAND_SECONDS:g} s")
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"))
