"""The sentences that the package can say, collected from its source as templates: nothing is imported or run.

A template is the sentence with a name in braces for each value: ``{name} must be a positive integer, got {value}.``
Strings that a sentence is made of are followed to where they are written: local names, constants of the module,
conditional expressions, and the returned values of functions of the package. A function that raises an exception with
a phrase that its caller gives (``wanted``, ``problem``) is followed to its callers.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from extensions.message_origins import Origins

__all__ = ["Message", "collect", "page_notes"]

_MANY = 10  # alternatives of one sentence; with more of them a part of it stays a name in braces
_DEPTH = 4  # functions that are followed
# Parts that stay a name: what was given, a number with its noun.
_OPAQUE = {"given", "count_of", "described", "_owner", "_listed"}
# Defects of the package, signals and what Python itself means by them: no message that is written for anyone.
_INTERNAL = {"AssertionError", "NotImplementedError", "KeyboardInterrupt", "StopIteration", "GeneratorExit"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Checks whose argument "name" is what the caller calls a value, however many words that has.
_CHECKS = {"validators", "array_arguments", "ops/_checks", "ops/_operation"}
# Functions that say a sentence which no exception has: what it is then, and which argument.
_SAYING = {
    "warn_user": ("UserWarning", 0),
    "warn": ("stderr", 0),
    "_note": ("GroupError", 0),  # training/groups/watch.py
    "StartLimit": ("stderr", 1),
}

type _Function = ast.FunctionDef | ast.AsyncFunctionDef
_THROUGH = {"shown", "str", "repr", "printable", "escaped", "float", "int", "tuple", "list", "sorted"}
_KEPT_METHODS = {"strip", "rstrip", "lstrip", "removesuffix", "removeprefix", "replace", "format", "lower"}


@dataclass(frozen=True, order=True)
class Message:
    """One sentence.

    Attributes
    ----------
    template : str
        With a name in braces for each value.
    kind : str
        What it is: the class of an exception, ``"UserWarning"``, ``"fault"``, ``"warning"`` or ``"note"`` of
        ``check-data``, ``"usage"`` or ``"stderr"`` of the command line, ``"page"`` of the browser app.
    module : str
        Where it is written, relative to the package: ``"training/trainer"``.
    owner : str
        The function or class of the module in which it is.
    line : int
    origins : tuple of str
        Public names that lead to it.
    """

    template: str
    kind: str
    module: str
    owner: str = field(compare=False, default="")
    line: int = field(compare=False, default=0)
    origins: tuple[str, ...] = field(compare=False, default=())


@dataclass
class _Module:
    """One file: its definitions, its constants, and what its imported names are."""

    name: str
    tree: ast.Module
    functions: dict[str, _Function] = field(default_factory=dict)  # "f" and "Class.f"
    constants: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> module, name there


def collect(package: Path) -> list[Message]:
    """Return the messages of all modules of a package, each template of a module once, in order."""
    modules = {name: _module(name, path) for name, path in _files(package)}
    origins = Origins(modules)
    found: dict[Message, tuple[str, ...]] = {}
    for message in _Collector(modules).messages():
        found[message] = tuple(sorted({*found.get(message, ()), *origins.of(message.module, message.owner)}))
    return sorted(replace(message, origins=names) for message, names in found.items())


def page_notes(script: Path) -> list[Message]:
    """Return what a script of the browser app says on its page: the first arguments of ``say``."""
    text = script.read_text(encoding="utf-8")
    calls = re.finditer(r"""say\(\s*([`"])((?:(?!\1).)+)\1""", text)
    sentences = {re.sub(r"\$\{([^{}]*)\}", lambda m: "{" + _words(m[1]) + "}", call[2]) for call in calls}
    return [Message(sentence, "page", f"app/static/{script.stem}", "page") for sentence in sorted(sentences)]


def _words(code: str) -> str:
    """Return the last name in a piece of JavaScript."""
    return (re.findall(r"[A-Za-z_]\w*", code) or ["value"])[-1].replace("_", " ")


def _files(package: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).with_suffix("").as_posix().removesuffix("/__init__"), path


def _module(name: str, path: Path) -> _Module:
    module = _Module(name, ast.parse(path.read_text(encoding="utf-8")))
    parts = name.split("/") if name != "__init__" else []
    folder = parts if path.name == "__init__.py" else parts[:-1]
    for node in module.tree.body:
        for target, value in _assigned(node):
            module.constants[target] = value
        if isinstance(node, _FUNCTIONS):
            module.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, _FUNCTIONS):
                    module.functions[f"{node.name}.{member.name}"] = member
    for imported in _imports(module.tree.body):
        source = imported.module.split(".") if imported.module else []
        if imported.level:
            source = [*folder[: len(folder) - imported.level + 1], *source]
        elif source[:1] == ["lucid_maskrcnn"]:
            source = source[1:]
        else:
            continue
        for alias in imported.names:
            module.imports[alias.asname or alias.name] = ("/".join(source), alias.name)
    return module


def _imports(block: list[ast.stmt]) -> Iterator[ast.ImportFrom]:
    for statement in block:
        if isinstance(statement, ast.ImportFrom):
            yield statement
        elif isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            yield from _imports(statement.body)
        else:
            for inner in _blocks(statement):
                yield from _imports(inner)


def _assigned(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """Return the names that a statement gives a value to, with the values."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return [(node.target.id, node.value)]
    if isinstance(node, ast.NamedExpr):
        return [(node.target.id, node.value)]
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return []
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Name):
        return [(target.id, value)]
    if not isinstance(target, ast.Tuple) or not all(isinstance(t, ast.Name) for t in target.elts):
        return []
    names = [t.id for t in target.elts if isinstance(t, ast.Name)]
    rows: list[ast.expr] = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
    pairs = [
        pair
        for row in rows
        if isinstance(row, ast.Tuple) and len(row.elts) == len(names)
        for pair in zip(names, row.elts, strict=True)
    ]
    return pairs


# ------------------------------------------------------------------ names in braces


def _name_of(node: ast.AST) -> str:
    """Return a short name for the value of an expression."""
    if isinstance(node, ast.Name):
        return node.id.strip("_").replace("_", " ")
    if isinstance(node, ast.Attribute):
        if node.attr == "__name__":
            return f"type of {_name_of(node.value)}".replace("type of type of", "type of")
        if node.attr in ("dtype", "shape", "size", "ndim"):
            return f"{node.attr} of {_name_of(node.value)}"
        return node.attr.strip("_").replace("_", " ")
    if isinstance(node, ast.Call):
        return _name_of_call(node)
    if isinstance(node, ast.Subscript):
        return _name_of(node.value)
    if isinstance(node, ast.Starred | ast.FormattedValue | ast.Await | ast.NamedExpr):
        return _name_of(node.value)
    if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
        return _name_of(node.generators[0].iter)
    if isinstance(node, ast.IfExp):
        return _name_of(node.body)
    inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
    names = [name for name in map(_name_of, inner) if name != "…"]
    return names[0] if names else "…"


def _name_of_call(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Name):
        if function.id == "len" and node.args:
            return f"number of {_name_of(node.args[0])}"
        if function.id == "type" and node.args:
            return f"type of {_name_of(node.args[0])}"
        if function.id == "map" and len(node.args) > 1:
            return _name_of(node.args[1])
        if function.id == "count_of" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            return f"number of {node.args[1].value}s"
        return _name_of(node.args[0]) if node.args else function.id.strip("_").replace("_", " ")
    if isinstance(function, ast.Attribute):
        if function.attr == "join" and node.args:
            return _name_of(node.args[0])
        if function.attr in (*_KEPT_METHODS, "tolist", "item", "as_posix", "getvalue", "decode", "values", "items"):
            return _name_of(function.value)
        return _name_of(node.args[0]) if node.args else function.attr.strip("_").replace("_", " ")
    return "value"


# ------------------------------------------------------------------ strings

type _Chain = tuple[tuple[int, int], ...]  # the blocks around a statement, outermost first, and its place in each


@dataclass(frozen=True)
class _Place:
    """Where an expression stands: its module, the class and the functions around it, and what parameters are."""

    module: _Module
    owner: str = ""  # the class
    functions: tuple[_Function, ...] = ()
    chain: _Chain = ()
    bound: tuple[tuple[str, tuple[str, ...]], ...] = ()
    calls: tuple[str, ...] = ()  # functions that are being followed
    busy: frozenset[int] = frozenset()  # values that are being followed

    @property
    def home(self) -> int:
        """Key of the outermost function, or of the module."""
        return id(self.functions[0] if self.functions else self.module)


@dataclass
class _Body:
    """What the statements of a function say: values of its names, and what it returns, each with its place."""

    values: dict[str, list[tuple[ast.expr, _Chain]]] = field(default_factory=lambda: defaultdict(list))
    returned: list[tuple[ast.expr, _Chain]] = field(default_factory=list)


@cache
def _body(function: _Function) -> _Body:
    body = _Body()
    _read_block(function.body, (), body)
    return body


def _read_block(block: list[ast.stmt], outer: _Chain, body: _Body) -> None:
    for index, statement in enumerate(block):
        chain = (*outer, (id(block), index))
        for target, value in _assigned(statement):
            body.values[target].append((value, chain))
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            longer = ast.BinOp(ast.Name(statement.target.id), statement.op, statement.value)
            body.values[statement.target.id] += [(longer, chain)]
        if isinstance(statement, ast.Return) and statement.value is not None:
            body.returned.append((statement.value, chain))
        if isinstance(statement, ast.If | ast.While) and isinstance(statement.test, ast.NamedExpr):
            body.values[statement.test.target.id].append((statement.test.value, chain))
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):  # parts.append("…")
            call = statement.value
            method = call.func
            if isinstance(method, ast.Attribute) and method.attr == "append" and isinstance(method.value, ast.Name):
                perhaps = (*chain, (id(statement), 0))
                body.values[method.value.id] += [(part, perhaps) for part in call.args]
        for inner in _blocks(statement):
            _read_block(inner, chain, body)


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Yield the blocks of a statement, but not those of functions and classes."""
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
        return
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if block:
            yield block
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def _reaching(values: list[tuple[ast.expr, _Chain]], use: _Chain) -> list[tuple[ast.expr, _Chain]]:
    """Return the values that a name can have at a statement: those before it, from the last certain one on."""
    found = []
    for value, chain in reversed(values):
        certain = _reaches(chain, use)
        if certain is not None:
            found.append((value, chain))
            if certain:
                break
    return found[::-1]


def _reaches(chain: _Chain, use: _Chain) -> bool | None:
    """Whether a statement surely comes before another, False if perhaps, None if it does not."""
    for level, (block, index) in enumerate(chain):
        if level >= len(use) or use[level][0] != block or index > use[level][1]:
            return None
        if index < use[level][1]:
            return level == len(chain) - 1
    return len(chain) < len(use) or None


def _parameters(function: _Function) -> list[str]:
    arguments = function.args
    return [a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]


def _defaults(function: _Function) -> dict[str, ast.expr]:
    arguments = function.args
    by_position = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
    found = dict(zip(reversed(by_position), reversed(arguments.defaults), strict=False))
    found.update({a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None})
    return found


class _Texts:
    """What strings an expression can be: templates, or None if it is no string that is written here."""

    def __init__(self, modules: dict[str, _Module]) -> None:
        self.modules = modules

    def of(self, node: ast.expr, place: _Place) -> list[str] | None:
        handle = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        texts: list[str] | None = handle(node, place) if handle else None
        if texts is None:
            return None
        unique = list(dict.fromkeys(texts))
        return unique if len(unique) <= _MANY else None

    def shown(self, node: ast.expr, place: _Place) -> list[str]:
        return self.of(node, place) or ["{" + _name_of(node) + "}"]

    def _of_constant(self, node: ast.Constant, place: _Place) -> list[str] | None:
        return [node.value] if isinstance(node.value, str) else None

    def _of_joinedstr(self, node: ast.JoinedStr, place: _Place) -> list[str] | None:
        parts = [self.shown(p.value if isinstance(p, ast.FormattedValue) else p, place) for p in node.values]
        parts = [["{" + _name_of(p) + "}"] if t == [""] else t for t, p in zip(parts, node.values, strict=True)]
        while (product := _product(map(len, parts))) > _MANY:
            widest = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[widest] = ["{" + _name_of(node.values[widest]) + "}"] if product else []
        return ["".join(chosen) for chosen in itertools.product(*parts)]

    def _of_binop(self, node: ast.BinOp, place: _Place) -> list[str] | None:
        left, right = self.of(node.left, place), self.of(node.right, place)
        if isinstance(node.op, ast.Mult):
            text = left or right
            return [*text, ""] if text else None
        if not isinstance(node.op, ast.Add) or (left is None and right is None):
            return None
        first, second = left or self.shown(node.left, place), right or self.shown(node.right, place)
        return [a + b for a, b in itertools.product(first, second)]

    def _of_ifexp(self, node: ast.IfExp, place: _Place) -> list[str] | None:
        branches = [self.of(node.body, place), self.of(node.orelse, place)]
        if branches == [None, None]:
            return None
        shown = [b or self.shown(n, place) for b, n in zip(branches, (node.body, node.orelse), strict=True)]
        return [*shown[0], *shown[1]]

    def _of_boolop(self, node: ast.BoolOp, place: _Place) -> list[str] | None:
        texts = [self.of(value, place) for value in node.values]
        if all(t is None for t in texts):
            return None
        return [s for t, v in zip(texts, node.values, strict=True) for s in (t or self.shown(v, place)) if s]

    def _of_namedexpr(self, node: ast.NamedExpr, place: _Place) -> list[str] | None:
        return self.of(node.value, place)

    def _of_name(self, node: ast.Name, place: _Place) -> list[str] | None:
        bound = dict(place.bound).get(node.id)
        if bound is not None:
            return list(bound)
        if node.id in _OPAQUE and place.module.name in _CHECKS:
            return None
        for depth, function in enumerate(reversed(place.functions)):
            values = _body(function).values.get(node.id, [])
            reaching = values if depth else _reaching(values, place.chain)
            if reaching:
                return self._union(reaching, place)
            if node.id in _parameters(function):
                return None
        if node.id in place.module.constants:
            return self.of(place.module.constants[node.id], replace(place, functions=(), chain=(), bound=()))
        source, name = place.module.imports.get(node.id, ("", ""))
        other = self.modules.get(source)
        if other and name in other.constants:
            return self.of(other.constants[name], _Place(other, busy=place.busy))
        return None

    def _union(self, values: list[tuple[ast.expr, _Chain]], place: _Place) -> list[str] | None:
        """Return what an expression can be that has one of several values; None is no string, not "None"."""
        values = [(v, c) for v, c in values if id(v) not in place.busy and not _is_nothing(v)]
        texts = [self.of(v, replace(place, chain=c, busy=place.busy | {id(v)})) for v, c in values]
        if all(t is None for t in texts):
            return None
        return [s for t, (v, _) in zip(texts, values, strict=True) for s in (t or self.shown(v, place))]

    def _of_subscript(self, node: ast.Subscript, place: _Place) -> list[str] | None:
        mapping = node.value
        if isinstance(mapping, ast.Name) and mapping.id in place.module.constants:
            mapping = place.module.constants[mapping.id]
        return self._values(mapping, place)

    def _values(self, mapping: ast.expr, place: _Place) -> list[str] | None:
        """Return the values of a dict or tuple of strings that stands in the source."""
        values = (
            mapping.values
            if isinstance(mapping, ast.Dict)
            else mapping.elts
            if isinstance(mapping, ast.Tuple | ast.List)
            else []
        )
        texts = [self.of(value, place) for value in values]
        return [s for t in texts for s in t or []] or None if all(texts) else None

    def _of_call(self, node: ast.Call, place: _Place) -> list[str] | None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in _THROUGH and node.args:
            return self.of(node.args[0], place)
        if isinstance(function, ast.Attribute) and function.attr in _KEPT_METHODS:
            return self.of(function.value, place)
        if isinstance(function, ast.Attribute) and function.attr == "join" and len(node.args) == 1:
            return self.of(node.args[0], place) if isinstance(node.args[0], ast.Name) else None
        if isinstance(function, ast.Attribute) and function.attr == "get" and len(node.args) == 2:
            values = self._values(function.value, place)
            rest = self.of(node.args[1], place)
            return [*values, *(rest or [])] if values else None
        target = self.function_of(function, place)
        if target is None or target[1].rpartition(".")[2] in _OPAQUE:
            return None
        key = f"{target[0].name}.{target[1]}"
        if key in place.calls:
            return [""]  # a function that goes on with less of the same
        if len(place.calls) >= _DEPTH:
            return None
        inner = self.called(node, target, place)
        return self._union(_body(inner.functions[0]).returned, inner)

    # -------------------------------------------------------------- functions

    def function_of(self, function: ast.expr, place: _Place) -> tuple[_Module, str] | None:
        """Return the module and the name of the function of the package that is called, if it is one."""
        if isinstance(function, ast.Name):
            if function.id in place.module.functions:
                return place.module, function.id
            source, name = place.module.imports.get(function.id, ("", ""))
            return self._exported(source, name)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            owner, name = function.value.id, function.attr
            if owner in ("self", "cls") and f"{place.owner}.{name}" in place.module.functions:
                return place.module, f"{place.owner}.{name}"
            if f"{owner}.{name}" in place.module.functions:
                return place.module, f"{owner}.{name}"
            source, module = place.module.imports.get(owner, ("", ""))
            return self._exported(f"{source}/{module}".strip("/"), name) if module else None
        return None

    def _exported(self, source: str, name: str) -> tuple[_Module, str] | None:
        for _ in range(4):
            module = self.modules.get(source or "__init__")
            if module is None or not name:
                return None
            if name in module.functions:
                return module, name
            source, name = module.imports.get(name, ("", ""))
        return None

    def called(self, node: ast.Call, target: tuple[_Module, str], place: _Place) -> _Place:
        """Return the place within a function that is called, with what its parameters are in this call."""
        module, name = target
        function = module.functions[name]
        arguments = self.arguments(node, function, place)
        bound = tuple((parameter, tuple(texts)) for parameter, texts in arguments.items())
        return _Place(module, name.rpartition(".")[0], (function,), (), bound, (*place.calls, f"{module.name}.{name}"))

    def arguments(self, node: ast.Call, function: _Function, place: _Place) -> dict[str, list[str]]:
        """Return what is known of the arguments of a call: strings, or the names of other values in braces."""
        names = [p for p in _parameters(function) if p not in ("self", "cls")]
        given = {
            n: v for n, v in _defaults(function).items() if isinstance(v, ast.Constant) and isinstance(v.value, str)
        }
        given.update(zip(names, node.args, strict=False))
        given.update({k.arg: k.value for k in node.keywords if k.arg})
        return {n: self.shown(v, place) for n, v in given.items() if n in names and not isinstance(v, ast.Starred)}


def _is_nothing(node: ast.expr) -> bool:
    """Whether it is None, which no sentence shows, or an empty list, to which sentences are added."""
    return (isinstance(node, ast.Constant) and node.value is None) or (isinstance(node, ast.List) and not node.elts)


def _product(numbers: Iterable[int]) -> int:
    product = 1
    for n in numbers:
        product *= n
    return product


# ------------------------------------------------------------------ sites


class _Collector:
    """Goes through all modules for the calls that say something, and through the calls of functions that raise."""

    def __init__(self, modules: dict[str, _Module]) -> None:
        self.modules = modules
        self.texts = _Texts(modules)
        self.said: dict[int, list[tuple[str, str, int]]] = defaultdict(list)  # of a function: kind, template, line
        self.calls: dict[int, list[tuple[ast.Call, _Place]]] = defaultdict(list)  # of a function
        self.homes: dict[int, _Place] = {}

    def messages(self) -> Iterator[Message]:
        for module in self.modules.values():
            self._visit_block(module.tree.body, _Place(module))
        for home, said in list(self.said.items()):
            for kind, template, line in said:
                for text, at, number in self._followed(home, template, line, 0):
                    level, _, sentence = text.rpartition("\0")
                    yield Message(_tidy(sentence), level or kind, at.module.name, _owner(at), number)

    # -------------------------------------------------------------- the calls

    def _visit_block(self, block: list[ast.stmt], place: _Place) -> None:
        outer = place.chain
        for index, statement in enumerate(block):
            inside = replace(place, chain=(*outer, (id(block), index)))
            if isinstance(statement, ast.ClassDef):
                self._visit_block(statement.body, _Place(place.module, statement.name, place.functions))
                continue
            if isinstance(statement, _FUNCTIONS):
                self._visit_block(statement.body, _Place(place.module, place.owner, (*place.functions, statement)))
                continue
            for name in statement._fields:
                if name not in ("body", "orelse", "finalbody", "handlers", "cases"):
                    self._visit(getattr(statement, name, None), inside)
            for inner in _blocks(statement):
                self._visit_block(inner, inside)

    def _visit(self, node: object, place: _Place) -> None:
        if isinstance(node, list):
            for part in node:
                self._visit(part, place)
        elif isinstance(node, ast.AST):
            if isinstance(node, ast.Call):
                self._call(node, place)
            for name in node._fields:
                value = getattr(node, name, None)
                if isinstance(value, ast.AST | list):
                    self._visit(value, place)

    def _call(self, node: ast.Call, place: _Place) -> None:
        kind, expressions = _said(node)
        self.homes.setdefault(place.home, place)
        if kind:
            self.said[place.home] += [(kind, text, node.lineno) for text in self._sentences(kind, expressions, place)]
            return
        target = self.texts.function_of(node.func, place)
        if target:
            self.calls[id(target[0].functions[target[1]])].append((node, place))

    def _sentences(self, kind: str, expressions: list[ast.expr], place: _Place) -> list[str]:
        if kind == "issue":
            parts = [self.texts.shown(e, place) for e in expressions]
            chosen = itertools.islice(itertools.product(*parts), _MANY)
            return [f"{level}\0{where} {what}: {then}." for where, what, level, then in chosen]
        for expression in expressions:
            texts = self.texts.of(expression, place)
            if texts:
                return texts
        parameters = {name for function in place.functions for name in _parameters(function)}
        names = [e.id for e in expressions if isinstance(e, ast.Name)]
        return ["{" + name.replace("_", " ") + "}" for name in names if name in parameters]  # a sentence of callers

    # -------------------------------------------------------------- the callers

    def _followed(self, home: int, template: str, line: int, depth: int) -> Iterator[tuple[str, _Place, int]]:
        """Yield a template with the phrases that callers of its function give, or as it is if there are none."""
        place = self.homes[home]
        known = {p.replace("_", " ").strip(): p for p in (_parameters(place.functions[0]) if place.functions else ())}
        known.pop("name" if place.module.name in _CHECKS else "", None)
        names = [n for n in dict.fromkeys(re.findall(r"\{([^{}]+)\}", template)) if n in known]
        as_it_is = not names
        calls = self.calls.get(home, []) if names and depth < _DEPTH else []
        for call, caller in calls:
            given = self.texts.arguments(call, place.functions[0], caller)
            phrases = {n: [t for t in given.get(known[n], []) if _is_phrase(t) or n == "level"] for n in names}
            phrases = {n: texts for n, texts in phrases.items() if texts}
            if not any(any(texts) for n, texts in phrases.items() if n != "level"):
                as_it_is = True
                continue
            for chosen in itertools.islice(itertools.product(*phrases.values()), _MANY):
                text = template
                for name, phrase in zip(phrases, chosen, strict=True):
                    text = text.replace("{" + name + "}", phrase)
                if caller.home == home:
                    yield text, caller, call.lineno
                else:
                    yield from self._followed(caller.home, text, call.lineno, depth + 1)
        if (as_it_is or not calls) and _is_written(template):
            yield template, place, line


def _owner(place: _Place) -> str:
    return place.owner or (place.functions[0].name if place.functions else "")


def _said(node: ast.Call) -> tuple[str, list[ast.expr]]:
    """Return what a call says, if it does: the kind of message, and the expressions that may be its sentence."""
    function = node.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    if name in _SAYING:
        kind, at = _SAYING[name]
        return kind, node.args[at : at + 1]
    if name == "print" and any(k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in node.keywords):
        return "stderr", node.args[:1]
    if name == "Issue":
        return _issue(node)
    if name == "error" and isinstance(function, ast.Attribute) and node.args:
        return "usage", node.args[:1]
    if name == "SystemExit":
        return "usage", node.args[:1]
    if isinstance(function, ast.Call | ast.IfExp):  # raise type(error)(…)
        return _dynamic(function), node.args[:1]
    if name == "kind":
        return "TypeError or ValueError", node.args[:1]
    if name == "AppError":
        return "page", node.args[1:2]
    if name.endswith("Error") and name not in _INTERNAL and not name.startswith("is"):
        kind = "usage" if name in ("ArgumentTypeError", "ArgumentError") else name
        return kind, [a for a in node.args if not isinstance(a, ast.Starred)]
    return "", []


def _dynamic(function: ast.expr) -> str:
    names = sorted({n.id for n in ast.walk(function) if isinstance(n, ast.Name) and n.id.endswith("Error")})
    if names:
        return " or ".join(names)
    return "TypeError or ValueError" if "type(error)" in ast.unparse(function) else ""


def _issue(node: ast.Call) -> tuple[str, list[ast.expr]]:
    names = ("place", "problem", "level", "remedy", "kind")
    given: dict[str, ast.expr] = dict(zip(names, node.args, strict=False))
    given.update({k.arg: k.value for k in node.keywords if k.arg})
    if "problem" not in given:
        return "", []
    level, remedy = given.get("level", ast.Constant("fault")), given.get("remedy", ast.Constant(""))
    return "issue", [given["place"], given["problem"], level, remedy]


def _is_written(template: str) -> bool:
    """Whether there are words besides the names in braces."""
    return len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{[^{}]*\}", "", template))) >= 2


def _is_phrase(text: str) -> bool:
    """Whether an argument is a part of a sentence, not a name; so is one that is left out."""
    return not text or " " in re.sub(r"\{[^{}]*\}", "", text).strip()


def _tidy(template: str) -> str:
    return " ".join(template.replace(": .", ".").split())
