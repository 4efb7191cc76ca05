"""The networks as functions of plain tensors, for an export; names of features are the paths of the transformers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import cast

from torch import Tensor, nn

from ..backends.openvino.graphs import (
    Function,
    Signature,
    decoder_of,
    decoder_signature,
    encoder_of,
    encoder_signature,
    example_of,
)
from ..backends.openvino.manifest import Family
from ..model.autoencoder import Autoencoder
from ..model.configs import LATENT_FACTOR
from ..model.operations import Operations
from .attention import Reference
from .config import PERSON_KEY, PersonConfig
from .embedder import ImageEmbedder
from .layout import Part
from .pose_guider import PoseGuider
from .unet import DenoisingUNet, ReferenceUNet

GRAPHS_OF: dict[Part, tuple[str, ...]] = {
    "reference": ("reference",),
    "denoising": ("projection", "denoising"),
    "pose_guider": ("pose_guider",),
    "vae": ("vae_encoder", "vae_decoder"),
    "embedder": ("embedder",),
}
"""The graphs of each network. The projection is the denoising network's layers that see the reference's features, which
run once for a clip."""
PERSON_FAMILY = Family(
    "AnimateAnyone", PERSON_KEY, tuple(name for names in GRAPHS_OF.values() for name in names)
)


@cache
def feature_widths(config: PersonConfig) -> dict[str, int]:
    """The width of the features of each transformer, by path, in the order of execution."""
    network = ReferenceUNet(config.pair, Operations(device="meta"))
    return {
        path: cast(nn.Conv2d, module.proj_in).out_channels for path, module in network.transformers().items()
    }


def reference_names(config: PersonConfig) -> list[str]:
    """Names of a reference's keys and values, in turn."""
    return [f"{path}.{kind}" for path in feature_widths(config) for kind in ("keys", "values")]


def reference_tensors(reference: Reference, config: PersonConfig) -> Iterator[Tensor]:
    """The tensors of :func:`reference_names`."""
    for path in feature_widths(config):
        yield from reference[path]


def person_signature(config: PersonConfig, graph: str) -> Signature:
    """The inputs, in the order of the call, and the outputs of a network.

    The denoising graph serves both evaluations of the guidance: without a reference, its keys and values have the
    length 0.
    """
    pair, latent = config.pair, config.vae.latent_channels
    context: tuple[int | None, ...] = (None, 1, pair.context_dim)
    tokens: dict[str, tuple[int | None, ...]] = {
        path: (None, None, width) for path, width in feature_widths(config).items()
    }
    projected = {name: tokens[name.rpartition(".")[0]] for name in reference_names(config)}
    clip = (None, latent, None, None, None)
    pose = (None, config.pose_guider.out_channels, None, None, None)
    if graph == "reference":
        return Signature({"latents": (None, latent, None, None), "context": context}, tokens)
    if graph == "projection":
        return Signature(tokens, projected)
    if graph == "denoising":
        time = (None, pair.widths[0])
        return Signature(
            {"x": clip, "time": time, "context": context, "pose": pose, **projected}, {"out": clip}
        )
    if graph == "pose_guider":
        return Signature({"poses": (None, 3, None, None, None)}, {"features": pose})
    if graph == "embedder":
        side = config.embedder.image_size
        return Signature({"pixels": (None, 3, side, side)}, {"context": context})
    return encoder_signature(config.vae) if graph == "vae_encoder" else decoder_signature(config.vae)


def person_function(network: nn.Module, graph: str) -> nn.Module:
    """The inputs and outputs of :func:`person_signature` for the network that ``graph`` is of."""
    if isinstance(network, ReferenceUNet):
        return _reference(network)
    if isinstance(network, DenoisingUNet):
        return _projection(network) if graph == "projection" else _denoising(network)
    if isinstance(network, Autoencoder):
        return encoder_of(network) if graph == "vae_encoder" else decoder_of(network)
    assert isinstance(network, PoseGuider | ImageEmbedder)
    return network


def _reference(network: ReferenceUNet) -> nn.Module:
    def see(latents: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(latents, context).values())

    return Function(network, see)


def _projection(network: DenoisingUNet) -> nn.Module:
    paths = list(network.transformers())

    def project(*features: Tensor) -> tuple[Tensor, ...]:
        reference = network.project(dict(zip(paths, features, strict=True)))
        return tuple(tensor for path in paths for tensor in reference[path])

    return Function(network, project)


def _denoising(network: DenoisingUNet) -> nn.Module:
    paths = list(network.transformers())

    def evaluate(x: Tensor, time: Tensor, context: Tensor, pose: Tensor, *projected: Tensor) -> Tensor:
        pairs = zip(projected[::2], projected[1::2], strict=True)
        return network.from_sinusoids(x, time, context, pose, dict(zip(paths, pairs, strict=True)))

    return Function(network, evaluate)


def person_example(config: PersonConfig, graph: str) -> tuple[Tensor, ...]:
    """Small inputs to trace a network with, whose free axes have different lengths; all others are accepted too."""
    cells = 2 ** (len(config.pair.widths) - 1)
    height, width, frames = 2 * cells, 3 * cells, 5
    tokens = dict.fromkeys(feature_widths(config), (1, 7))
    free = {
        "reference": {"latents": (1, height, width)},
        "projection": tokens,
        "denoising": {
            "x": (1, frames, height, width),
            "pose": (1, frames, height, width),
            **dict.fromkeys(reference_names(config), (1, 7)),
        },
        "pose_guider": {"poses": (1, 2, 2 * LATENT_FACTOR, 3 * LATENT_FACTOR)},
        "vae_encoder": {"pictures": (1, 2 * LATENT_FACTOR, 3 * LATENT_FACTOR)},
        "vae_decoder": {"latents": (1, 2, 3)},
        "embedder": {"pixels": (2,)},
    }[graph]
    return example_of(person_signature(config, graph), free)
