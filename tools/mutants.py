"""Small changes of a program, each of which a test should notice: where they can be made, and how.

A mutant is known by its function and by what it changes, not by its file or line: as long as the code of a function
stays as it is, the same seed chooses the same mutants of it, wherever its module moves.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
NO_SWAP = {"cast", "filter", "getattr", "hasattr", "isinstance", "issubclass", "map", "max", "min", "setattr"}
"""Functions whose first two arguments commute, or which fail at once with them the other way round."""
UNTOUCHED = {"annotation", "returns", "decorator_list", "type_params"}
"""Fields of a node that are left alone: types, and decorators, most of which change nothing that can be seen."""


Lines = tuple[int, int]
"""First and last."""
Names = tuple[str, ...] | None
"""None in a function; else the names of what is made when the module is imported."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    module: str
    """Path in the checkout."""
    number: int
    """Which of the module's changes it is."""
    scope: str
    """Qualified name of the function or class; outside of any, the name that the statement assigns."""
    line: int
    operator: str
    before: str
    after: str
    lines: Lines
    """The code that a test must run to notice."""
    names: Names
    key: str
    """The same for the same change of the same function under the same seed, evenly spread over all mutants."""


@dataclass(frozen=True)
class Change:
    """One change of a tree, not yet made."""

    scope: str
    operator: str
    before: ast.AST
    after: ast.AST
    lines: Lines
    names: Names
    make: Callable[[], None]


@dataclass(frozen=True)
class _Place:
    """Where in a tree the search for changes is."""

    scope: tuple[str, ...] = ()
    lines: Lines = (0, 0)
    classes: tuple[str, ...] = ()
    names: Names = ()


@dataclass(frozen=True)
class _Slot:
    """A field of a node, or one place of a list in it."""

    node: ast.AST
    field: str
    index: int | None


def mutants_of(module: str, source: str, seed: int) -> list[Mutant]:
    """All mutants of a module."""
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for number, change in enumerate(changes(ast.parse(source))):
        before, after = ast.unparse(change.before), ast.unparse(change.after)
        what = f"{change.scope} {change.operator}: {before} -> {after}"
        key = hashlib.sha256(f"{seed} {what} {seen[what]}".encode()).hexdigest()[:16]
        seen[what] += 1
        line: int = getattr(change.before, "lineno", change.lines[0])
        found.append(
            Mutant(
                module,
                number,
                change.scope,
                line,
                change.operator,
                before,
                after,
                change.lines,
                change.names,
                key,
            )
        )
    return found


def choose(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """``count`` mutants, and the first of every module that would have none, in the order of modules and lines.

    More of them always include those that fewer would be.
    """
    ranked = sorted(mutants, key=lambda mutant: mutant.key)
    firsts = {mutant.module: mutant for mutant in reversed(ranked)}
    return sorted({*ranked[:count], *firsts.values()}, key=lambda mutant: (mutant.module, mutant.number))


def mutated(source: str, number: int) -> ast.Module:
    """The tree of a source with one of its changes made; the lines are those of the source."""
    tree = ast.parse(source)
    changes(tree)[number].make()
    return ast.fix_missing_locations(tree)


def changes(tree: ast.Module) -> list[Change]:
    """All changes that can be made to a tree, in a fixed order."""
    return [
        Change(
            ".".join(here.scope), operator, child, after, here.lines, here.names, partial(_put, slot, after)
        )
        for slot, child, here in _nodes(tree, _Place())
        for operator, after in _replacements(slot, child)
    ]


def mentions(tree: ast.Module) -> Iterator[tuple[str, Lines, Names]]:
    """Every use of a name as variable, attribute or keyword, with the ``lines`` and ``names`` of a mutant there."""
    for _, node, here in _nodes(tree, _Place()):
        if isinstance(node, ast.Name) and not _is_stored(node):
            yield node.id, here.lines, here.names
        elif isinstance(node, ast.Attribute):
            yield node.attr, here.lines, here.names
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg, here.lines, here.names


def _nodes(node: ast.AST, place: _Place) -> Iterator[tuple[_Slot, ast.AST, _Place]]:
    """All that a node holds, each with where it is held."""
    for field, value in ast.iter_fields(node):
        if field in UNTOUCHED or (isinstance(node, ast.Raise) and field in ("exc", "cause")):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                here = _inside(child, place)
                yield _Slot(node, field, index), child, here
                yield from _nodes(child, here)


def _put(slot: _Slot, new: ast.AST) -> None:
    if slot.index is None:
        setattr(slot.node, slot.field, new)
    else:
        getattr(slot.node, slot.field)[slot.index] = new


def _is_left_alone(node: ast.AST) -> bool:
    """Whether a part is not executed by tests, or only guards against what does not happen."""
    if isinstance(node, ast.If):
        return any(name in ast.unparse(node.test) for name in ("TYPE_CHECKING", "__name__"))
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _inside(node: ast.AST, place: _Place) -> _Place:
    """The place of a node and of what it holds, from the place of what holds it."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        # Its default values are made elsewhere, but matter where its body runs.
        lines = (node.body[0].lineno, node.body[-1].end_lineno or 0)
        return _Place((*place.scope, node.name), lines, place.classes, None)
    if not isinstance(node, (ast.stmt, ast.ExceptHandler)):
        return place
    body = getattr(node, "body", None)
    lines = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or 0)
    if isinstance(node, ast.ClassDef):
        scope, classes = (*place.scope, node.name), (*place.classes, node.name)
        return _Place(scope, lines, classes, None if place.names is None else classes)
    if place.names is None:
        return replace(place, lines=lines)
    targets = tuple(name.id for name in ast.walk(node) if isinstance(name, ast.Name) and _is_stored(name))
    scope = place.scope or (targets[0] if targets else "<module>",)
    return _Place(scope, lines, place.classes, (*place.classes, *targets))


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _replacements(slot: _Slot, child: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What can stand in place of a node, each with the name of the operator."""
    if isinstance(child, ast.Compare):
        for index, operator in enumerate(child.ops):
            new = copy.deepcopy(child)
            new.ops[index] = FLIPPED[type(operator)]()
            yield "comparison", new
    elif isinstance(child, (ast.BinOp, ast.AugAssign)) and type(child.op) in SWAPPED and not _is_text(child):
        new = copy.deepcopy(child)
        new.op = SWAPPED[type(child.op)]()
        yield "arithmetic", new
    elif isinstance(child, ast.BoolOp):
        new = copy.deepcopy(child)
        new.op = ast.Or() if isinstance(child.op, ast.And) else ast.And()
        yield "boolean", new
    elif isinstance(child, ast.UnaryOp) and isinstance(child.op, ast.Not):
        yield "negation", child.operand
    elif isinstance(child, ast.Constant):
        is_default = slot.field in ("defaults", "kw_defaults") or isinstance(slot.node, ast.AnnAssign)
        for value in _other_values(child.value, is_default):
            yield "default" if is_default else "constant", ast.Constant(value)
    elif isinstance(child, ast.Call):
        name = ast.unparse(child.func).rpartition(".")[2]
        if len(child.args) > 1 and name not in NO_SWAP and _may_swap(*child.args[:2]):
            new = copy.deepcopy(child)
            new.args[:2] = reversed(new.args[:2])
            yield "arguments", new
    own_operator = (ast.Compare, ast.UnaryOp, ast.Constant)
    if slot.field in ("test", "ifs") and isinstance(child, ast.expr) and not isinstance(child, own_operator):
        yield "condition", ast.UnaryOp(ast.Not(), child)
    if _can_be_removed(child):
        yield "statement", ast.Pass()


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    """Whether it joins strings or paths, on which other operators fail at once."""
    parts = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in parts
    )


def _may_swap(first: ast.expr, second: ast.expr) -> bool:
    starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
    return not starred and ast.unparse(first) != ast.unparse(second)


def _other_values(value: object, is_default: bool) -> Iterator[bool | int | float | str]:
    """What a constant can be changed to; words only where they are a default, as most others are messages."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield 1 - value if value in (0, 1) else value + 1
    elif isinstance(value, float):
        yield value * 2 if value else 1.0
    elif isinstance(value, str) and is_default:
        yield f"{value}x"


def _can_be_removed(node: ast.AST) -> bool:
    """Whether a statement does something that its neighbours can be without."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    if isinstance(node, ast.Assign):
        return all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets)
    return isinstance(node, (ast.AugAssign, ast.Break, ast.Continue, ast.Raise))
