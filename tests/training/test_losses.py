"""The training loss against the same formulas worked out from their definition in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynamicrafter.diffusion.config import DiffusionConfig
from dynamicrafter.diffusion.schedule import make_schedule
from dynamicrafter.model.variants import V256, V512, V1024
from dynamicrafter.training.losses import (
    add_noise,
    drop_conditions,
    min_snr_weight,
    per_sample,
    time_noise,
    uniform_timesteps,
)


def abar(zero_snr: bool) -> np.ndarray:
    """Share of the signal's power by the definitions: squared linspace of roots, then arXiv 2305.08891."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    roots = np.sqrt(np.cumprod(1 - betas))
    if zero_snr:
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots**2


def scale(base: float | None, t: int) -> float:
    """Linear from 1 to ``base`` over timesteps 0 to 399, then ``base``."""
    return 1.0 if base is None else base if t >= 400 else 1 + (base - 1) * t / 399


STEPS = [0, 1, 200, 399, 400, 700, 999]


@pytest.mark.parametrize("variant", [V256, V512, V1024], ids=lambda v: v.name)
def test_input_and_target_are_the_released_ones(variant) -> None:
    config: DiffusionConfig = variant.diffusion
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(len(STEPS), 4, 3, 2, 2, generator=generator) for _ in range(2))
    made = add_noise(x0, noise, torch.tensor(STEPS), make_schedule(config))
    power = abar(config.zero_snr)
    for row, t in enumerate(STEPS):
        clean = scale(config.base_scale, t) * x0[row].double().numpy()
        dirt = noise[row].double().numpy()
        signal, rest = math.sqrt(power[t]), math.sqrt(1 - power[t])
        target = dirt if config.prediction == "eps" else signal * dirt - rest * clean
        np.testing.assert_allclose(made.x[row].numpy(), signal * clean + rest * dirt, atol=2e-5)
        np.testing.assert_allclose(made.target[row].numpy(), target, atol=2e-5)


def test_the_last_timestep_holds_no_signal() -> None:
    noise = torch.randn(1, 4, 2, 2, 2)
    schedule = make_schedule(V512.diffusion)
    made = add_noise(torch.full_like(noise, 100.0), noise, torch.tensor([999]), schedule)
    assert torch.equal(made.x, noise)
    assert torch.allclose(made.target, torch.full_like(noise, -70.0))


@pytest.mark.parametrize("variant", [V256, V512], ids=lambda v: v.name)
def test_min_snr_weights(variant) -> None:
    steps = [1, 300, 600, 998]
    weights = min_snr_weight(torch.tensor(steps), make_schedule(variant.diffusion), 5.0)
    power = abar(variant.diffusion.zero_snr)[steps]
    snr = power / (1 - power)
    expected = np.minimum(snr, 5.0) / (snr + (variant.diffusion.prediction == "v"))
    np.testing.assert_allclose(weights.numpy(), expected, rtol=2e-3)


def test_min_snr_weight_without_signal_is_finite() -> None:
    schedule = make_schedule(V512.diffusion)
    assert float(min_snr_weight(torch.tensor([999]), schedule, 5.0)) == 0
    eps = make_schedule(DiffusionConfig(prediction="eps", zero_snr=True, base_scale=None))
    assert float(min_snr_weight(torch.tensor([999]), eps, 5.0)) == 1


def test_losses_are_means_of_each_sample() -> None:
    said, wanted = torch.zeros(2, 4, 1, 1, 1), torch.zeros(2, 4, 1, 1, 1)
    said[1] = 3.0
    assert per_sample(said, wanted).tolist() == [0.0, 9.0]


def test_conditions_are_dropped_5_5_5() -> None:
    draws = torch.tensor([0.0, 0.049, 0.051, 0.099, 0.101, 0.149, 0.151, 0.9])
    dropped = drop_conditions(draws)
    assert dropped.text.tolist() == [True] * 4 + [False] * 4
    assert dropped.image.tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_timesteps_cover_the_whole_range() -> None:
    t = uniform_timesteps(1000, torch.Generator().manual_seed(0))
    assert sorted(t.tolist()) == list(range(1000))
    assert t.tolist() != list(range(1000))
    few = uniform_timesteps(4, torch.Generator().manual_seed(0))
    assert sorted(value // 250 for value in few.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("t", "median"), [(0, 0.27), (999, 0.73)])
def test_time_noise_is_larger_at_higher_timesteps(t: int, median: float) -> None:
    """The medians are the sigmoids of -1 and 1."""
    concat = torch.ones(2000, 1, 2, 16, 16)
    made = time_noise(concat, torch.full((2000,), t), 100.0, torch.Generator().manual_seed(0)) - concat
    assert made[:, :, 0].equal(made[:, :, 1])
    deviations = made[:, :, 0].flatten(1).square().mean(1).sqrt()
    assert float(deviations.median()) == pytest.approx(100 * median, rel=0.05)
    assert float(deviations.std()) > 10


def test_time_noise_leaves_frames_without_an_image_empty() -> None:
    concat = torch.zeros(2, 4, 5, 4, 4)
    concat[:, :, 0], concat[:, :, -1] = 1, 2
    made = time_noise(concat, torch.tensor([0, 999]), 1.0, torch.Generator().manual_seed(0))
    assert not made[:, :, 1:-1].any()
    assert torch.allclose(made[:, :, -1] - 2, made[:, :, 0] - 1, atol=1e-6) and not made[:, :, 0].equal(
        concat[:, :, 0]
    )
