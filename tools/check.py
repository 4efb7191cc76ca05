"""Style, types and the forge's files as CI checks them, and the tests that are quick enough for the inner loop.

Usage, in the top folder, in an environment with the dev extra: ``python -m tools.check``, or ``python -m tools.check
quick`` with the quick tests as well. It is no Makefile because Windows has no make.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github" / "workflows").glob("*.yml"))

STYLE_AND_TYPES = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", sys.executable),
    ("check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
    ("check_jsonschema", "--builtin-schema", "vendor.github-workflows", *_WORKFLOWS),
)
"""Modules and their arguments."""

SLOW = (
    "tests/animate_anyone/test_command.py",
    "tests/animate_anyone/test_compare_person.py",
    "tests/animate_anyone/test_person_memory.py",
    "tests/animate_anyone/test_person_openvino.py",
    "tests/animate_anyone/test_weights.py",
    "tests/benchmarks",
    "tests/cartoon/test_person_training.py",
    "tests/comfyui",
    "tests/director/test_direct_command.py",
    "tests/director/test_stories.py",
    "tests/dynamicrafter/test_api.py",
    "tests/dynamicrafter/test_block_swap.py",
    "tests/dynamicrafter/test_checkpoint_convert.py",
    "tests/dynamicrafter/test_checkpoint_load.py",
    "tests/dynamicrafter/test_checkpoint_memory.py",
    "tests/dynamicrafter/test_cli_again.py",
    "tests/dynamicrafter/test_cli_bad_input.py",
    "tests/dynamicrafter/test_cli_batch.py",
    "tests/dynamicrafter/test_cli_clips.py",
    "tests/dynamicrafter/test_cli_compare.py",
    "tests/dynamicrafter/test_cli_completion.py",
    "tests/dynamicrafter/test_cli_defaults.py",
    "tests/dynamicrafter/test_cli_failures.py",
    "tests/dynamicrafter/test_cli_streams.py",
    "tests/dynamicrafter/test_cli_weights.py",
    "tests/dynamicrafter/test_compilation.py",
    "tests/dynamicrafter/test_control.py",
    "tests/dynamicrafter/test_depth_model.py",
    "tests/dynamicrafter/test_doctor.py",
    "tests/dynamicrafter/test_download.py",
    "tests/dynamicrafter/test_forecast.py",
    "tests/dynamicrafter/test_full_int8.py",
    "tests/dynamicrafter/test_hostile_weights.py",
    "tests/dynamicrafter/test_interrupt.py",
    "tests/dynamicrafter/test_jobs_servers.py",
    "tests/dynamicrafter/test_jobs_workers.py",
    "tests/dynamicrafter/test_lengths.py",
    "tests/dynamicrafter/test_memory.py",
    "tests/dynamicrafter/test_merge.py",
    "tests/dynamicrafter/test_openvino.py",
    "tests/dynamicrafter/test_own_process.py",
    "tests/dynamicrafter/test_pictures.py",
    "tests/dynamicrafter/test_pipeline.py",
    "tests/dynamicrafter/test_placement.py",
    "tests/dynamicrafter/test_preview.py",
    "tests/dynamicrafter/test_quantised.py",
    "tests/dynamicrafter/test_sampler.py",
    "tests/dynamicrafter/test_shots.py",
    "tests/dynamicrafter/test_solvers.py",
    "tests/dynamicrafter/test_start_up.py",
    "tests/dynamicrafter/test_switching.py",
    "tests/dynamicrafter/test_techniques.py",
    "tests/dynamicrafter/test_tiles.py",
    "tests/dynamicrafter/test_typing.py",
    "tests/dynamicrafter/test_video.py",
    "tests/dynamicrafter/test_views.py",
    "tests/dynamicrafter/test_written_by_older_versions.py",
    "tests/evaluation/test_cli_evaluate.py",
    "tests/evaluation/test_clip_figures.py",
    "tests/page",
    "tests/parity",
    "tests/test_architecture.py",
    "tests/test_fuzz.py",
    "tests/test_packaging.py",
    "tests/test_tools.py",
    "tests/toy",
    "tests/training",
    "tests/workflows",
)
"""What the quick tests leave out: folders, files that take more than 2.5 seconds of processor time, and the tests of
Ctrl-C, which need a process of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for until something fails, and return the exit code of that, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.check", description="Check style, types and the forge's files."
    )
    parser.add_argument("quick", nargs="?", choices=["quick"], help="run the quick tests as well")
    commands = list(STYLE_AND_TYPES)
    if parser.parse_args(arguments).quick:
        commands.append(
            ("pytest", "--quiet", "-n", "2", "--dist", "loadfile", *(f"--ignore={path}" for path in SLOW))
        )
    for command in commands:
        code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
