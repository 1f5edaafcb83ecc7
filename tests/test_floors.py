"""Imports only ever point down: the floors of references/architecture.md, enforced on every import there is.

    doors/*          each stands above all that it uses, and nothing but its own rooms knows it
    cli, bench
    wake
    client (skill)   server
    relay
    protocol   store   lan
    domain
    errors

Siblings on one floor do not import each other, and no module imports itself by way of others. Inside relay/ there are
floors too: use cases, upkeep above them, and wiring above all; rules are the domain's. Imports inside functions and
under ``TYPE_CHECKING`` count too: a name that is only needed for a type is a dependency all the same.
``clawlink.doors.registry`` alone is free of that: it loads nothing, and names the types of both sides.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.tables import each

ROOT = Path(__file__).parent.parent
PACKAGE = "clawlink"

FLOORS = {
    "errors": 0,
    "domain": 1,
    "protocol": 2,
    "store": 2,
    "lan": 2,  # how a relay is announced and found by mDNS: shared by both sides, like the protocol
    "relay": 3,
    "client": 4,
    "server": 4,
    "wake": 5,  # the program that wakes idle agents
    "cli": 6,
    "doors": 7,
}
# Modules that belong to a part of another name.
PART_OF = {"__main__": "cli", "skill": "client", "bench": "cli"}
# All may use these; config reads the limits, and is otherwise as low as they are.
FOR_ALL = {"errors", "version", "config", "private", "random_text", "timeouts", "loop_run", "service"}
MAY_USE = {
    "errors": {"errors"},
    "version": {"version"},
    "config": {"errors", "version", "config", "domain"},
    "private": {"private"},
    "random_text": {"random_text"},
    "timeouts": {"timeouts"},
    "loop_run": {"loop_run"},
    "service": {"service", "private"},
}

# The rooms of a door, the lowest first, with the parts that each may use, and the rooms. Its own files are ``wire``.
WIRE = {"domain", "protocol"}
ROOMS = {
    "wire": (WIRE, {"wire"}),
    "server": (WIRE | {"store", "relay", "server"}, {"wire", "server"}),
    "client": (WIRE | {"client", "wake", "lan"}, {"wire", "client"}),
    "cli": (WIRE | {"client", "wake", "cli"}, {"wire", "client", "cli"}),
    "bench": (WIRE | {"store", "relay", "server", "client", "bench"}, {"wire", "server", "client", "bench"}),
}

CLIENT_SIDE = {"client", "wake", "cli"}
RELAY_SIDE = {"relay", "store", "server", "bench"}
# The verbs that run a relay, and they only once they are called: no other verb pays for it.
RUNS_A_RELAY = {
    f"{PACKAGE}/cli/{verb}.py"
    for verb in (
        *("relay/serve", "relay/backup", "relay/restore", "relay/doctor"),
        *("learn/demo", "plumbing/bench"),
    )
}


# Floors of relay/ above the use cases: 1 is upkeep, 2 the wiring that knows all of it.
RELAY_FLOORS = {"janitor": 1, "retry_later": 1, "relay": 2, "error_mapping": 2}
# Parts that import in functions, so that a command starts fast: such an import, or one for types, may close a circle
# there. An import at load may not, and in all other parts none of any kind.
LATE = {"client", "wake", "cli", "doors"}


class Import(NamedTuple):
    """An import of this package: its place, and whether it runs when the file is loaded."""

    file: str
    line: int
    target: str
    at_load: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


@cache
def imports(file: str, source: str) -> Sequence[Import]:
    """Return every import of this package in a file; ``from clawlink import x`` counts as ``clawlink.x``."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        for target in _targets(node, file):
            if target.split(".")[0] == PACKAGE:
                yield Import(file, getattr(node, "lineno", 0), target, at_load)
        if isinstance(node, ast.If) and _is_typing_only(node.test):
            yield from visit_all(node.body, False)
            yield from visit_all(node.orelse, at_load)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from visit_all(ast.iter_child_nodes(node), at_load and not inside)

    def visit_all(nodes: Iterator[ast.AST] | list[ast.stmt], at_load: bool) -> Iterator[Import]:
        for node in nodes:
            yield from visit(node, at_load)

    return tuple(visit(ast.parse(source), True))


def _is_typing_only(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _targets(node: ast.AST, file: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        here = list(Path(file).with_suffix("").parts)
        above = here[: len(here) - node.level] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if called in ("import_module", "__import__") and first is not None:
            return [_beginning(first)]
    return []


def _beginning(name: ast.expr) -> str:
    """Return what is certain of a module's name that is made while the program runs."""
    if isinstance(name, ast.JoinedStr) and name.values:
        name = name.values[0]
    return name.value.rstrip(".") if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""


def part(module: str) -> str:
    """Return which part of the package a module is in; "" is the package itself."""
    names = module.split(".")
    if len(names) == 1:
        return ""
    if names[1] == "doors":
        return "registry" if names[2:3] in ([], ["registry"]) else f"doors/{names[2]}"
    if _is_import_name(names[1]):
        return f"doors/{names[1]}"
    if names[1] not in FLOORS and names[1] not in PART_OF and names[1] not in FOR_ALL:
        return "" if not _exists(names[1]) else names[1]
    return names[1]


def _exists(name: str) -> bool:
    return (ROOT / PACKAGE / name).is_dir() or (ROOT / PACKAGE / f"{name}.py").exists()


def _is_import_name(name: str) -> bool:
    """Return True for a module that is nothing but the import name of a door's client."""
    file = ROOT / PACKAGE / f"{name}.py"
    return file.exists() and f"from {PACKAGE}.doors.{name}." in file.read_text("utf-8")


def room(module: str) -> str:
    """Return which room of its door a module is in."""
    names = module.split(".")
    if names[1] != "doors":
        return "client"
    return names[3] if len(names) > 3 and names[3] in ROOMS else "wire"


def unit(of: str) -> str:
    """Return the part that stands on a floor, for one that belongs to another."""
    return PART_OF.get(of, of)


def floor(of: str) -> int | None:
    """Return the floor of a part; None if nobody gave it one."""
    return FLOORS.get(unit(of).split("/")[0])


def fault(found: Import) -> str | None:
    """Tell what is wrong with an import; None if nothing is."""
    here = part(".".join(Path(found.file).with_suffix("").parts).removesuffix(".__init__"))
    there = part(found.target)
    if there in FOR_ALL or (here, there) == ("registry", "registry"):
        return None if here not in MAY_USE or there in MAY_USE[here] else f"{here} may use only {sorted(MAY_USE[here])}"
    if here == "registry":
        return "the registry loads nothing" if found.at_load else None
    if here.startswith("doors/"):
        return _fault_of_door(found, here, there)
    if there.startswith("doors/"):
        return "nothing but a door itself knows it"
    if there == "registry":
        return None if here in ("server", "cli") else "doors are the concern of server and command line alone"
    if here in MAY_USE:
        return None if there in MAY_USE[here] else f"{here} may use only {sorted(MAY_USE[here])}"
    if here == "":
        # The package itself loads what it offers when it is first used.
        return f"{PACKAGE} itself loads nothing" if found.at_load and there != "version" else None
    if here == "bench" or here == there:
        return None
    if there == "":
        return None if unit(here) in CLIENT_SIDE else f"what {PACKAGE} itself offers is of the client's floor"
    if floor(here) is None or floor(there) is None:
        return f"give {here if floor(here) is None else there!r} a floor in {Path(__file__).name}"
    if unit(here) in CLIENT_SIDE and there.split("/")[0] in RELAY_SIDE:
        if found.file not in RUNS_A_RELAY:
            return "the client side never knows the relay's, but for the verbs that run one"
        return "a verb that runs a relay imports it inside its own function" if found.at_load else None
    if unit(here) == unit(there):
        return None
    return None if (floor(there) or 0) < (floor(here) or 0) else f"{there} is not below {here}"


def _fault_of_door(found: Import, here: str, there: str) -> str | None:
    inside = room(".".join(Path(found.file).with_suffix("").parts))
    parts, rooms = ROOMS[inside]
    if there == "registry":
        return None
    if there == here:
        is_root = found.file == f"{PACKAGE}/{here}/__init__.py"  # which loads a room once it is needed
        fine = room(found.target) in rooms or (is_root and not found.at_load)
        return None if fine else f"{inside} of a door may use only its {sorted(rooms)}"
    if there in parts or (found.file == f"{PACKAGE}/{here}/__init__.py" and not found.at_load):
        return None
    return f"{inside} of a door may use only {sorted(parts)}"


def faults(file: str, source: str) -> list[str]:
    """List the wrong imports of a file, each with its place and reason."""
    return [f"{found}: {wrong}" for found in imports(file, source) if (wrong := fault(found))]


def test_imports_only_point_down() -> None:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert files
    found = [wrong for path in files for wrong in faults(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))]
    assert not found, "wrong imports:\n" + "\n".join(found)


def module_of(path: Path) -> str:
    """Return the name under which a file of the package is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph() -> dict[str, dict[str, bool]]:
    """Return which modules each module imports, and of each whether that runs when it is loaded."""
    files = {module_of(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
    found: dict[str, dict[str, bool]] = {}
    for module, path in files.items():
        here = found.setdefault(module, {})
        for one in imports(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")):
            target = one.target if one.target in files else one.target.rpartition(".")[0]
            if target in files and target != module:
                here[target] = here.get(target, False) or one.at_load
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle, in order; empty if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return []

    for module in sorted(edges):
        if found := visit(module, []):
            return found
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"b"}, "d": {"c"}}) == ["b", "d", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
    found = graph()
    assert len(found) > 200
    at_load = {module: {target for target, runs in targets.items() if runs} for module, targets in found.items()}
    assert circle(at_load) == []
    strict = {module: set(targets) for module, targets in found.items() if not LATE & set(module.split(".")[1:2])}
    assert circle(strict) == []


def relay_floor(module: str) -> int:
    """Return the floor of a module inside relay/: use cases 0, upkeep 1, wiring 2."""
    return RELAY_FLOORS.get(module.split(".")[2], 0)


def test_inside_the_relay_imports_point_down_too() -> None:
    relays = {module: targets for module, targets in graph().items() if module.startswith(f"{PACKAGE}.relay.")}
    assert {module.split(".")[2] for module in relays} >= set(RELAY_FLOORS)
    wrong = [
        f"{module} imports {target}"
        for module, targets in relays.items()
        for target in targets
        if target in relays and relay_floor(target) > relay_floor(module)
    ]
    assert wrong == []


ALLOWED = [
    ("domain/task.py", "from clawlink.errors import WrongState"),
    ("domain/task.py", "from clawlink.domain.record import SETTLED"),
    ("store/memory.py", "from clawlink.domain.delivery import Delivery"),
    ("protocol/replies.py", "from clawlink.domain.message import AgentCard"),
    ("relay/core.py", "from clawlink.store.base import Store"),
    ("relay/core.py", "from clawlink.protocol import requests"),
    ("server/app.py", "from clawlink.store.memory import MemoryStore"),
    ("server/app.py", "from clawlink.doors.registry import doors"),
    ("cli/verbs.py", "def f():\n    from clawlink.doors.registry import verbs"),
    ("doors/registry.py", "if TYPE_CHECKING:\n    from clawlink.relay.relay import Relay"),
    ("doors/x/__init__.py", "from clawlink.doors.registry import Door"),
    ("doors/x/__init__.py", "def f():\n    from clawlink.doors.x.server.door import Server"),
    ("doors/x/server/door.py", "from clawlink.server.request import read"),
    ("doors/x/server/door.py", "from clawlink.doors.x.wire import frames"),
    ("doors/x/server/door.py", "from clawlink.doors.x.rules import rule"),
    ("doors/x/client/link.py", "from clawlink.client.identity import home"),
    ("doors/x/cli/link.py", "from clawlink.doors.x.client.link import Link"),
    ("server/run.py", "from clawlink.config import ServerConfig"),
    ("client/sync.py", "from clawlink.protocol import paths"),
    ("lan.py", "from clawlink.version import VERSION"),
    ("server/run.py", "def run():\n    from clawlink.lan import announce"),
    ("skill.py", "from clawlink.client.sync import Client"),
    ("cli/main.py", "from clawlink.client.sync import Client"),
    ("cli/agent/wake.py", "def run():\n    from clawlink.wake.openclaw import find"),
    ("wake/openclaw.py", "from clawlink.client.identity import home"),
    ("wake/openclaw.py", "from clawlink.service import Service"),
    ("doors/x/client/bridge.py", "from clawlink.wake.openclaw import OpenClaw"),
    ("cli/main.py", "from clawlink import errors"),
    ("cli/main.py", "import clawlink"),
    ("cli/main.py", "from clawlink.lan import scan"),
    ("cli/verb.py", "load = import_module(f'clawlink.cli.task.{name}')"),
    ("cli/relay/serve.py", "def run():\n    from clawlink.server.run import run"),
    ("cli/plumbing/bench.py", "async def run():\n    from clawlink.bench import scenarios"),
    ("cli/plumbing/bench.py", "if TYPE_CHECKING:\n    from clawlink.bench import scenarios"),
    ("bench/load.py", "from clawlink.server.app import make_app"),
    ("config.py", "from clawlink.domain.limits import Limits"),
    ("__init__.py", "from clawlink.version import VERSION"),
    ("__init__.py", "if TYPE_CHECKING:\n    from clawlink.client.sync import Client"),
    ("relay/core.py", "import clawlinkx, os"),
]

REFUSED = [
    ("errors.py", "from clawlink.domain.limits import Limits"),
    ("domain/task.py", "from clawlink.store.base import Store"),
    ("domain/task.py", "from clawlink import Client"),
    ("domain/task.py", "from ..relay import core"),
    ("domain/task.py", "def f():\n    from clawlink.relay import core"),
    ("domain/task.py", "if TYPE_CHECKING:\n    from clawlink.relay.core import Core"),
    ("domain/task.py", "import os, clawlink.relay.core as core"),
    ("store/memory.py", "from clawlink.protocol import requests"),
    ("protocol/replies.py", "from clawlink.store.base import Page"),
    ("protocol/replies.py", "x = [lambda: __import__('clawlink.relay.core')]"),
    ("relay/core.py", "from clawlink.server import app"),
    ("relay/core.py", "from clawlink.client.retry import wait"),
    ("server/app.py", "from clawlink.client.retry import wait"),
    ("server/app.py", "from clawlink.doors import agentlink"),
    ("server/app.py", "from clawlink.doors.agentlink.server.door import AgentLinkServer"),
    ("cli/verbs.py", "def f():\n    import_module('clawlink.doors.agentlink.cli')"),
    ("relay/core.py", "from clawlink.doors.registry import doors"),
    ("server/request.py", "from clawlink.cli import main"),
    ("doors/registry.py", "from clawlink.relay.relay import Relay"),
    ("doors/registry.py", "from clawlink.doors.agentlink import DOOR"),
    ("doors/x/__init__.py", "from clawlink.doors.x.server.door import Server"),
    ("doors/x/server/door.py", "from clawlink.doors.agentrelay.wire import line"),
    ("doors/x/server/door.py", "from clawlink.doors.x.client.link import Link"),
    ("doors/x/client/link.py", "def f():\n    from clawlink.relay.relay import Relay"),
    ("doors/x/cli/link.py", "from clawlink.doors.x.server.door import Server"),
    ("doors/x/wire/line.py", "from clawlink.relay.relay import Relay"),
    ("client/sync.py", "from clawlink.cli.render import named"),
    ("client/sync.py", "def f():\n    from clawlink.relay.ids import derived"),
    ("lan.py", "from clawlink.client.sync import Client"),
    ("lan.py", "from clawlink.protocol import paths"),
    ("skill.py", "from clawlink.store.memory import MemoryStore"),
    ("cli/message/poll.py", "def run():\n    from clawlink.store.memory import MemoryStore"),
    ("cli/message/poll.py", "def run():\n    from clawlink.bench import load"),
    ("cli/main.py", "from clawlink.server import run"),
    ("wake/openclaw.py", "def f():\n    from clawlink.relay.ids import derived"),
    ("client/sync.py", "from clawlink.wake.openclaw import find"),
    ("service.py", "from clawlink.client.identity import home"),
    ("cli/main.py", "serve = importlib.import_module('clawlink.server.run')"),
    ("cli/relay/serve.py", "from clawlink.server.run import run"),
    ("cli/learn/demo.py", "class Demo:\n    from clawlink.server.run import run"),
    ("config.py", "from clawlink.server.options import options"),
    ("version.py", "from clawlink.errors import ClawLinkError"),
    ("__init__.py", "from clawlink.client.sync import Client"),
]


@each(("file", "source"), ALLOWED)
def test_what_points_down_is_allowed(file: str, source: str) -> None:
    assert faults(f"{PACKAGE}/{file}", source) == []


@each(("file", "source"), REFUSED)
def test_what_points_up_or_aside_is_named_with_its_place(file: str, source: str) -> None:
    found = faults(f"{PACKAGE}/{file}", source)
    assert len(found) == 1
    line = source.count("\n") + 1
    assert found[0].startswith(f"{PACKAGE}/{file}:{line} imports {PACKAGE}")


def test_the_page_names_files_that_exist() -> None:
    page = (ROOT / "references" / "architecture.md").read_text("utf-8")
    (doors,) = re.findall(r"^\*\*`doors/`\*\*\n.*?(?=^\*\*`)", page, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^- `(\w+)/`: ", doors, re.MULTILINE)
    assert "agentlink" in named
    if not all((ROOT / PACKAGE / "doors" / door).exists() for door in named):
        page = page.replace(doors, "")  # a door was taken off this tree
    told = set(re.findall(r"`([\w/]+\.py)`", page))
    files = [f"/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / PACKAGE).rglob("*.py")]
    files += [f"/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "tests").rglob("*.py")]
    assert len(told) > 80
    assert [name for name in sorted(told) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_the_page_names_every_module() -> None:
    """A module of a door is named with its door. A folder of verbs or of measurements is described as a whole."""
    page = (ROOT / "references" / "architecture.md").read_text("utf-8")
    whole = re.compile(r"cli/\w+/\w+\.py|doors/\w+/(cli|bench)/\w+\.py|bench/\w+_scenarios\.py|(.*/)?__\w+__\.py")
    left_out: list[str] = []
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        path = file.relative_to(ROOT / PACKAGE).as_posix()
        door = re.match(r"doors/(\w+)/", path)
        told = page if door is None else "".join(re.findall(rf"(?ms)^- `{door[1]}/.*?(?=^- |^\*\*)", page))
        if not whole.fullmatch(path) and not re.search(rf"`([\w/]+/)?{file.name}`", told):
            left_out.append(path)
    assert left_out == []


def test_the_page_names_members_that_classes_have() -> None:
    page = (ROOT / "references" / "architecture.md").read_text("utf-8")
    code = "".join(file.read_text("utf-8") for file in sorted((ROOT / PACKAGE).rglob("*.py")))
    named = sorted(set(re.findall(r"`([A-Z]\w+)\.(\w+)`", page)))
    assert len(named) > 5
    for owner, member in named:
        bodies = "".join(re.findall(rf"(?ms)^class {owner}\b.*?(?=^\S|\Z)", code))
        assert re.search(rf"(?m)^    ((async )?def )?{member}\b|\bself\.{member} = ", bodies), f"{owner}.{member}"


def test_the_pages_name_what_files_have() -> None:
    """As `` `look` of `relay/tasks/lifecycle.py` ``."""
    files = {
        file.relative_to(ROOT).as_posix(): file for tree in (PACKAGE, "tests") for file in (ROOT / tree).rglob("*.py")
    }
    lost: list[str] = []
    named = 0
    for page in sorted((ROOT / "references").glob("*.md")):
        text = " ".join(page.read_text("utf-8").split())
        for name, path in re.findall(r"`(?:\w+\.)*(\w+)` of `([\w/]+\.py)`", text):
            named += 1
            code = [file.read_text("utf-8") for place, file in files.items() if f"/{place}".endswith(f"/{path}")]
            if not any(re.search(rf"(?m)\b(def|class) {name}\b|^ *{name}\b", one) for one in code):
                lost.append(f"{page.name}: {name} of {path}")
    assert named > 15
    assert lost == []
