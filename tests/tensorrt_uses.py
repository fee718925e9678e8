"""Which attributes of a TensorRT library some Python files use, found by following types through their syntax trees.

The surface (tensorrt_surface.py) says what a function returns and of which type a property is; from the names annotated or made
as the module on, types go through assignments, calls of the files' own functions, loops and attributes of ``self``. An attribute
of something whose type got lost on the way is told as such, so that nothing is passed over.

Types: "module", "class X", "X" (an object), "function X" (gives an object X), "list X", "" (nothing of TensorRT), "?" (lost).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# of Python, and so of every library
_PYTHON = {"__name__", "__version__", "__init__", "__file__"}
_PLAIN = {"", "None", "int", "str", "bool", "float", "bytes", "typing_extensions.CapsuleType", "CapsuleType"}


@dataclass
class Uses:
    found: set[str] = field(default_factory=set)  # "Builder", "Builder.create_network"
    missing: set[str] = field(default_factory=set)  # of them, what the library does not have
    lost: set[str] = field(default_factory=set)  # "file:line attribute", on something of an unknown type


def uses(sources: dict[str, str], surface: dict[str, Any]) -> Uses:
    """`sources`: the text of each file by its module's name, as ``flavour``."""
    reader = _Reader({name: ast.parse(text) for name, text in sources.items()}, surface)
    while reader.read_all():  # types of parameters and results become known from one round to the next
        reader.uses = Uses()
    return reader.uses


class _Reader:
    def __init__(self, trees: dict[str, ast.Module], surface: dict[str, Any]) -> None:
        self.trees, self.surface = trees, surface
        self.uses = Uses()
        self.types: dict[str, str] = {}  # of parameters, results, attributes of self, and module-level names
        self.own: dict[str, ast.FunctionDef] = {}  # by "file.function"
        for name, tree in trees.items():
            self.own |= {f"{name}.{node.name}": node for node in tree.body if isinstance(node, ast.FunctionDef)}

    def read_all(self) -> bool:
        """Whether something became known."""
        before = dict(self.types)
        for name, tree in self.trees.items():
            self.file = name
            self.read_body(tree.body, {}, "")
        return self.types != before

    def learn(self, key: str, type_: str) -> None:
        if type_ and self.types.get(key, "?") == "?":
            self.types[key] = type_

    # ---- statements ----

    def read_body(self, body: Iterable[ast.stmt], names: dict[str, str], owner: str) -> None:
        for node in body:
            self.read(node, names, owner)

    def read(self, node: ast.AST, names: dict[str, str], owner: str) -> None:
        """`owner`: "file.function" in a function, whose result it is that `return` gives; names: the types of its variables."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.read_function(node, names)
        elif isinstance(node, ast.ClassDef):
            self.read_class(node, names)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            if node.value is not None:
                type_ = self.type_of(node.value, names)
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.bind(target, type_, names)
        elif isinstance(node, ast.For):
            self.bind(node.target, _element(self.type_of(node.iter, names)), names)
            self.read_body([*node.body, *node.orelse], names, owner)
        elif isinstance(node, ast.Return):
            self.learn(f"result {owner}", self.type_of(node.value, names) if node.value else "")
        elif isinstance(node, ast.expr):
            self.type_of(node, names)
        else:
            for child in ast.iter_child_nodes(node):
                self.read(child, names, owner)

    def read_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, outer: dict[str, str], self_: str = "") -> None:
        names, owner = dict(outer), f"{self.file}.{node.name}"
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            module = isinstance(argument.annotation, ast.Name) and argument.annotation.id == "ModuleType"
            names[argument.arg] = "module" if module else self.types.get(f"{owner}({argument.arg})", "")
        if self_:
            names["self"] = self_
        self.read_body(node.body, names, owner)

    def read_class(self, node: ast.ClassDef, names: dict[str, str]) -> None:
        bases = [base for base in (self.type_of(base, names) for base in node.bases) if base.startswith("class ")]
        names[node.name] = bases[0] if bases else ""
        for item in node.body:
            if not isinstance(item, ast.FunctionDef):
                self.read(item, names, "")
                continue
            if bases and not item.name.startswith("_"):
                self.attribute(bases[0].removeprefix("class "), item.name, item)  # TensorRT calls it by this name
            self.read_function(item, names, f"self {self.file}.{node.name}")

    def bind(self, target: ast.expr, type_: str, names: dict[str, str]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = type_
        elif isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self.bind(part, "", names)
        elif isinstance(target, ast.Attribute):
            owner = self.type_of(target.value, names)
            if owner.startswith("self "):
                self.learn(f"{owner}.{target.attr}", type_)
            else:
                self.attribute(owner, target.attr, target)

    # ---- expressions ----

    def type_of(self, node: ast.expr, names: dict[str, str]) -> str:
        if isinstance(node, ast.Name):
            return names.get(node.id, "")
        if isinstance(node, ast.Attribute):
            return self.attribute(self.type_of(node.value, names), node.attr, node)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            inner = self.comprehension(node, names)
            element = self.type_of(node.elt, inner)
            return f"list {element}" if element else ""
        if isinstance(node, ast.DictComp):
            inner = self.comprehension(node, names)
            self.type_of(node.key, inner), self.type_of(node.value, inner)
            return ""
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            parts = [self.type_of(part, names) for part in node.elts]
            parts = [type_ for type_ in parts if type_]
            return "" if not parts else parts[0] if parts[0].startswith("list ") else f"list {parts[0]}"
        if isinstance(node, ast.Starred):
            return self.type_of(node.value, names)
        if isinstance(node, ast.IfExp):
            self.type_of(node.test, names)
            either = [self.type_of(node.body, names), self.type_of(node.orelse, names)]
            return either[0] or either[1]
        if isinstance(node, ast.Lambda):
            return self.type_of(node.body, names) and ""
        if isinstance(node, ast.NamedExpr):
            self.read(node, names, "")
            return names.get(node.target.id, "")
        types = [self.type_of(child, names) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        if isinstance(node, ast.BoolOp):
            return next((type_ for type_ in types if type_), "")
        return _element(types[0]) if isinstance(node, ast.Subscript) else ""

    def comprehension(self, node: Any, names: dict[str, str]) -> dict[str, str]:
        inner = dict(names)
        for part in node.generators:
            self.bind(part.target, _element(self.type_of(part.iter, inner)), inner)
            for condition in part.ifs:
                self.type_of(condition, inner)
        return inner

    def call(self, node: ast.Call, names: dict[str, str]) -> str:
        given = [self.type_of(argument, names) for argument in node.args]
        keywords = {entry.arg: self.type_of(entry.value, names) for entry in node.keywords}
        known = isinstance(node.func, ast.Name) and node.func.id
        if known == "getattr" and isinstance(node.args[1], ast.Constant):
            return self.attribute(given[0], str(node.args[1].value), node)
        if known in ("getattr", "hasattr", "dir", "bytes", "int", "bool", "str"):
            return ""
        own = self.own_function(node.func, names)
        if own is not None:
            function = self.own[own]
            for argument, type_ in zip(function.args.args, given, strict=False):
                self.learn(f"{own}({argument.arg})", type_)
            for argument_name, type_ in keywords.items():
                self.learn(f"{own}({argument_name})", type_)
            if isinstance(function.returns, ast.Name) and function.returns.id == "ModuleType":
                return "module"
            return self.types.get(f"result {own}", "")
        callee = self.type_of(node.func, names)
        if callee.startswith("class "):
            return callee.removeprefix("class ")
        if callee.startswith("function "):
            gives = callee.removeprefix("function ")
            return "" if gives in _PLAIN else gives if gives in self.surface["classes"] else "?"
        return ""

    def own_function(self, function: ast.expr, names: dict[str, str]) -> str | None:
        """`f` of the same file, or `file.f`."""
        if isinstance(function, ast.Name) and function.id not in names:
            name = f"{self.file}.{function.id}"
        elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id not in names:
            name = f"{function.value.id}.{function.attr}"
        else:
            return None
        return name if name in self.own else None

    def attribute(self, owner: str, name: str, node: ast.AST) -> str:
        if owner.startswith("self "):
            return self.types.get(f"{owner}.{name}", "")
        if owner == "" or name in _PYTHON:
            return ""
        if owner == "?" or owner.startswith(("list ", "function ")):
            self.uses.lost.add(f"{self.file}:{node.lineno} {name}")
            return ""
        owner = owner.removeprefix("class ")
        told = f"{owner}.{name}" if owner != "module" else name
        self.uses.found.add(told)
        entries = self.surface["module"] if owner == "module" else self.surface["classes"][owner]
        if name not in entries:
            self.uses.missing.add(told)
            return ""
        kind, type_ = entries[name]["kind"], entries[name]["type"]
        if kind in ("class", "function"):
            return f"{kind} {type_}"
        return "" if type_ in _PLAIN else type_ if type_ in self.surface["classes"] else ""


def _element(type_: str) -> str:
    return type_.removeprefix("list ") if type_.startswith("list ") else ""
