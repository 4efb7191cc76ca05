"""What the forge reads: workflows, templates and hooks agree with the project and run the same checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dynamicrafter.cli.doctor import SAFE_TORCH
from dynamicrafter.cli.parser import make_parser
from tools import check

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PAGES = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md")]
# More than reading the repository is allowed only here: PyPI knows the publisher by this token.
ALLOWED = {("release.yml", "id-token: write")}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_there_is_something_to_check() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "nightly.yml", "release.yml"]
    assert [path.name for path in TEMPLATES] == ["bug.yml", "config.yml", "feature.yml"]


def test_ci_tests_the_pythons_of_the_classifiers() -> None:
    (listed,) = re.findall(r"^ +python: \[(.*)\]$", read(".github/workflows/ci.yml"), re.MULTILINE)
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    assert re.findall(r'"(3\.\d+)"', listed) == classified
    assert f'requires-python = ">={classified[0]}"' in read("pyproject.toml")


@pytest.mark.parametrize("name", [".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml"])
def test_style_and_types_are_checked_in_one_way(name: str) -> None:
    """All of them call the same command, and none of its tools besides."""
    text = read(name)
    assert len(re.findall(r"python -m tools\.check$", text, re.MULTILINE)) == 1
    assert not [tool for tool, *_ in check.STYLE_AND_TYPES if f"-m {tool}" in text]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_major_version(path: Path) -> None:
    used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@(release/)?v\d+", action)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^permissions:( \{\})?$", text, re.MULTILINE), "without it a job may do everything"
    given = {(path.name, found) for found in re.findall(r"^ +([\w-]+: write)", text, re.MULTILINE)}
    assert given == {allowed for allowed in ALLOWED if allowed[0] == path.name}
    assert "write-all" not in text


def test_every_command_that_is_named_exists() -> None:
    """In a bug report somebody is asked for its output."""
    texts = [path.read_text(encoding="utf-8") for path in (*WORKFLOWS, *TEMPLATES, *PAGES)]
    named = {word for text in texts for word in re.findall(r"dynamicrafter ([a-z-]+)`", text)}
    assert "doctor" in named
    parser = make_parser("0")
    assert {parser.parse_args([word]).command for word in named} == named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:tests|tools|docs|\.github|\.ci)/[\w./-]*)", text)
    assert [name for name in linked if not (page.parent / name).exists()] == []
    assert [name for name in named if not (ROOT / name).exists() and name != "tests/FILE"] == []


def test_addresses_are_those_of_the_repository() -> None:
    repository = re.search(r'^Repository = "(.+)"$', read("pyproject.toml"), re.MULTILINE)
    assert repository is not None
    for name in ("SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"):
        assert f"{repository[1]}/security/advisories/new" in read(name)


def test_the_page_on_security_names_the_pytorch_that_doctor_asks_for() -> None:
    assert f"before {'.'.join(map(str, SAFE_TORCH))} there are known holes" in " ".join(
        read("SECURITY.md").split()
    )


def test_slow_tests_are_there() -> None:
    assert [path for path in check.SLOW if not (ROOT / path).exists()] == []


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tools that ran, instead of running them; pyright fails."""
    names: list[str] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == [sys.executable, "-m"]
        names.append(command[2])
        return subprocess.CompletedProcess(command, 3 if command[2] == "pyright" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    return names


def test_check_fails_with_its_tools(ran: list[str]) -> None:
    assert check.main(["quick"]) == 3
    assert ran == ["ruff", "ruff", "pyright"]


def test_the_quick_tests_leave_the_slow_ones_out(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "STYLE_AND_TYPES", (("ruff", "check"),))
    assert check.main([]) == 0
    assert ran == ["ruff"]
    assert check.main(["quick"]) == 0
    assert ran == ["ruff", "ruff", "pytest"]
