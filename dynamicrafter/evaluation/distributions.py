"""Distances between two sets of clips, computed from their features: FVD and KVD.

Both compare the set of generated clips with a set of real ones, not clip by clip. FVD is biased by the number of clips,
so only values from equal numbers are comparable (published ones use 2048 and 2048); KVD is unbiased and can be slightly
negative.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..errors import UsageError

FEWEST = 2
"""Minimum number of clips in each set, for a covariance to exist."""


def frechet_distance(made: Tensor, real: Tensor) -> float:
    """Fréchet distance between normal distributions with the means and covariances of ``[n, d]`` and ``[m, d]``.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (arXiv 1812.01717, section 3), in float64. The eigenvalues of
    ``S1 S2`` are the squared singular values of the product of the centred features, which is equally accurate for few
    clips, whose covariances are singular, and for many. Raises UsageError for fewer than two of either.
    """
    a, b = _checked(made, real)
    gap = (a.mean(0) - b.mean(0)).square().sum()
    one, two = _factor(a), _factor(b)
    common = cast(Tensor, cast(Any, torch.linalg).svdvals(one @ two.T)).sum()
    return max(0.0, float(gap + one.square().sum() + two.square().sum() - 2 * common))


def kernel_distance(made: Tensor, real: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of ``[n, d]`` and ``[m, d]`` with the kernel ``(x y / d + 1)^3``.

    As KID (arXiv 1801.01401, section 4) on the features of videos, in float64. Raises UsageError for fewer than two
    of either.
    """
    a, b = _checked(made, real)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / a.shape[1] + 1) ** 3

    def among(x: Tensor) -> Tensor:
        values = kernel(x, x)
        return (values.sum() - values.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(among(a) + among(b) - 2 * kernel(a, b).mean())


def _factor(features: Tensor) -> Tensor:
    """``R`` of at most ``d`` rows with ``R^T R`` the covariance of ``[n, d]``."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    if len(centred) <= centred.shape[1]:
        return centred
    _, triangle = cast(Any, torch.linalg).qr(centred, mode="r")
    return cast(Tensor, triangle)


def _checked(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    fewest = min(len(made), len(real))
    if fewest < FEWEST:
        raise UsageError(
            f"FVD and KVD need at least {FEWEST} generated and {FEWEST} real clips, but there are {len(made)} and "
            f"{len(real)}; add clips"
        )
    return made.double().cpu(), real.double().cpu()
