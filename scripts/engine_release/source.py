"""What the source of a release says, read without importing it: names that others import, metrics, deprecations."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

METRIC = re.compile(r"[\"'](vllm:[a-z][a-z0-9_]+)[\"']")
DEPRECATED = re.compile(r"\(?(--[a-z0-9-]+)\)? is deprecated")
CONNECTOR = re.compile(r'register_connector\(\s*"(\w+)",\s*"([\w.]+)",\s*"(\w+)"')


def metrics(folder: Path) -> set[str]:
    """Names of the Prometheus metrics in the source."""
    return {name for file in _files(folder / "vllm") for name in METRIC.findall(file.read_text(encoding="utf-8"))}


def deprecations(folder: Path) -> dict[str, str]:
    """Flags that the release calls deprecated, with its message."""
    tree = ast.parse((folder / "vllm" / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {flag: text.strip() for text in texts for flag in DEPRECATED.findall(text)}


def mentions(folder: Path, module: str, text: str) -> bool:
    """Whether a file of vLLM has this text."""
    return text in (folder / "vllm" / module).read_text(encoding="utf-8")


def hybrid_connectors(folder: Path) -> set[str]:
    """KV connectors whose class, or a class that it is derived from, has `SupportsHMA` among its bases."""
    connectors = folder / "vllm" / "distributed" / "kv_transfer" / "kv_connector"
    bases: dict[str, set[str]] = {}
    for file in _files(connectors):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                bases |= {target.id: {node.value.id} for target in node.targets if isinstance(target, ast.Name)}
    supporting = {"SupportsHMA"}
    while more := {name for name, parents in bases.items() if parents & supporting} - supporting:
        supporting |= more
    registered = CONNECTOR.findall((connectors / "factory.py").read_text(encoding="utf-8"))
    return {name for name, _, cls in registered if cls in supporting}


@dataclass(frozen=True)
class BrokenImport:
    """A name that a module imports from vLLM and that is not there."""

    module: str
    line: int
    name: str
    loads: bool
    """The module cannot be imported: the import is neither in a function nor guarded."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.name}"


def broken_imports(folder: Path, modules: dict[str, Path]) -> list[BrokenImport]:
    """Imports from vLLM in these modules that the release does not satisfy."""
    broken = []
    for module, file in modules.items():
        for node, loads in _imports(ast.parse(file.read_text(encoding="utf-8")).body, True):
            broken += [
                BrokenImport(module, node.lineno, name, loads)
                for name in _imported(node)
                if name.partition(".")[0] == "vllm" and not _exists(folder, name)
            ]
    return broken


def reachable(roots: Iterable[str], modules: dict[str, Path]) -> set[str]:
    """Modules that importing the roots imports, as far as they are among `modules`."""
    found: set[str] = set()
    waiting = [name for name in roots if name in modules]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        parents = [name.rpartition(".")[0]]
        for node, loads in _imports(ast.parse(modules[name].read_text(encoding="utf-8")).body, True):
            if loads:
                parents += [part for full in _imported(node) for part in (full, full.rpartition(".")[0])]
        waiting += [part for part in parents if part in modules]
    return found


def modules_of(folder: Path, package: str) -> dict[str, Path]:
    """Module names and files of an installed package."""
    return {
        ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): file
        for file in _files(folder / package)
    }


def site_packages(package: str) -> Path:
    """The folder that an installed package is in."""
    return next(Path(entry) for entry in sys.path if entry and (Path(entry) / package).is_dir())


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*.py") if "tests" not in path.parts)


def _imports(body: list[ast.stmt], loads: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Imports of a block, and whether the module fails to load without them."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, loads
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, loads)
        else:
            guarded = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try)
            for field in ("body", "orelse", "finalbody", "handlers"):
                inner = [part for part in getattr(node, field, []) if isinstance(part, ast.stmt | ast.ExceptHandler)]
                yield from _imports(inner, loads and not guarded)  # type: ignore[arg-type]


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level or node.module is None:
        return []
    return [node.module if alias.name == "*" else f"{node.module}.{alias.name}" for alias in node.names]


@cache
def _exists(folder: Path, name: str) -> bool:
    """Whether a dotted name is a module, or a name that a module defines."""
    path = folder.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").exists() or list(path.parent.glob(f"{path.name}.*.so")):
        return True
    module, _, last = name.rpartition(".")
    if not module:
        return False
    file = folder.joinpath(*module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return file.exists() and last in _defined(file)


@cache
def _defined(file: Path) -> frozenset[str]:
    """Names at the top level of a module. A module that computes its names has those that its text quotes."""
    text = file.read_text(encoding="utf-8")
    names: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(text).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        for target in getattr(node, "targets", None) or [getattr(node, "target", None)]:
            names |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)} if target else set()
        for field in ("body", "orelse", "finalbody", "handlers"):
            waiting += getattr(node, field, [])
    if "__getattr__" in names:
        names |= set(re.findall(r"[\"'](\w+)[\"']", text))
    return frozenset(names)
