"""Windows over clips that are longer than the network's: every frame is seen, and what overlaps is averaged."""

from __future__ import annotations

import pytest
import torch

from dynamicrafter.diffusion.windows import Blend, Window, cyclic_windows, plain_windows


@pytest.mark.parametrize(("frames", "overlap"), [(17, 4), (48, 4), (64, 8), (100, 0), (33, 15)])
def test_windows_of_a_clip_cover_it_in_order(frames: int, overlap: int) -> None:
    windows = plain_windows(frames, 16, overlap)
    assert {frame for window in windows for frame in window.frames} == set(range(frames))
    assert all(window.frames == tuple(range(window.frames[0], window.frames[0] + 16)) for window in windows)
    shared = [len({*one.frames} & {*other.frames}) for one, other in zip(windows, windows[1:], strict=False)]
    assert min(shared) >= overlap


@pytest.mark.parametrize(("frames", "overlap", "shift"), [(16, 4, 0), (17, 4, 3), (48, 4, 47), (50, 0, 9)])
def test_windows_of_a_loop_cover_it_evenly(frames: int, overlap: int, shift: int) -> None:
    """The weights of a loop's windows, summed, do not depend on where the loop begins."""
    windows = cyclic_windows(frames, 16, overlap, shift)
    assert windows[0].frames[0] == shift % frames
    assert all(
        window.frames == tuple((window.frames[0] + k) % frames for k in range(16)) for window in windows
    )
    weight = torch.zeros(frames)
    for window in windows:
        weight.index_add_(0, torch.tensor(window.frames), torch.tensor(window.weights))
    assert weight.min() > 0
    turned = torch.zeros(frames)
    for window in cyclic_windows(frames, 16, overlap):
        turned.index_add_(0, torch.tensor(window.frames), torch.tensor(window.weights))
    assert torch.equal(weight.roll(-shift), turned)


def test_a_blend_is_the_weighted_mean() -> None:
    blend = Blend(torch.zeros(1, 1, 3, 1, 1))
    blend.add(Window((0, 1), (1.0, 1.0)), torch.full((1, 1, 2, 1, 1), 2.0))
    blend.add(Window((1, 2), (3.0, 1.0)), torch.full((1, 1, 2, 1, 1), 6.0))
    assert blend.mean().flatten().tolist() == [2.0, 5.0, 6.0]


def test_outputs_that_agree_are_unchanged_by_blending() -> None:
    clip = torch.randn(1, 4, 48, 2, 2, generator=torch.Generator().manual_seed(0))
    for windows in (plain_windows(48, 16, 4), cyclic_windows(48, 16, 4, 5)):
        blend = Blend(clip)
        for window in windows:
            blend.add(window, clip[:, :, list(window.frames)])
        assert torch.allclose(blend.mean(), clip, atol=1e-6)
