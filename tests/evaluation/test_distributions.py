"""FVD's and KVD's mathematics against values worked out in float64 in another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamicrafter.errors import UsageError
from dynamicrafter.evaluation.distributions import frechet_distance, kernel_distance


def clouds(made: int, real: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of correlated features of different means and spreads."""
    rng = np.random.default_rng(made * 100 + real * 10 + size)
    mix = rng.normal(size=(size, size))
    one = rng.normal(size=(made, size)) @ mix
    return one, 0.7 * rng.normal(size=(real, size)) @ mix.T + 0.5


def by_eigenvalues(one: np.ndarray, two: np.ndarray) -> float:
    """The textbook way: both covariance matrices, and the eigenvalues of their product."""
    s1, s2 = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(min=0))
    gap = ((one.mean(0) - two.mean(0)) ** 2).sum()
    return float(gap + np.trace(s1) + np.trace(s2) - 2 * roots.sum())


def by_pairs(one: np.ndarray, two: np.ndarray) -> float:
    """The kernel of every pair, one by one."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(one), len(two)
    among_one = sum(kernel(one[i], one[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    among_two = sum(kernel(two[i], two[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(x, y) for x in one for y in two) / (n * m)
    return among_one + among_two - 2 * between


@pytest.mark.parametrize(("made", "real", "size"), [(40, 30, 6), (9, 50, 6), (5, 4, 12), (2, 2, 3)])
def test_the_distances_are_what_their_formulas_say(made: int, real: int, size: int) -> None:
    """With more and with fewer clips than features."""
    one, two = clouds(made, real, size)
    a, b = torch.from_numpy(one), torch.from_numpy(two)
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(one, two), rel=1e-6, abs=1e-5)
    assert kernel_distance(a, b) == pytest.approx(by_pairs(one, two), rel=1e-9, abs=1e-9)


def test_normal_distributions_of_known_distance() -> None:
    """Equal spreads leave the distance of the means; equal means that of the standard deviations."""
    points = torch.from_numpy(clouds(20, 20, 4)[0])
    shift = torch.tensor([3.0, 4.0, 0.0, 0.0])
    assert frechet_distance(points, points + shift) == pytest.approx(25)
    centred = (points - points.mean(0))[:, :1]
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * float(centred.var()))


def test_equal_sets_are_at_no_distance_and_others_apart() -> None:
    one, two = (torch.from_numpy(cloud) for cloud in clouds(60, 60, 5))
    again = torch.from_numpy(clouds(60, 60, 5)[0])
    assert frechet_distance(one, again) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, two) > 1
    assert kernel_distance(one, two) > kernel_distance(one[:30], one[30:])


def test_single_precision_features_are_worked_out_in_double() -> None:
    one, two = clouds(30, 30, 8)
    a, b = torch.from_numpy(one + 100).float(), torch.from_numpy(two + 100).float()
    wanted = by_eigenvalues(a.double().numpy(), b.double().numpy())
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_one_clip_has_no_spread(distance: object) -> None:
    assert callable(distance)
    with pytest.raises(UsageError, match="need at least 2 generated and 2 real clips, but there are 1 and 5"):
        distance(torch.zeros(1, 3), torch.zeros(5, 3))
