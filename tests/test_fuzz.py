"""Damaged files of every kind end in a value or in one of the package's own sentences.

``python -m tools.fuzz --seconds 600`` goes on for longer; its docstring says how a case is run again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="stops what takes too long by a signal")
def test_1250_damaged_files(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tools.fuzz", "--seed", "1", "--cases", "250", "--keep", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "250 weights, 250 pictures, 250 clips, 250 records, 250 configs; 0 wrong" in result.stdout


def test_a_case_that_is_wrong_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(signal, "SIGALRM"):
        pytest.skip("stops what takes too long by a signal")
    from tools import fuzz

    def fail(path: Path) -> None:
        raise KeyError(path.name)

    monkeypatch.setitem(fuzz.PARSERS, "configs", (fuzz.config_seeds, fail))
    words = ["--parser", "configs", "--seed", "1", "--keep", str(tmp_path)]
    assert fuzz.main([*words, "--case", "3"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["configs_1_3"]
    monkeypatch.setitem(fuzz.PARSERS, "configs", (fuzz.config_seeds, lambda path: None))
    assert fuzz.main([*words, "--cases", "2"]) == 0
