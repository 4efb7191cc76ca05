"""What the ComfyUI registry, its Manager and its security scan look at, and what a copy from them holds."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("__init__.py", "dynamicrafter", "nodes")
PYTHON = [
    path
    for name in SHIPPED
    for path in sorted((ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else [ROOT / name])
]
NEEDED = (
    "__init__.py",
    "dynamicrafter/model/unet.py",
    "nodes/loader.py",
    "pictures/red_circle.png",
    "web/docs/DynamiCrafterAnimate.md",
    "web/dynamicrafter.js",
    "subgraphs/Image to Video (DynamiCrafter 1024).json",
    "locales/zh/nodeDefs.json",
    "workflows/DynamiCrafter loop - seamless video from one image.json",
    "workflows/api/DynamiCrafter loop - seamless video from one image.json",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
)
NOT_NEEDED = (
    ".ci/",
    ".github/",
    "CONTRIBUTING.md",
    "benchmarks/",
    "docs/images/",
    "pictures/make_pictures.py",
    "tests/",
    "tools/",
)
# Names of calls that start programs or run text as code.
REFUSED = {"eval", "exec", "__import__", "system", "popen", "Popen", "execv", "spawnl", "check_output"}
HOST_MODULES = {"aiohttp", "comfy", "comfy_api", "comfy_execution", "folder_paths", "server"}


def read_table(name: str) -> str:
    """A table of pyproject.toml as text; Python 3.10 has no TOML reader."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^\[{re.escape(name)}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no [{name}]"
    return found[1]


def table(name: str) -> dict[str, str]:
    """The text values of a table of pyproject.toml."""
    return dict(re.findall(r'^"?([\w -]+?)"? = "(.*)"$', read_table(name), re.MULTILINE))


def test_the_registry_finds_what_it_asks_for() -> None:
    project, comfy = table("project"), table("tool.comfy")
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){2,99}", project["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"]
    assert re.fullmatch(r"[a-z][a-z0-9-]+", comfy["PublisherId"])
    assert comfy["DisplayName"]
    oldest = re.search(r'^OLDEST_HOST = "(.*)"$', (ROOT / "__init__.py").read_text("utf-8"), re.MULTILINE)
    assert oldest is not None
    assert comfy["requires-comfyui"] == f">={oldest[1]}"
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    assert f"comfyui: [master, v{oldest[1]}]" in nightly
    assert f" {oldest[1]} or newer" in (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    assert "web" not in comfy, "the host would load web/ twice, since __init__.py names it already"


def test_addresses_are_of_one_repository() -> None:
    repository = table("project.urls")["Repository"]
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w-]+", repository)
    assert all(url.startswith(repository) for url in table("project.urls").values())
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    assert table("tool.comfy")["Icon"].startswith(f"{raw}/main/")


def test_the_icon_is_there_and_no_larger_than_allowed() -> None:
    place = table("tool.comfy")["Icon"].partition("/main/")[2]
    with Image.open(ROOT / place) as icon:
        assert icon.format == "PNG"
        assert icon.width == icon.height <= 400


def test_the_icon_is_what_its_description_draws() -> None:
    from tools.make_icon import TARGET, drawn

    with Image.open(TARGET) as kept:
        # Other versions of Pillow round differently.
        ours, theirs = drawn().resize((40, 40)), kept.convert("RGBA").resize((40, 40))
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 3


def git_ls(*options: str) -> set[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout, which say what an archive holds")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8")
    return {name for name in listed.split("\0") if name}


def test_the_archive_holds_what_runs_and_nothing_else() -> None:
    left_out = git_ls("--cached", "--ignored", "--exclude-from=.comfyignore")
    archive = git_ls() - left_out
    assert set(NEEDED) <= archive
    assert [name for name in archive if name.startswith(NOT_NEEDED)] == []
    assert {path.relative_to(ROOT).as_posix() for path in PYTHON} & left_out == set()


def test_every_line_of_comfyignore_leaves_something_out() -> None:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            assert (ROOT / line).exists(), line


def test_types_are_offered() -> None:
    """An empty py.typed says that the annotations are meant for others; the wheel takes the package as it is."""
    assert (ROOT / "dynamicrafter" / "py.typed").read_bytes() == b""
    assert "dynamicrafter/py.typed" in git_ls()
    wheel = read_table("tool.hatch.build.targets.wheel")
    assert wheel.strip() == 'packages = ["dynamicrafter"]'


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Last name of everything a file calls, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            yield name, node.lineno


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_text_or_programs(path: Path) -> None:
    """``module.eval()`` is harmless, but scanners take it for the other one: ``train(False)`` does the same."""
    assert [(name, line) for name, line in calls(path) if name in REFUSED] == []


def test_a_call_that_runs_text_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import os\nos.system('x')\nmodel.eval()\neval('1')\n", encoding="utf-8")
    assert sorted(name for name, _ in calls(file) if name in REFUSED) == ["eval", "eval", "system"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "nodes").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_importing_a_node_module_loads_only_what_the_host_has_loaded(path: Path) -> None:
    allowed = HOST_MODULES | {"torch", "einops"} | set(sys.stdlib_module_names)
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            assert {alias.name.partition(".")[0] for alias in statement.names} <= allowed
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            assert (statement.module or "").partition(".")[0] in allowed


def test_pip_takes_the_requirements() -> None:
    """Manager runs pip on this file; nothing is fetched here, since all of it is installed for the tests."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet"]
    result = subprocess.run(
        [*command, "-r", str(ROOT / "requirements.txt")], capture_output=True, text=True, check=False
    )
    if "No module named pip" in result.stderr:
        pytest.skip("pip is not installed here")
    assert result.returncode == 0, result.stderr
