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

# box: (its modules or rooms, the boxes it points at). An arrow reaches everything further to the right as well.
BOXES = {
    "command": ("__main__ cli", "page"),
    "page": ("page", "director jobs cartoon"),
    "jobs": ("jobs", "shots"),
    "cartoon": ("cartoon", "toy person"),
    "toy": ("toy", "training evaluation"),
    "director": ("director", "toy"),
    "training": ("training", "api person"),
    "evaluation": ("evaluation", "shots"),
    "person": ("animate_anyone", "shots"),
    "shots": ("shots records forecast", "api camera"),
    "api": ("api", "backends media"),
    "camera": ("camera", "ground"),
    "backends": ("backends", "pipeline weights"),
    "weights": ("weights", "networks"),
    "pipeline": ("pipeline sampling", "motion control"),
    "motion": ("motion", "networks diffusion settings"),
    "control": ("control", "networks diffusion settings"),
    "networks": ("model", "configs"),
    "diffusion": ("diffusion", "configs"),
    "media": ("media", "settings"),
    "settings": ("settings", "parameters"),
    "parameters": ("parameters", "configs"),
    "configs": ("model.variants model.configs diffusion.config", "ground"),
    "ground": (
        "atomic bounded_json errors forms hashing own_process process_memory toml_text user_folders",
        "",
    ),
}
# Arrows inside a room, where its modules have an order worth keeping: from each to those listed before it.
ORDER = {
    "model": "configs variants operations quantised placement protocols tiles preview conditioning layers attention "
    "switching open_clip_modules encoders "
    "memory resampler unet controlnet compilation weakening autoencoder video_decoder",
    "diffusion": "config guidance schedule sigmas denoiser projection start samplers finite windows",
    "weights": "formats networks footprint layout architectures accounting detect preview fill tensors load controlnet "
    "convert mixture merge inspect random_model lora catalogue download identity",
    "backends": "choice openvino",
    "camera": "choices geometry depth estimation paths pose_files splat guide",
    "media": "lists provenance pictures video examples",
    "motion": "colour joints windowed continuation keyframes pieces extent",
    "animate_anyone": "config keypoints pose_files alignment drawing framing onnx_check detection pose_clips layout "
    "layers attention pose_guider embedder unet memory protocols graphs pipeline exported weights exporting api clips "
    "ways",
    "training": "options processes run_log state muon optimizers trainer losses person lora config printing movies "
    "data encoding samples finetune",
    "cartoon": "motions characters samples autoencoder pools tiny_person gauges behaviour",
    "toy": "world known stages autoencoder towers pools gauges behaviour hops scales lengths clips tiny",
    "jobs": "lines ledger pool studio workers servers ray_cluster run",
    "director": "ambience loudness soundtrack plan profiles chat proposing correcting advising rounds suggestions "
    "toy_sight suggesting scenes splitting cutting shot_list film",
    "page": "library limits shelf words examples tasks line panels door desk blocks serving",
    "evaluation": "motion figures distributions latents clip_score learned sentence folder measure comparison "
    "side_by_side",
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
    """One imported module: of our own package (its dotted name below it) or of another."""

    where: str
    own: bool
    name: str
    at_import_time: bool


def module_of(path: Path) -> str:
    """The dotted name of a file below the package; the package's own __init__ is the empty name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


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
    """All imports of a file of ``package``, relative ones resolved to their dotted names below the package."""
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
            for alias in statement.names:
                # A name may be a module or something in one.
                inner = (*below, alias.name)
                there = (
                    package.joinpath(*inner).with_suffix(".py").exists() or package.joinpath(*inner).is_dir()
                )
                yield Import(where, True, ".".join(inner if there or not below else below), at_import_time)


def reachable(box: str) -> set[str]:
    """The boxes to the right of ``box``."""
    pointed = set(BOXES[box][1].split())
    return pointed.union(*(reachable(other) for other in pointed))


def box_of(module: str) -> str | None:
    """The box of a module: that of its own name or of the nearest room around it."""
    named = {name: box for box, (names, _) in BOXES.items() for name in names.split()}
    parts = module.split(".")
    return next((named[n] for k in range(len(parts), 0, -1) if (n := ".".join(parts[:k])) in named), None)


def may_import(module: str, other: str) -> bool:
    """Whether the drawing has an arrow from ``module`` to ``other``."""
    here, there = box_of(module), box_of(other)
    if here is None or there is None:
        return False
    room, neighbour = module.partition(".")[0], other.partition(".")[0]
    if room == neighbour and room in ORDER:
        order = ORDER[room].split()
        inner, wanted = (name.split(".")[1] if "." in name else "" for name in (module, other))
        return inner == wanted or (inner in order and wanted in order[: order.index(inner)])
    return here == there or there in reachable(here)


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


@pytest.mark.parametrize("module", sorted({module_of(path) for path in FILES} - {""}))
def test_left_imports_right(module: str) -> None:
    """Holds for all but the package's own __init__, which gathers the public names from anywhere."""
    imports = [
        found for path in FILES if module_of(path) == module for found in imports_of(path) if found.own
    ]
    wrong = [f"{found.where} {found.name}" for found in imports if not may_import(module, found.name)]
    assert not wrong, f"{module} may not import these; see docs/architecture.md"


@pytest.mark.parametrize(
    ("module", "other", "allowed"),
    [
        ("cli.clips", "errors", True),
        ("shots", "api", True),
        ("api", "shots", False),
        ("pipeline", "model.attention", True),
        ("weights.load", "model.unet", True),
        ("diffusion.samplers", "diffusion.denoiser", True),
        ("diffusion.denoiser", "diffusion.samplers", False),
        ("diffusion.denoiser", "model.conditioning", False),
        ("model.unet", "pipeline", False),
        ("media.pictures", "model.unet", False),
        ("model.unet", "model.autoencoder", False),
        ("model.variants", "model.operations", False),
        ("training.trainer", "toy.world", False),
        ("model.unet", "anything_new", False),
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
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    always = {line.partition(";")[0] for line in lines}
    extras = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    )
    optional = set(re.findall(r'"([\w-]+)"', extras.partition("\n[")[0]))
    optional |= {"_typeshed", "typing_extensions"}  # Type checkers know them.
    for found in THEIRS:
        name = DISTRIBUTIONS.get(found.name, found.name)
        assert name in (always if found.at_import_time else always | optional), found


def public_names(path: Path) -> Iterator[str]:
    """What a file defines at its top level under a public name."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [statement.name]
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [node.id for t in targets for node in ast.walk(t) if isinstance(node, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def test_every_public_name_has_one_home() -> None:
    """But for ``run`` in cli/: what a group of commands is called by, always as ``clips.run``, ``weights.run``."""
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for name in set(public_names(path)):
            if not (name == "run" and path.parent.name == "cli"):
                homes.setdefault(name, []).append(module_of(path))
    assert len(homes) > 200
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("name", ["subprocess", "multiprocessing"])
def test_shipped_code_imports_nothing_that_starts_programs(name: str) -> None:
    shipped = [ROOT / "__init__.py", *FILES, *(ROOT / "nodes").rglob("*.py")]
    assert not [found for path in shipped for found in imports_of(path, ROOT) if found.name == name]


def test_only_jobs_and_comparisons_start_processes() -> None:
    """Through PyTorch, in two modules that neither the nodes nor what they import knows."""
    texts = {path: path.read_text(encoding="utf-8") for path in (*FILES, *(ROOT / "nodes").rglob("*.py"))}
    having = {module_of(path) for path, text in texts.items() if "multiprocessing" in text}
    assert having == {"own_process", "jobs.workers"}
    users = {found.where.partition(":")[0] for found in OURS if found.name == "own_process"}
    assert users == {"dynamicrafter/evaluation/comparison.py", "dynamicrafter/cli/comparing.py"}
    assert {f.where.partition(":")[0] for f in OURS if f.name == "evaluation.comparison"} == {
        "dynamicrafter/cli/comparing.py"
    }


def test_every_module_is_in_the_table_of_the_docs() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Rooms and arrows")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("|")]
    listed = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    modules = {module_of(path).rpartition(".")[2] for path in FILES} - {"", "__main__"}
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
        ("from . import main", [("cli.main", True, True)]),
        ("from . import read", [("cli", True, True)]),
        ("from .files import read", [("cli.files", True, True)]),
        ("from open_clip.tokenizer import A", [("open_clip", False, True)]),
    ],
)
def test_how_imports_are_read(tmp_path: Path, source: str, found: list[tuple[str, bool, bool]]) -> None:
    path = tmp_path / "cli" / "main.py"
    path.parent.mkdir()
    path.write_text(source, encoding="utf-8")
    assert [(i.name, i.own, i.at_import_time) for i in imports_of(path, tmp_path)] == found
