"""Imports run one way: swarm.core <- swarm.<service> <- nodes.*, dhtdump, swarm.cli. Nodes never import one another.

Read from the source, so what is imported inside a function counts as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = {"dht", "queue", "logfiles"}
NAMED_AFTER_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}

NO_IO = ["framing", "session", "protocol", "client_session", "errors", "limits", "stats", "connection_handler"]
NO_IO += ["login", "login_delays", "restrictions", "channel_patterns"]
DOES_IO = {
    "socket",
    "select",
    "selectors",
    "os",
    "io",
    "pathlib",
    "anyio",
    "trio",
    "asyncio",
    "subprocess",
    "threading",
}
ALLOWED_IN = {"connection_handler": {"trio"}, "login": {"os"}}  # for Event only, for urandom only
"""Of the core's modules without I/O: what one may import of DOES_IO after all."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*packages: str) -> dict[str, Path]:
    return {module_name(path): path for package in packages for path in sorted((ROOT / package).rglob("*.py"))}


MODULES = sources("swarm", "nodes", "dhtdump")
EVERYTHING = MODULES | sources("tests", "bench", "examples")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports; of `from a import b` both a and a.b, which may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The project's own modules among them."""
    return {name for name in imports(path) if name in MODULES} - {"swarm", "nodes"}


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def allowed(module: str) -> tuple[str, ...] | None:
    """The packages that a module may import, besides its own; None: every one."""
    match module.split("."):
        case ["swarm"]:
            return ()
        case ["swarm", "core", *_]:
            return ()
        case ["swarm", service, *_] if service in SERVICES:
            return ("swarm.core",)
        case ["swarm", "blocking", *_]:
            return ("swarm.core", *(f"swarm.{service}" for service in SERVICES))
        case ["swarm", "monitor", *_]:
            return ("swarm.core", "swarm.dht")
        case ["swarm", "cli", *_]:  # it starts nodes as processes
            return ("swarm.core", "swarm.blocking", "swarm.monitor", *(f"swarm.{service}" for service in SERVICES))
        case ["nodes"]:
            return ()
        case ["nodes", service, *_]:
            return ("swarm.core", f"swarm.{service}")
        case ["dhtdump", *_]:
            return ("swarm.core", "swarm.dht")
    return None


def own_package(module: str) -> str:
    return "dhtdump" if is_in(module, "dhtdump") else ".".join(module.split(".")[:2])


def test_the_test_sees_the_sources() -> None:
    assert {"swarm.core.framing", "swarm.dht.protocol", "swarm.blocking.dht", "nodes.dht.node"} <= set(MODULES)
    assert "swarm.core.errors" in own_imports(MODULES["swarm.core.framing"])
    assert "nodes.dht.node" in own_imports(EVERYTHING["tests.core.raw_client"])


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_imports(module: str) -> None:
    packages = allowed(module)
    if packages is not None:
        wrong = {name for name in own_imports(MODULES[module]) if not is_in(name, own_package(module), *packages)}
        assert not wrong, f"{module} may import {', '.join(packages) or 'nothing'} besides its own package"


def test_who_imports_nodes() -> None:
    may = ("nodes", "dhtdump", "swarm.testing", "tests", "bench", "examples")
    for module, path in EVERYTHING.items():
        if not is_in(module, *may):
            assert not [name for name in imports(path) if is_in(name, "nodes")], module


def test_the_check_shares_only_formats_with_the_node() -> None:
    """So that a mistake in what the node does with its files is not made a second time by what looks for it."""
    formats = {f"nodes.logfiles.{name}" for name in ("block_format", "file_names", "tail_format")}
    modules = [module for module in MODULES if is_in(module, "nodes.logfiles.check")]
    assert modules
    for module in modules:
        shared = {name for name in own_imports(MODULES[module]) if is_in(name, "nodes")} - {"nodes.logfiles"}
        assert not [name for name in shared - formats if not is_in(name, "nodes.logfiles.check")], module
    for module, path in MODULES.items():
        if not is_in(module, "nodes.logfiles.check"):
            assert not [name for name in own_imports(path) if is_in(name, "nodes.logfiles.check")], module


def test_only_tests_import_what_is_for_tests() -> None:
    for module, path in EVERYTHING.items():
        if not is_in(module, "swarm.testing", "tests", "bench", "examples"):
            assert not [name for name in imports(path) if is_in(name, "swarm.testing", "tests", "pytest")], module


@pytest.mark.parametrize("name", NO_IO)
def test_the_protocol_does_no_io(name: str) -> None:
    path = MODULES[f"swarm.core.{name}"]
    found = {imported.partition(".")[0] for imported in imports(path)} & DOES_IO
    assert found <= ALLOWED_IN.get(name, set())


def test_what_the_connection_handler_takes_of_trio() -> None:
    tree = ast.parse(MODULES["swarm.core.connection_handler"].read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trio"
    }
    assert used <= {"Event"}


def test_no_module_is_named_after_nothing() -> None:
    assert not [module for module in EVERYTHING if NAMED_AFTER_NOTHING & set(module.split("."))]


def test_no_import_is_circular() -> None:
    graph = {module: own_imports(path) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
