"""Every layer with weights comes from the namespace that is handed in, and attention is called through one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from networks import (
    TINY_RESAMPLER,
    TINY_UNET,
    TINY_VAE,
    context,
    filled,
    normal,
    relative_difference,
    tiny_unet,
)
from torch import Tensor, nn
from torch.nn import functional as F

from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.operations import LayerClasses, Operations, fused_attention
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.video_decoder import VideoAutoencoder

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm")


def recording_operations(made: list[nn.Module]) -> LayerClasses:
    """A host's namespace: subclasses of torch's layers that note every instance."""

    def recorded(name: str) -> type[nn.Module]:
        base = getattr(nn, name)

        def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            base.__init__(self, *args, **kwargs)
            made.append(self)

        return type(f"Recorded{name}", (base,), {"__init__": init})

    return cast(LayerClasses, SimpleNamespace(**{name: recorded(name) for name in LAYERS}))


BUILDERS: dict[str, Callable[[Operations], nn.Module]] = {
    "unet": lambda operations: VideoUNet(TINY_UNET, operations),
    "unet with alpha": lambda operations: VideoUNet(replace(TINY_UNET, learned_image_scale=True), operations),
    "autoencoder": lambda operations: Autoencoder(TINY_VAE, operations),
    "video autoencoder": lambda operations: VideoAutoencoder(
        replace(TINY_VAE, channels=16, channel_mult=(1, 1, 2, 2), video_decoder=True), operations
    ),
    "resampler": lambda operations: Resampler(TINY_RESAMPLER, operations),
}
LONE = {
    "unet": set[str](),
    "unet with alpha": {"alpha"},
    "autoencoder": set[str](),
    "video autoencoder": {"mix_factor"},
    "resampler": {"latents"},
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_module_with_weights_comes_from_the_namespace(name: str) -> None:
    made: list[nn.Module] = []
    network = BUILDERS[name](Operations(layers=recording_operations(made)))
    recorded = set(map(id, made))
    strangers: set[str] = set()
    for path, module in network.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            if id(module) not in recorded:
                strangers.add(parameter if parameter in LONE[name] else f"{path}.{parameter}")
    assert strangers == LONE[name]
    assert recorded <= {id(module) for module in network.modules()}, "layers were made and thrown away"


@pytest.mark.parametrize("name", BUILDERS)
def test_no_buffers_hide_from_the_host(name: str) -> None:
    assert list(BUILDERS[name](Operations()).named_buffers()) == []


@pytest.mark.parametrize("name", BUILDERS)
def test_dtype_and_device_reach_every_parameter(name: str) -> None:
    network = BUILDERS[name](Operations(dtype=torch.bfloat16, device="meta"))
    kinds = {(parameter.dtype, parameter.device.type) for parameter in network.parameters()}
    assert kinds == {(torch.bfloat16, "meta")}


def run(name: str, network: nn.Module) -> Tensor:
    if isinstance(network, VideoUNet):
        return network(normal(1, 8, 2, 4, 4), torch.tensor([500]), context(1, 2), torch.tensor([8]))
    if isinstance(network, VideoAutoencoder):
        references = network.references(normal(1, 3, 16, 16), normal(1, 3, 16, 16, seed=1))
        return network.decode_clip(normal(2, 4, 2, 2), 2, references)
    if isinstance(network, Autoencoder):
        return network.decode(network.encode(normal(1, 3, 8, 8)).mean)
    return network(normal(1, 5, TINY_RESAMPLER.input_dim))


@pytest.mark.parametrize("name", BUILDERS)
def test_all_attention_goes_through_the_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = fused_attention
    inside: list[bool] = []

    def counted(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        assert q.ndim == k.ndim == v.ndim == 3
        assert q.shape[-1] % heads == 0
        calls.append(heads)
        inside.append(True)
        out = plain(q, k, v, heads)
        inside.pop()
        return out

    original = F.scaled_dot_product_attention

    def guarded(*args: Any, **kwargs: Any) -> Tensor:
        assert inside, "attention was computed beside the operations"
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", guarded)
    run(name, filled(BUILDERS[name](Operations(attention=counted))))
    # Network by network: (spatial 1 + 2) + temporal 2 for each of 7 places, temporal 2 at the start; mid attention
    # of encoder and decoder; the same and a fusion for each of the two coarse levels; one for each layer.
    expected = {
        "unet": 7 * 5 + 2,
        "unet with alpha": 7 * 5 + 2,
        "autoencoder": 2,
        "video autoencoder": 2 + 2,
        "resampler": TINY_RESAMPLER.depth,
    }
    assert len(calls) == expected[name]


def test_a_host_may_compute_attention_differently() -> None:
    plain = tiny_unet()
    zero = tiny_unet(operations=Operations(attention=lambda q, k, v, heads: torch.zeros_like(q)))
    assert relative_difference(run("unet", zero), run("unet", plain)) > 1e-3


@pytest.mark.parametrize(("heads", "queries", "keys"), [(1, 3, 5), (4, 7, 2), (2, 1, 1)])
def test_fused_attention_is_softmax_attention(heads: int, queries: int, keys: int) -> None:
    q, k, v = normal(2, queries, 8, seed=1), normal(2, keys, 8, seed=2), normal(2, keys, 8, seed=3)
    width = 8 // heads
    expected = torch.empty(2, queries, 8, dtype=torch.float64)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part].double() @ k[..., part].double().transpose(1, 2) * width**-0.5
        expected[..., part] = logits.softmax(dim=-1) @ v[..., part].double()
    assert relative_difference(fused_attention(q, k, v, heads).double(), expected) < 1e-6


def test_a_batch_beyond_the_kernels_limit_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = 65535 + 3
    q, k, v = (normal(batch, 2, 4, seed=seed) for seed in range(3))
    sizes: list[int] = []
    original = F.scaled_dot_product_attention

    def noted(*args: Tensor) -> Tensor:
        sizes.append(args[0].shape[0])
        return original(*args)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    split = fused_attention(q, k, v, 2)
    assert sizes == [65535, 3]
    whole = original(*(x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (q, k, v)))
    assert torch.equal(split, whole.transpose(1, 2).flatten(2))


def test_a_lone_parameter_may_wait_in_another_precision() -> None:
    """A host casts the layers it streams; alpha, the queries and the mix factor follow their input."""
    network = tiny_unet(replace(TINY_UNET, learned_image_scale=True)).to(torch.float64)
    for name, parameter in network.named_parameters():
        if name.endswith("alpha"):
            parameter.data = parameter.data.float()
    x, ctx = normal(1, 8, 2, 4, 4).double(), context(1, 2)
    ctx = replace(ctx, text=ctx.text.double(), image=ctx.image.double())
    assert network(x, torch.tensor([5]), ctx, torch.tensor([8])).dtype == torch.float64

    resampler = filled(Resampler(TINY_RESAMPLER)).to(torch.float64)
    resampler.latents.data = resampler.latents.data.float()
    assert resampler(normal(1, 5, TINY_RESAMPLER.input_dim).double()).dtype == torch.float64


PLANES = [(2, 3), (8, 8)]
"""One below the size at which a CPU takes the other form, and one at it."""


@pytest.mark.parametrize("plane", PLANES)
def test_a_convolution_over_time_is_the_three_dimensional_one(plane: tuple[int, int]) -> None:
    ours = filled(Operations().conv_over_time(6))
    theirs = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0))
    theirs.load_state_dict(ours.state_dict())
    x = normal(2, 6, 5, *plane)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_convolution_over_time_computes_in_two_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "conv3d", lambda *_: pytest.fail("a three-dimensional kernel was called"))
    assert Operations().conv_over_time(4)(normal(1, 4, 3, 8, 8)).shape == (1, 4, 3, 8, 8)


def test_a_convolution_over_time_uses_the_weights_that_a_host_prepares() -> None:
    class Halved(nn.Conv3d):
        def forward(self, input: Tensor) -> Tensor:
            return self._conv_forward(input, self.weight / 2, None)

    layers = cast(LayerClasses, SimpleNamespace(**{**vars(nn), "Conv3d": Halved}))
    layer = Operations(layers=layers).conv_over_time(4)
    assert isinstance(layer, Halved)
    x = normal(1, 4, 3, 8, 8)
    expected = F.conv3d(x, layer.weight / 2, padding=(1, 0, 0))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("recorded", [False, True])
def test_the_default_convolution_is_pytorchs(plane: tuple[int, int], recorded: bool) -> None:
    ours = filled(Operations().layers.Conv2d(6, 4, 3, padding=1))
    theirs = nn.Conv2d(6, 4, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = normal(3, 6, *plane)
    with torch.set_grad_enabled(recorded):
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("plane", "dtype", "recorded", "product"),
    [
        ((2, 3), torch.float32, False, True),
        ((8, 8), torch.float32, False, False),
        ((2, 3), torch.bfloat16, False, False),
        ((2, 3), torch.float32, True, False),
    ],
)
def test_small_planes_are_convolved_as_a_matrix_product(
    plane: tuple[int, int],
    dtype: torch.dtype,
    recorded: bool,
    product: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    plain = F.conv2d

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(F, "conv2d", counted)
    layer = filled(Operations(dtype=dtype).layers.Conv2d(4, 4, 3, padding=1, dtype=dtype))
    with torch.set_grad_enabled(recorded):
        layer(normal(2, 4, *plane).to(dtype))
    assert len(calls) == (0 if product else 1)
