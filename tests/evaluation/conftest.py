"""Pictures, clips and a small model for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but those of the test, whatever the machine holds."""
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("dynamicrafter.evaluation.clip_score._cached", lambda: None)


@pytest.fixture
def soft_frames() -> torch.Tensor:
    """A clip of 12 frames, uint8 ``[t, h, w, 3]``, of a texture that moves right by 2 pixels a frame."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.rand(1, 3, 64, 96, generator=generator)
    wide = torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)
    wide = (wide - wide.mean()) * 3 + 0.5
    clip = torch.stack([wide[0, :, :, 24 - 2 * i : 88 - 2 * i] for i in range(12)])
    return (clip.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
