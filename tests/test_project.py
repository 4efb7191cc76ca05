"""The frame of the project: its lists agree, its README can be followed, and the checkout can be imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINS = ("==", "~=", "<", "@")
HOST_OWNED = ("torch", "torchvision", "torchaudio", "xformers", "opencv")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> str:
    """The [project] table as text; Python 3.10 has no TOML reader."""
    table = re.search(r"^\[project\]\n(.*?)^\[", read("pyproject.toml"), re.MULTILINE | re.DOTALL)
    assert table is not None
    return table[1]


def dependencies() -> list[str]:
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    return [line.replace('\\"', '"') for line in re.findall(r'^    "(.+)",$', listed[1], re.MULTILINE)]


def bare(requirement: str) -> str:
    """A requirement without the condition under which it applies."""
    return requirement.partition(";")[0]


def lines_that_count(name: str) -> list[str]:
    return [line for line in read(name).splitlines() if line and not line.startswith("#")]


def blocks(markdown: str, title: str) -> list[str]:
    """The code blocks of the section ``## title``."""
    sections = re.split(r"^## ", markdown, flags=re.MULTILINE)
    (section,) = [text for text in sections if text.partition("\n")[0] == title]
    return re.findall(r"^```\w*\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_both_dependency_lists_are_equal() -> None:
    assert dependencies() == lines_that_count("requirements.txt")
    assert dependencies() == sorted(dependencies())


def test_no_user_requirement_is_pinned() -> None:
    """A host brings its own builds of torch and its kin, so at most the bare name torch is asked for."""
    assert not [name for name in dependencies() if any(pin in bare(name) for pin in PINS)]
    assert [name for name in dependencies() if name.startswith(HOST_OWNED)] == ["torch"]


def test_every_test_version_is_exact() -> None:
    exact = re.compile(
        r"[a-z0-9-]+==[0-9][\w.]*(; (python_version (<|>=) \"3\.11\"|sys_platform == \"win32\"))?"
    )
    assert not [line for line in lines_that_count("constraints.txt") if not exact.fullmatch(line)]


def test_constraints_cover_the_requirements() -> None:
    constrained = {line.partition("==")[0] for line in lines_that_count("constraints.txt")}
    wanted = {bare(requirement).replace("_", "-") for requirement in dependencies()}
    assert wanted <= constrained


def test_the_installed_version_is_the_one_in_pyproject() -> None:
    """There is no other place for it: the command asks for the version of what is installed."""
    try:
        installed = importlib.metadata.version("dynamicrafter-studio")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("dynamicrafter-studio is not installed here; pip install -e '.[test]' does it")
    assert f'\nversion = "{installed}"\n' in project(), "install the package again"


@pytest.mark.parametrize("title", ["Try it", "Run the tests"])
def test_readme_section_has_one_block_that_starts_from_nothing(title: str) -> None:
    (block,) = blocks(read("README.md"), title)
    assert block.startswith("python3 -m venv .venv\n.venv/bin/python -m pip install ")


def test_try_it_makes_a_clip_of_a_picture_that_is_there() -> None:
    (block,) = blocks(read("README.md"), "Try it")
    picture = re.search(r"dynamicrafter animate (\S+) .*--output \S+\.mp4$", block.strip())
    assert picture is not None
    assert (ROOT / picture[1]).is_file()


def test_try_it_says_that_a_random_model_makes_noise() -> None:
    told = read("README.md").partition("\n## Try it\n")[2].partition("\n## ")[0]
    assert "--model random" not in told or "noise" in told


def test_ci_runs_the_test_block_of_the_readme_and_fails_with_it(tmp_path: Path) -> None:
    """In a stand-in for a clean clone, where python3 succeeds at everything and the README's block fails."""
    bash = shutil.which("bash")
    if os.name != "posix" or bash is None:
        pytest.skip("needs bash, which runs .ci/run")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    section = "## {}\n\n```sh\n{}\n```\n\n"
    readme = section.format("Try it", "echo wrong >> mark")
    readme += section.format("Run the tests", "echo right >> mark\nfalse\necho late >> mark")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    python = tmp_path / "tools" / "python3"
    python.parent.mkdir()
    copies_itself = '#!/bin/sh\nmkdir -p .venv/bin\n[ -e .venv/bin/python ] || cp "$0" .venv/bin/python\n'
    python.write_text(copies_itself, encoding="utf-8")
    python.chmod(0o755)
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    ran = subprocess.run([bash, str(tmp_path / ".ci" / "run")], env={**os.environ, "PATH": path}, timeout=60)
    assert ran.returncode != 0
    assert (tmp_path / "mark").read_text(encoding="utf-8") == "right\n"


@pytest.fixture
def load_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Loads a copy of the root __init__.py, with nodes of no content, the way ComfyUI does: named after its path."""

    def load(name: str) -> Any:
        folder = tmp_path / name
        (folder / "nodes").mkdir(parents=True)
        shutil.copy(ROOT / "__init__.py", folder)
        (folder / "nodes" / "__init__.py").write_text("comfy_entrypoint = None\n", encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, f"{name}.nodes", raising=False)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("name", ["dynamicrafter-studio", "ComfyUI_packs_DynamiCrafter Studio_x_1"])
def test_root_loads_as_a_package_without_a_host(
    load_root: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "comfy_api", None)
    assert load_root(name).HOST_IS_HERE is False


def test_root_sees_a_host(
    load_root: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "comfy_api").mkdir()
    (tmp_path / "comfy_api" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "comfy_api", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_root("a pack-of-nodes").HOST_IS_HERE is True


@pytest.mark.parametrize("version", ["0.3.64", "0.6.0", "0.7.99"])
def test_a_host_that_is_too_old_is_told_both_versions(
    load_root: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    pretend_host(tmp_path, monkeypatch, version)
    expected = f"need ComfyUI 0.8.0 or newer, but this is ComfyUI {version}; update ComfyUI"
    with pytest.raises(ImportError, match=re.escape(expected)):
        load_root("pack")


@pytest.mark.parametrize("version", ["0.8.0", "0.10.1", "1.0.0", "0.8.0rc1", "unknown"])
def test_other_versions_of_the_host_are_accepted(
    load_root: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    pretend_host(tmp_path, monkeypatch, version)
    assert load_root("pack").WEB_DIRECTORY == "./web"


def pretend_host(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Modules by which the pack recognises ComfyUI and its version."""
    (folder / "comfy_api").mkdir()
    (folder / "comfy_api" / "__init__.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
    for name in ("comfy_api", "comfyui_version"):
        # Set first, so that what the import brings is taken away again.
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


def test_pytest_starts_in_a_checkout_with_a_hyphen(tmp_path: Path) -> None:
    """The root __init__.py makes pytest import the checkout as a package, whatever its folder is called."""
    folder = tmp_path / "dynamicrafter-studio-main"
    (folder / "tests").mkdir(parents=True)
    for name in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "tests" / "test_one.py").write_text("def test_one():\n    assert True\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports test files by their bare names: two of one name stop the whole run, though each folder passes."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, group in itertools.groupby(names) if len(list(group)) > 1] == []
