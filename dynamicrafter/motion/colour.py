"""Colours of frames: matched to an image, kept from drifting, and measured.

Frames are float32 ``[n, 3, H, W]`` RGB around [-1, 1] unless said otherwise.
"""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_GAIN, _MOST_GAIN = 0.7, 1.4
"""Limits of the change of contrast: beyond them, frame and image do not show the same."""
_UNMOVED = 0.1
"""Largest difference of a channel, of the range of 2, at which a pixel counts as unmoved."""
_FEWEST = 0.01
"""Share of unmoved pixels below which a frame says nothing about its drift."""
_PARTS = 16
"""Parts along the shorter side, whose means have the contrast: a blurred frame does not have less of it."""
_FLAT = 0.05
"""Least contrast, of the range of 2, that counts: the ratio of less says nothing."""
_CELLS = 8
"""Neighbourhoods along the shorter side, each of which drifts in its own way."""
_CLUSTERS, _ROUNDS = 16, 8
"""Clusters of an image's colours, and iterations that find their centres."""
_CLUSTERED = 2**14
"""About so many pixels, evenly spread, are looked at to find the centres."""
_SPREAD = 0.3
"""Distance from the centre of a cluster, of the range of 2, beyond which a colour is none of it."""
_RARE = 0.002
"""Share of the pixels below which a cluster says nothing about its drift."""
_STRIDE = 4
"""Every fourth pixel along both axes is measured; means hardly differ from those of all."""


def gain_and_shift(frame: Tensor, reference: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """``gain`` and ``shift`` ``[3, 1, 1]`` with which ``gain * frame + shift`` has the reference's mean and contrast.

    Both are ``[3, H, W]`` and show the same; ``strength`` is from 0 (gain 1, shift 0) to 1. Contrast is the deviation
    of the means of small parts.
    """
    parts = [_means_of_cells(picture, _PARTS).flatten(1) for picture in (frame, reference)]
    means, deviations = (
        [statistic(values, dim=1)[:, None, None] for values in parts] for statistic in (torch.mean, torch.std)
    )
    contrasts = [deviation.clamp(min=_FLAT) for deviation in deviations]
    gain = (contrasts[1] / contrasts[0]).clamp(_LEAST_GAIN, _MOST_GAIN)
    return 1 + strength * (gain - 1), strength * (means[1] - gain * means[0])


class ColourMatch:
    """Matches the colours of a clip, whose frames come in order, to the image that it begins with.

    Mean and contrast of each channel are estimated once, from the first frame. After that, drift is subtracted: of what
    has not moved, its mean difference from the image, and by how much each neighbourhood differs from that mean; of
    what moves, by how much its colours differ from those colours in the image.
    """

    def __init__(self, reference: Tensor, strength: float) -> None:
        """``reference`` is ``[3, H, W]``, ``strength`` from 0 to 1."""
        self._reference = reference
        self._strength = strength
        self._palette = _Palette(reference)
        self._matching: tuple[Tensor, Tensor] | None = None
        self._drift = torch.zeros(3, 1, 1)

    def __call__(self, frames: Tensor) -> Tensor:
        """The next frames ``[n, 3, H, W]`` of the clip, matched."""
        if self._matching is None:
            self._matching = gain_and_shift(frames[0], self._reference)
        gain, shift = self._matching
        matched = torch.stack([self._without_drift(gain * frame + shift) for frame in frames])
        return frames + self._strength * (matched - frames)

    def _without_drift(self, frame: Tensor) -> Tensor:
        change = frame - self._reference
        # Compared with the drift so far, so that slow drift is followed beyond what counts as unmoved.
        unmoved = (change - self._drift).abs().amax(0) < _UNMOVED
        if unmoved.float().mean() >= _FEWEST:
            self._drift = change[:, unmoved].mean(1)[:, None, None]
        rest = change - self._drift
        weight = _biweight(rest.abs().amax(0), _UNMOVED)
        steady = frame - self._drift - _local(rest, weight)
        return steady - (1 - weight) * self._palette.drift_of(steady)


def _biweight(size: Tensor, limit: float) -> Tensor:
    """Tukey's biweight (Beaton and Tukey 1974): 1 for a size of 0, 0 from ``limit`` on.

    With it, a change in one place or of one colour is never followed, however slow it is: at most 0.29 of the limit is
    taken for drift, and less the larger it is.
    """
    return (1 - (size / limit).square()).clamp(min=0).square()


def _local(change: Tensor, weight: Tensor) -> Tensor:
    """The small changes ``[3, H, W]`` of each neighbourhood, for its pixels by their ``weight`` ``[H, W]``, 0 to 1.

    What moves takes no part in the drift of the places that it passes, which would add up on it from clip to clip.
    """
    cells = _means_of_cells(weight * change, _CELLS)
    return weight * functional.interpolate(cells[None], change.shape[1:], mode="bilinear")[0]


def _means_of_cells(values: Tensor, along: int) -> Tensor:
    """The means of cells of ``[3, H, W]``, of which so many fit along the shorter side."""
    height, width = values.shape[1:]
    cell = min(height, width) / along
    return functional.adaptive_avg_pool2d(values, (round(height / cell), round(width / cell)))


class _Palette:
    """The colours of an image in clusters (k-means, Lloyd 1982), found again in other frames wherever they are."""

    def __init__(self, image: Tensor) -> None:
        """``image`` is ``[3, H, W]``."""
        height, width = image.shape[1:]
        step = max(1, round(math.sqrt(height * width / _CLUSTERED)))
        some = image[:, ::step, ::step].flatten(1).T
        # Each begins with the colour that is farthest from the others, so that small subjects have their own.
        centres = some.mean(0, keepdim=True)
        for _ in range(_CLUSTERS - 1):
            apart = torch.cdist(some, centres).amin(1)
            centres = torch.cat([centres, some[apart.argmax()][None]])
        for _ in range(_ROUNDS):
            distance, owner = torch.cdist(some, centres).min(1)
            means, counts = self._means(some, owner, _biweight(distance, _SPREAD))
            centres = torch.where(counts[:, None] > 0, means, centres)
        self._centres = centres
        self._colours, self._common = self._seen(image.flatten(1).T)[:2]

    def drift_of(self, frame: Tensor) -> Tensor:
        """The small differences ``[3, H, W]`` of a frame's colours from those of the image, cluster by cluster."""
        colours, common, owner, weight = self._seen(frame.flatten(1).T)
        drift = colours - self._colours
        drift = drift * _biweight(drift.abs().amax(1, keepdim=True), _UNMOVED)
        drift = drift * (common & self._common)[:, None]
        return (weight[:, None] * drift[owner]).T.view_as(frame)

    def _seen(self, colours: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of ``[n, 3]``: each cluster's mean and whether it is common; each pixel's cluster and its weight in it."""
        distance, owner = torch.cdist(colours, self._centres).min(1)
        # Outlines are left out: the sharper they are, the more of a cluster is of its full colour.
        means, counts = self._means(colours, owner, _biweight(distance, _UNMOVED))
        return means, counts > _RARE * len(colours), owner, _biweight(distance, _SPREAD)

    @staticmethod
    def _means(colours: Tensor, owner: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.zeros(_CLUSTERS).index_add_(0, owner, weight)
        sums = torch.zeros(_CLUSTERS, 3).index_add_(0, owner, weight[:, None] * colours)
        return sums / counts.clamp(min=1e-6)[:, None], counts


def to_linear(frames: Tensor) -> Tensor:
    """Linear light in [0, 1] of sRGB frames in [-1, 1]; values beyond are clamped (IEC 61966-2-1)."""
    values = (frames.clamp(-1, 1) + 1) / 2
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_linear(light: Tensor) -> Tensor:
    """The inverse of :func:`to_linear`."""
    values = torch.where(
        light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    )
    return values * 2 - 1


def clipped(frames: Tensor) -> float:
    """Share of the channel values of frames in [-1, 1] that are black or full, to half a level."""
    return float((frames.abs() >= 1 - 0.5 / 127.5).float().mean())


class Clipping:
    """The share of a clip's values that are black or full, which too high a cfg makes them."""

    def __init__(self) -> None:
        self._shares: list[float] = []

    def add(self, frames: Tensor) -> None:
        """Count in the next frames, uint8 ``[n, h, w, 3]``."""
        self._shares += [clipped(frame) for frame in _some(frames)]

    @property
    def share(self) -> float:
        """Of all frames so far; 0 to 1."""
        return fmean(self._shares or [0.0])

    def beyond(self, picture: Tensor) -> float:
        """The share above that of an image, uint8 ``[h, w, 3]`` of any size."""
        return self.share - clipped(_some(picture[None]))


class Drift:
    """How far the mean colour of a clip's frames departs from that of its first one, in units of CIELAB (delta E 1976).

    A just noticeable difference is about 2.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self.largest = 0.0
        """Over all frames so far."""
        self.last = 0.0
        """Of the last frame so far."""

    def add(self, frames: Tensor) -> None:
        """Measure the next frames, uint8 ``[n, h, w, 3]``."""
        for mean in lab(_some(frames)).mean((-2, -1)):
            if self._first is None:
                self._first = mean
            self.last = float((mean - self._first).square().sum().sqrt())
            self.largest = max(self.largest, self.last)


def _some(frames: Tensor) -> Tensor:
    """Every few pixels of frames, uint8 ``[n, h, w, 3]``, as ``[n, 3, h, w]`` in [-1, 1]."""
    return frames[:, ::_STRIDE, ::_STRIDE].movedim(-1, 1).float() / 127.5 - 1


_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
"""Linear sRGB to XYZ (IEC 61966-2-1)."""
_WHITE = (0.9505, 1.0, 1.089)
"""XYZ of D65."""


def lab(frames: Tensor) -> Tensor:
    """CIELAB ``[n, 3, H, W]`` of frames."""
    xyz = torch.einsum("ij,njhw->nihw", torch.tensor(_XYZ), to_linear(frames))
    share = xyz / torch.tensor(_WHITE)[:, None, None]
    small = (6 / 29) ** 3
    x, y, z = torch.where(
        share > small, share.clamp(min=small) ** (1 / 3), share / (3 * (6 / 29) ** 2) + 4 / 29
    ).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
