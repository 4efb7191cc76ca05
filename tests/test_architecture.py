"""The arrows of docs/architecture.md, held true by reading the import statements."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dynamicrafter"

# box: (its modules, the boxes it points at). An arrow reaches everything further to the right as well.
BOXES = {
    "command": ("__main__ cli", "evaluation"),
    "evaluation": ("evaluation", "api training"),
    "training": ("training", "pipeline random checkpoint files"),
    "api": ("api", "pipeline random files download"),
    "random": ("random_model lora", "checkpoint"),
    "pipeline": ("pipeline", "steps checkpoint settings"),
    "steps": ("conditioning sampler denoiser", "networks"),
    "checkpoint": ("checkpoint", "networks"),
    "networks": ("clip resampler video_decoder vae unet schedule guidance", "parts"),
    "parts": ("layers attention", "ground"),
    "files": ("pictures video hashing", "settings"),
    "settings": ("settings memory", "ground"),
    "download": ("download", "catalogue"),
    "catalogue": ("catalogue", "ground"),
    "ground": ("backend stages variants errors json_values", ""),
}
# The only imports within a box.
NEIGHBOURS = {
    ("__main__", "cli"),
    ("sampler", "denoiser"),  # the function it samples over
    ("video_decoder", "vae"),  # a decoder that extends the other
    ("variants", "json_values"),  # how one is read from a file
}

LOADED_WITH_TORCH = {"torch", "numpy"}
LIGHT = LOADED_WITH_TORCH | {"einops", "safetensors"}
HOST = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
}
HOST |= {"nodes", "server"}
DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open-clip-torch"}


@dataclass(frozen=True)
class Import:
    """One imported module: of our own package (its first name below it) or of another."""

    where: str
    own: bool
    name: str
    at_import_time: bool


def subject(path: Path) -> str:
    """The module or subpackage a file belongs to; the package's own __init__ is the empty subject."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


Statement = ast.Import | ast.ImportFrom


def statements(node: ast.AST, at_import_time: bool = True) -> Iterator[tuple[Statement, bool]]:
    """Every import below ``node``, and whether importing the module runs it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Statement):
            yield child, at_import_time
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(child, False)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from statements(ast.Module(child.body, []), False)
            yield from statements(ast.Module(child.orelse, []), at_import_time)
        else:
            yield from statements(child, at_import_time)


def imports_of(path: Path, package: Path = PACKAGE) -> Iterator[Import]:
    """All imports of a file of ``package``, relative ones resolved to the first name below the package."""
    here = path.relative_to(package).parent.parts
    for statement, at_import_time in statements(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.relative_to(package.parent).as_posix()}:{statement.lineno}"
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(where, False, alias.name.partition(".")[0], at_import_time)
        elif not statement.level:
            yield Import(where, False, (statement.module or "").partition(".")[0], at_import_time)
        else:
            up = statement.level - 1
            assert up <= len(here), f"{where} leaves the package"
            base = here[: len(here) - up]
            below = (*base, *(statement.module or "").split(".")) if statement.module else base
            for name in [below[0]] if below else [alias.name for alias in statement.names]:
                yield Import(where, True, name, at_import_time)


def reachable(box: str) -> set[str]:
    """The boxes to the right of ``box``."""
    pointed = set(BOXES[box][1].split())
    return pointed.union(*(reachable(other) for other in pointed))


def may_import(module: str, other: str) -> bool:
    """Whether the drawing has an arrow from ``module`` to ``other``."""
    box_of = {name: box for box, (names, _) in BOXES.items() for name in names.split()}
    if module == other or (module, other) in NEIGHBOURS:
        return True
    return other in box_of and module in box_of and box_of[other] in reachable(box_of[module])


FILES = sorted(PACKAGE.rglob("*.py"))
OURS = [found for path in FILES for found in imports_of(path) if found.own]
THEIRS = [
    found
    for path in FILES
    for found in imports_of(path)
    if not found.own and found.name not in sys.stdlib_module_names
]


def test_the_drawing_goes_one_way() -> None:
    assert not [box for box in BOXES if box in reachable(box)]
    listed = [name for names, _ in BOXES.values() for name in names.split()]
    assert len(listed) == len(set(listed))


def test_there_is_something_to_check() -> None:
    """A reader of imports that finds none would make every other test here pass."""
    assert len(OURS) > 10
    assert {"torch", "einops"} <= {found.name for found in THEIRS}


@pytest.mark.parametrize("module", sorted({subject(path) for path in FILES} - {""}))
def test_left_imports_right(module: str) -> None:
    """Holds for all but the package's own __init__, which gathers the public names from anywhere."""
    imports = [found for path in FILES if subject(path) == module for found in imports_of(path) if found.own]
    wrong = [f"{found.where} {found.name}" for found in imports if not may_import(module, found.name)]
    assert not wrong, f"{module} may not import these; see docs/architecture.md"


@pytest.mark.parametrize(
    ("module", "other", "allowed"),
    [
        ("cli", "errors", True),
        ("pipeline", "attention", True),
        ("checkpoint", "unet", True),
        ("sampler", "denoiser", True),
        ("denoiser", "sampler", False),
        ("unet", "pipeline", False),
        ("pictures", "unet", False),
        ("unet", "vae", False),
        ("backend", "variants", False),
        ("unet", "anything_new", False),
    ],
)
def test_arrows_point_one_way(module: str, other: str, allowed: bool) -> None:
    assert may_import(module, other) is allowed


def test_the_package_imports_itself_relatively() -> None:
    assert not [found for found in THEIRS if found.name == "dynamicrafter"]


def test_the_package_knows_no_host() -> None:
    assert not [found for found in THEIRS if found.name in HOST]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not [found for found in THEIRS if found.at_import_time and found.name not in LIGHT]


def test_every_import_is_a_declared_dependency() -> None:
    """Extras may bring what is imported where it is used; all else comes with a plain installation."""
    always = set((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    extras = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    )
    optional = set(re.findall(r'"([\w-]+)"', extras.partition("\n[")[0])) | {
        "_typeshed"
    }  # type checkers know it
    for found in THEIRS:
        name = DISTRIBUTIONS.get(found.name, found.name)
        assert name in (always if found.at_import_time else always | optional), found


@pytest.mark.parametrize("name", ["subprocess", "multiprocessing"])
def test_shipped_code_starts_no_process(name: str) -> None:
    shipped = [ROOT / "__init__.py", *FILES, *(ROOT / "nodes").rglob("*.py")]
    assert not [found for path in shipped for found in imports_of(path, ROOT) if found.name == name]


def test_every_module_is_in_the_table_of_the_docs() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Modules and arrows")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
    listed = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    modules = {subject(path) for path in FILES} - {"", "__main__"}
    assert modules <= listed


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import av", [("av", False, True)]),
        ("def f():\n    import av", [("av", False, False)]),
        ("class A:\n    def f(self):\n        from PIL import Image", [("PIL", False, False)]),
        ("class A:\n    import av", [("av", False, True)]),
        (
            "if TYPE_CHECKING:\n    import av\nelse:\n    import os",
            [("av", False, False), ("os", False, True)],
        ),
        ("try:\n    import av\nexcept ImportError:\n    av = None", [("av", False, True)]),
        ("from ..unet import A", [("unet", True, True)]),
        ("from .. import unet, vae", [("unet", True, True), ("vae", True, True)]),
        ("from . import files", [("cli", True, True)]),
        ("from .files import read", [("cli", True, True)]),
        ("from open_clip.tokenizer import A", [("open_clip", False, True)]),
    ],
)
def test_how_imports_are_read(tmp_path: Path, source: str, found: list[tuple[str, bool, bool]]) -> None:
    path = tmp_path / "cli" / "main.py"
    path.parent.mkdir()
    path.write_text(source, encoding="utf-8")
    assert [(i.name, i.own, i.at_import_time) for i in imports_of(path, tmp_path)] == found
