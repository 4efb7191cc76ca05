"""Guidance formulas against float64, and which evaluations each kind asks for."""

from __future__ import annotations

import pytest
import torch
from networks import normal
from torch import Tensor

from dynamicrafter.diffusion.guidance import (
    Guidance,
    NoGuidance,
    TextGuidance,
    TextImageGuidance,
    make_guidance,
)

SHAPE = (2, 4, 3, 5, 6)
FULL, UNCONDITIONAL, IMAGE_ONLY = (normal(*SHAPE, seed=seed) * (1 + seed) for seed in range(3))


def outputs(guidance: Guidance) -> list[Tensor]:
    named = {"full": FULL, "unconditional": UNCONDITIONAL, "image_only": IMAGE_ONLY}
    return [named[branch] for branch in guidance.branches]


def rescaled(guided: Tensor, amount: float) -> Tensor:
    """By hand, clip by clip: the guided output brought to the conditional one's standard deviation, in part."""
    made = torch.empty_like(guided)
    for clip in range(guided.shape[0]):
        values, full = guided[clip].flatten(), FULL[clip].double().flatten()
        ratio = (((full - full.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum()).sqrt()
        made[clip] = amount * guided[clip] * ratio + (1 - amount) * guided[clip]
    return made


@pytest.mark.parametrize("rescale", [0.0, 0.3, 1.0])
def test_text_guidance_moves_away_from_the_unconditional_output(rescale: float) -> None:
    guidance = TextGuidance(7.5, rescale)
    guided = UNCONDITIONAL.double() + 7.5 * (FULL.double() - UNCONDITIONAL.double())
    torch.testing.assert_close(
        guidance.combine(outputs(guidance)).double(), rescaled(guided, rescale), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_text_and_image_have_scales_of_their_own(rescale: float) -> None:
    guidance = TextImageGuidance(7.5, 1.5, rescale)
    full, unconditional, image_only = FULL.double(), UNCONDITIONAL.double(), IMAGE_ONLY.double()
    guided = unconditional + 1.5 * (image_only - unconditional) + 7.5 * (full - image_only)
    torch.testing.assert_close(
        guidance.combine(outputs(guidance)).double(), rescaled(guided, rescale), rtol=1e-5, atol=1e-5
    )


def test_full_rescale_gives_each_clip_the_contrast_of_its_conditional_output() -> None:
    guidance = TextGuidance(7.5, 1.0)
    guided = guidance.combine(outputs(guidance))
    axes = (1, 2, 3, 4)
    torch.testing.assert_close(guided.std(dim=axes), FULL.std(dim=axes))


def test_clips_of_a_batch_are_rescaled_on_their_own() -> None:
    guidance = TextGuidance(5.0, 0.7)
    batch = guidance.combine([FULL, UNCONDITIONAL])
    for clip in range(SHAPE[0]):
        part = slice(clip, clip + 1)
        torch.testing.assert_close(batch[part], guidance.combine([FULL[part], UNCONDITIONAL[part]]))


def test_a_scale_of_one_needs_one_evaluation_and_changes_nothing() -> None:
    guidance = make_guidance(1.0, None, 0.7)
    assert guidance == NoGuidance()
    assert guidance.branches == ("full",)
    assert torch.equal(guidance.combine([FULL]), FULL)


def test_without_an_image_scale_guidance_is_plain() -> None:
    guidance = make_guidance(7.5, None, 0.7)
    assert guidance == TextGuidance(7.5, 0.7)
    assert guidance.branches == ("full", "unconditional")


def test_an_image_scale_needs_three_evaluations() -> None:
    guidance = make_guidance(7.5, 1.5, 0.7)
    assert guidance == TextImageGuidance(7.5, 1.5, 0.7)
    assert guidance.branches == ("full", "unconditional", "image_only")


def test_equal_scales_are_plain_guidance() -> None:
    plain, both = make_guidance(7.5, None, 0.7), make_guidance(7.5, 7.5, 0.7)
    torch.testing.assert_close(
        both.combine(outputs(both)), plain.combine(outputs(plain)), rtol=1e-5, atol=1e-4
    )


def test_an_image_scale_of_one_is_an_ordinary_value() -> None:
    """The original does not build the third condition there and fails."""
    guidance = make_guidance(7.5, 1.0, 0.0)
    expected = IMAGE_ONLY.double() + 7.5 * (FULL.double() - IMAGE_ONLY.double())
    torch.testing.assert_close(guidance.combine(outputs(guidance)).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_text_scale_of_one_keeps_the_image_scale() -> None:
    guidance = make_guidance(1.0, 3.0, 0.0)
    expected = FULL.double() + 2.0 * (IMAGE_ONLY.double() - UNCONDITIONAL.double())
    torch.testing.assert_close(guidance.combine(outputs(guidance)).double(), expected, rtol=1e-5, atol=1e-5)


def test_outputs_are_left_as_they_were() -> None:
    before = [FULL.clone(), UNCONDITIONAL.clone(), IMAGE_ONLY.clone()]
    guidance = TextImageGuidance(7.5, 1.5, 0.7)
    guidance.combine(outputs(guidance))
    assert all(torch.equal(a, b) for a, b in zip(before, [FULL, UNCONDITIONAL, IMAGE_ONLY], strict=True))
