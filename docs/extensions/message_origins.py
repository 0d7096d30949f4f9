"""Which public names a sentence comes from: those whose code leads to the function that says it.

Definitions at the top of modules are joined where one has the other's name in it, and followed backwards from the
function that speaks to the first public names, those in the ``__all__`` of the package and of its rooms.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Protocol

__all__ = ["Origins"]

type Definition = tuple[str, str]  # module, name

_FAR = 6  # steps back
_FEW = 6  # names that are worth a line


class Source(Protocol):
    """One file: ``weights/layouts``, its tree, and what its imported names are."""

    name: str
    tree: ast.Module
    imports: dict[str, Definition]


class Origins:
    """The public names that lead to each definition of a package."""

    def __init__(self, modules: Mapping[str, Source]) -> None:
        self._modules = modules
        self._defined = {name: set(_definitions(module.tree)) for name, module in modules.items()}
        self._public = dict(self._public_names())
        self._users: dict[Definition, set[Definition]] = defaultdict(set)
        for name, module in modules.items():
            for node in module.tree.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    for used in _names(node):
                        found = self._resolved(name, used)
                        if found and found != (name, node.name):
                            self._users[found].add((name, node.name))
        self._known: dict[Definition, tuple[str, ...]] = {}

    def of(self, module: str, name: str) -> tuple[str, ...]:
        """Return the public names that a definition is or that lead to it, as people import them.

        They are those of the package itself, where there are few; else the first ones of its rooms.
        """
        start = module, name
        if start not in self._known:
            first, top = self._followed(start)
            self._known[start] = tuple(sorted(top if 0 < len(top) <= _FEW else first))
        return self._known[start]

    def _followed(self, start: Definition) -> tuple[set[str], set[str]]:
        """Return the first public names on each way back, and the names of the package itself."""
        first: set[str] = set()
        top: set[str] = set()
        seen, now = {start}, [(start, False)]
        for _ in range(_FAR):
            further: list[tuple[Definition, bool]] = []
            for definition, passed in now:
                name = self._public.get(definition)
                if name and not passed:
                    first.add(name)
                if name and name.count(".") == 1:
                    top.add(name)
                    continue
                users = [user for user in sorted(self._users[definition]) if user not in seen]
                further += [(user, passed or name is not None) for user in users]
                seen.update(users)
            now = further
        return first, top

    def _public_names(self) -> Iterator[tuple[Definition, str]]:
        rooms = sorted(
            (name for name, module in self._modules.items() if _exported(module.tree)),
            key=lambda name: (-name.count("/"), name == "__init__"),
        )
        for room in rooms:  # the package itself comes last: its path is the shortest
            prefix = "lucid_maskrcnn" if room == "__init__" else f"lucid_maskrcnn.{room.replace('/', '.')}"
            for name in _exported(self._modules[room].tree):
                found = self._resolved(room, name)
                if found and not found[1].startswith("_") and (room == "__init__" or "/" not in room):
                    yield found, f"{prefix}.{name}"

    def _resolved(self, module: str, name: str) -> Definition | None:
        for _ in range(4):
            if name in self._defined.get(module, ()):
                return module, name
            if module not in self._modules or name not in self._modules[module].imports:
                return None
            module, name = self._modules[module].imports[name]
            module = module or "__init__"
        return None


def _definitions(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _exported(tree: ast.Module) -> list[str]:
    """Return what a module that only imports has in its ``__all__``: a room."""
    if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
        return []
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return [e.value for e in getattr(node.value, "elts", []) if isinstance(e, ast.Constant)]
    return []


def _names(node: ast.AST) -> set[str]:
    """Return the names in the code of a definition; those of types in its signature are not called."""
    found: set[str] = set()
    waiting: list[ast.AST] = [node]
    while waiting:
        node = waiting.pop()
        for field in node._fields:
            if field in ("annotation", "returns", "ctx", "type_params"):
                continue
            value = getattr(node, field, None)
            if isinstance(value, ast.Name):
                found.add(value.id)
            elif isinstance(value, ast.AST):
                waiting.append(value)
            elif isinstance(value, list):
                found.update(part.id for part in value if isinstance(part, ast.Name))
                waiting += [part for part in value if isinstance(part, ast.AST) and not isinstance(part, ast.Name)]
    return found
