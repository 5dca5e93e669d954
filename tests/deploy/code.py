"""What the code says about its processes: their modules, their settings, and which addresses they call."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import typing
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from pydantic_settings import BaseSettings

PACKAGES = ("kit", "identity", "catalog", "dossier", "payment", "notify", "gateway", "sandbox", "ops", "dev")
ADDRESSES = ("_target", "_url", "_endpoint", "_host")
"""How the names of settings end that say where something is."""


@cache
def file_of(module: str) -> Path | None:
    """The source of a module; of a package its `__init__.py`."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def entry(module: str) -> str | None:
    """The module that `python -m` runs for this name; None when it can run none."""
    if file_of(f"{module}.__main__"):
        return f"{module}.__main__"
    source = file_of(module)
    if source is None or source.name == "__init__.py":
        return None
    runs = (isinstance(node, ast.If) and "__name__" in ast.dump(node.test) for node in parsed(source).body)
    return module if any(runs) else None


@cache
def parsed(path: Path) -> ast.Module:
    """A source file as a tree."""
    return ast.parse(path.read_text("utf-8"))


def settings_of(module: str) -> type[BaseSettings] | None:
    """The settings that a process reads; None for one that reads none.

    Those that its `build` takes, else those of its package that its module, or `settings` below it, knows.
    """
    if file_of(f"{module}.bootstrap"):
        build = importlib.import_module(f"{module}.bootstrap").build
        found: type[BaseSettings] = typing.get_type_hints(build)["settings"]
        return found
    place = f"{module}.settings" if file_of(f"{module}.settings") else module
    for value in vars(importlib.import_module(place)).values():
        if isinstance(value, type) and issubclass(value, BaseSettings) and _package(value) == _package(place):
            return value
    return None


def _package(of: str | type) -> str:
    return (of if isinstance(of, str) else of.__module__).partition(".")[0]


def names_of(kind: type[BaseSettings] | None) -> set[str]:
    """Names of the environment variables that a settings class reads."""
    return {name.upper() for name in kind.model_fields} if kind else set()


def modules(start: str) -> set[str]:
    """The modules of ours that come along when one is imported."""
    found: set[str] = set()
    todo = deque([start])
    while todo:
        module = todo.popleft()
        source = file_of(module)
        if module in found or source is None:
            continue
        found.add(module)
        todo.extend(_imported(parsed(source), module, source.name == "__init__.py"))
        if "." in module:
            todo.append(module.rpartition(".")[0])
    return found


def _imported(tree: ast.Module, module: str, package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + package]
                base = ".".join([*kept, *filter(None, [base])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


@cache
def addresses_used(module: str) -> frozenset[str]:
    """Settings with an address that the code behind `python -m module` uses, by the names of their variables.

    Where AWS_ENDPOINT leads is used by whoever imports obstore, which reads it by itself.
    """
    start = entry(module)
    assert start, f"python -m {module} runs nothing"
    kind = settings_of(module)
    known = {name for name in kind.model_fields if name.endswith(ADDRESSES)} if kind else set()
    trees = [parsed(path) for name in modules(start) if (path := file_of(name))]
    used = {name.upper() for tree in trees for name in attributes(tree) if name in known}
    return frozenset(used | ({"AWS_ENDPOINT"} if any(_imports(tree, "obstore") for tree in trees) else set()))


def attributes(tree: ast.AST) -> Iterable[str]:
    """Names of the attributes that a source reads, those that only a validator looks at left out."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef) and any("validator" in ast.dump(d) for d in node.decorator_list):
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        todo.extend(ast.iter_child_nodes(node))


def _imports(tree: ast.Module, package: str) -> bool:
    return any(
        (isinstance(node, ast.Import) and any(a.name.partition(".")[0] == package for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package)
        for node in ast.walk(tree)
    )


@cache
def durables(package: str) -> frozenset[str]:
    """Names of the durable consumers of a service, from the `Subscription`s of its `events_in`."""
    source = file_of(f"{package}.events_in")
    if source is None:
        return frozenset()
    found = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Subscription":
            given = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "durable")]
            found.add(ast.literal_eval(given[0]))
    return frozenset(found)
