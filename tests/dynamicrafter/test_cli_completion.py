"""Completion in shells: what they offer after some words."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cli_runs import Run

BASH = """\
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_dynamicrafter
printf '%s\\n' "${COMPREPLY[@]}"
"""

CASES = {
    "commands": ((), "", {"animate", "again", "evaluate", "config"}, {"toy", "--version", "--prompt"}),
    "the beginning of a command": ((), "an", {"animate"}, {"again"}),
    "options": (("animate", "a.png"), "--s", {"--seed", "--size", "--steps"}, {"--prompt"}),
    "choices": (("animate", "--fit"), "", {"crop", "pad", "stretch"}, {"--fit"}),
    "models": (("loop", "--model"), "512", {"512", "512_interp"}, {"tiny"}),
    "models to download": (("download", "512"), "t", {"tiny", "towers"}, {"512"}),
    "ways to compare": (("compare",), "512", {"512", "512_interp"}, {"tiny"}),
    "subjects": (("evaluate",), "", {"toy", "folder", "videos"}, {"animate"}),
    "options of a subject": (("evaluate", "toy"), "--sc", {"--scales"}, {"--hops"}),
    "options of a part of a command": (("language-model", "add"), "--n", {"--name", "--no-key"}, {"--json"}),
    "names that are no models": (("language-model", "remove"), "t", set(), {"tiny"}),
    "models to export": (("export",), "512", {"512", "512_interp"}, {"tiny"}),
    "shells": (("completion",), "", {"bash", "zsh", "fish"}, {"--json"}),
}


def offered(shell: str, script: Path, words: list[str]) -> set[str]:
    """What a shell offers for the last of the words."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}, whose script is tested")
    if shell == "bash":
        command = [program, "-c", BASH, "bash", str(script), *words]
    else:
        command = [program, "--no-config", "-c", f"source {script}; complete -C '{' '.join(words)}'"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=script.parent)
    assert ran.stderr == ""
    return {line.partition("\t")[0] for line in ran.stdout.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_offered(run: Run, tmp_path: Path, shell: str, case: str) -> None:
    words, begun, there, absent = CASES[case]
    script = tmp_path / "script"
    ran = run("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    script.write_text(ran.out, encoding="utf-8")
    found = offered(shell, script, ["dynamicrafter", *words, begun])
    assert there <= found
    assert not absent & found


@pytest.mark.parametrize("words", [("animate",), ("animate", "--lora"), ("animate", "--output"), ("again",)])
def test_bash_completes_files_where_they_belong(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """It does so itself if nothing is offered."""
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").out, encoding="utf-8")
    assert offered("bash", script, ["dynamicrafter", *words, ""]) == {""}
    assert "complete -o default -F _dynamicrafter dynamicrafter" in script.read_text(encoding="utf-8")


def test_fish_shows_help_with_its_values(run: Run) -> None:
    script = run("completion", "fish").out
    assert "%" not in script
    assert " -l batch -r -d 'clips generated at once" in script


def test_zsh_runs_the_script_of_bash(run: Run) -> None:
    bash, zsh = run("completion", "bash").out, run("completion", "zsh").out
    assert zsh.endswith(bash)
    assert zsh.removesuffix(bash).splitlines() == [
        "autoload -U +X compinit && compinit",
        "autoload -U +X bashcompinit && bashcompinit",
    ]
    assert run("completion", "zsh", "--json").json == {"shell": "zsh", "script": zsh}
