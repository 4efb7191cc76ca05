"""Interfaces of AnimateAnyone's networks, as :mod:`dynamicrafter.model.protocols`; the autoencoder's is there."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .attention import Features, Reference


class ReferenceNetwork(Protocol):
    """Sees the reference image, once for a clip."""

    def __call__(self, latents: Tensor, context: Tensor) -> Features:
        """Features of latents ``[b, 4, h, w]`` with the context ``[b, 1, d]``, by the path of each transformer."""
        ...


class PersonNetwork(Protocol):
    """The denoising network."""

    def project(self, features: Features) -> Reference:
        """Keys and values of a reference's features; they are the same at all steps and in all windows."""
        ...

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        pose: Tensor | None = None,
        reference: Reference | None = None,
    ) -> Tensor:
        """One evaluation of rows that all attend to ``reference``, or of rows without one if it is None.

        ``x`` is ``[b, 4, f, h, w]`` with 1 to 32 frames, ``timesteps`` ``[b]`` or ``[1]``, ``context`` ``[b, 1, d]``
        and ``pose`` features ``[b or 1, c, f, h, w]``. Returns ``[b, 4, f, h, w]``.
        """
        ...


class PoseNetwork(Protocol):
    """Drawn poses to what the denoising network adds to its first layer."""

    def __call__(self, poses: Tensor) -> Tensor:
        """Poses ``[b, 3, f, H, W]`` in [0, 1] to features ``[b, c, f, H / 8, W / 8]``."""
        ...


class PictureEmbedder(Protocol):
    """The reference image to the context of both networks."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """CLIP input ``[b, 3, s, s]`` to the context ``[b, 1, d]``."""
        ...
