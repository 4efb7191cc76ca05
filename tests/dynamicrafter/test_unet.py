"""The denoising network: any number of frames, batches that do not mix, and every input visible in the output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import TINY_UNET, context, filled, normal, relative_difference, tiny_unet
from torch import Tensor

from dynamicrafter.model.attention import CrossAttention, SpatialTransformer, TemporalTransformer
from dynamicrafter.model.configs import UNetConfig
from dynamicrafter.model.layers import Downsample, ResBlock, TemporalConvBlock, Upsample, sinusoidal_embedding
from dynamicrafter.model.operations import PLAIN, fused_attention
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = tiny_unet()
BATCHED = 1e-5
"""How far products of another shape may differ by rounding."""


def run(network: VideoUNet, x: Tensor, ctx: Context, timestep: int = 500, fs: int = 8) -> Tensor:
    batch = x.shape[0]
    with torch.inference_mode():
        return network(x, torch.full((batch,), timestep), ctx, torch.full((batch,), fs))


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
def test_any_number_of_frames(frames: int) -> None:
    out = run(NETWORK, normal(1, 8, frames, 4, 6), context(1, frames))
    assert out.shape == (1, 4, frames, 4, 6)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
def test_tokens_shown_to_all_frames_are_the_same_tokens_for_each(frames: int) -> None:
    x, shared = normal(1, 8, frames, 4, 4), context(1, 1)
    each = replace(shared, image=shared.image.expand(-1, frames, -1, -1))
    assert relative_difference(run(NETWORK, x, shared), run(NETWORK, x, each)) < BATCHED


def test_each_frame_sees_its_own_tokens() -> None:
    """Without any temporal layer, another frame's tokens change that frame only."""
    network = tiny_unet()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, TemporalTransformer):
                for parameter in module.proj_out.parameters():
                    parameter.zero_()
            if isinstance(module, TemporalConvBlock):
                for parameter in module.conv4[-1].parameters():
                    parameter.zero_()
    x, ctx = normal(1, 8, 3, 4, 4), context(1, 3)
    changed = ctx.image.clone()
    changed[:, 1] += 1
    before, after = run(network, x, ctx), run(network, x, replace(ctx, image=changed))
    difference = (after - before).abs().amax(dim=(0, 1, 3, 4))
    assert difference[1] > 1e-3
    assert max(difference[0], difference[2]) < 1e-5


@pytest.mark.parametrize("image_frames", [1, 3])
def test_text_and_image_are_attended_to_apart_and_added(image_frames: int) -> None:
    layer = filled(CrossAttention(8, 2, 12, True, PLAIN))
    x, ctx = normal(3, 5, 8), context(1, image_frames)
    made = layer(x, ctx)

    def attended(frame: int, tokens: Tensor, key: torch.nn.Module, value: torch.nn.Module) -> Tensor:
        return fused_attention(layer.to_q(x[frame : frame + 1]), key(tokens), value(tokens), 2)

    for frame in range(3):
        image = ctx.image[:, frame if image_frames == 3 else 0]
        text = attended(frame, ctx.text, layer.to_k, layer.to_v)
        seen = attended(frame, image, layer.to_k_ip, layer.to_v_ip)
        expected = layer.to_out[0](text + (1 + torch.tanh(layer.alpha)) * seen)
        assert relative_difference(made[frame : frame + 1], expected) < BATCHED


def test_more_shared_tokens_than_frames_are_seen_by_all() -> None:
    x = normal(1, 8, 2, 4, 4)
    ctx = context(1, 1, image_tokens=12)
    out = run(NETWORK, x, ctx)
    for token in (0, 11):
        changed = ctx.image.clone()
        changed[:, :, token] += 3
        difference = (run(NETWORK, x, replace(ctx, image=changed)) - out).abs().amax(dim=(0, 1, 3, 4))
        assert difference.min() > 1e-5


@pytest.mark.parametrize("image_frames", [1, 3])
def test_a_batch_equals_its_clips_one_by_one(image_frames: int) -> None:
    x, ctx = normal(2, 8, 3, 4, 4), context(2, image_frames)
    timesteps, fs = torch.tensor([10, 900]), torch.tensor([3, 24])
    with torch.inference_mode():
        both = NETWORK(x, timesteps, ctx, fs)
        for clip in range(2):
            part = slice(clip, clip + 1)
            alone = NETWORK(x[part], timesteps[part], Context(ctx.text[part], ctx.image[part]), fs[part])
            assert relative_difference(both[part], alone) < BATCHED


def test_every_input_shows_in_the_output() -> None:
    x, ctx = normal(1, 8, 2, 4, 4), context(1, 2)
    out = run(NETWORK, x, ctx)
    picture = x.clone()
    picture[:, 4:] += 1
    changed = {
        "latents": run(NETWORK, torch.cat([x[:, :4] + 1, x[:, 4:]], dim=1), ctx),
        "picture": run(NETWORK, picture, ctx),
        "timestep": run(NETWORK, x, ctx, timestep=501),
        "fs": run(NETWORK, x, ctx, fs=9),
        "text": run(NETWORK, x, replace(ctx, text=ctx.text + 0.3 * normal(1, 77, 12, seed=9))),
        "image": run(NETWORK, x, replace(ctx, image=ctx.image + 0.3 * normal(1, 2, 3, 12, seed=9))),
    }
    assert {name: relative_difference(value, out) > 1e-4 for name, value in changed.items()} == dict.fromkeys(
        changed, True
    )


def test_frames_know_of_each_other() -> None:
    x, ctx = normal(1, 8, 5, 4, 4), context(1, 1)
    changed = x.clone()
    changed[:, :, 4] += 1
    difference = (run(NETWORK, changed, ctx) - run(NETWORK, x, ctx)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[0] > 1e-4


def test_inputs_are_left_as_they_were() -> None:
    x, ctx = normal(1, 8, 2, 4, 4), context(1, 2)
    before = [tensor.clone() for tensor in (x, ctx.text, ctx.image)]
    run(NETWORK, x, ctx)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, ctx.text, ctx.image), strict=True))


def test_half_precision_stays_half_precision() -> None:
    network = tiny_unet().to(torch.bfloat16)
    x, ctx = normal(1, 8, 2, 4, 4), context(1, 2)
    low = Context(ctx.text.bfloat16(), ctx.image.bfloat16())
    out = run(network, x.bfloat16(), low)
    assert out.dtype == torch.bfloat16
    assert relative_difference(out.float(), run(NETWORK, x, ctx)) < 0.1


def test_gradients_reach_every_parameter() -> None:
    """Nothing in the forward pass that works in place may stand in the way of training."""
    network = tiny_unet(replace(TINY_UNET, learned_image_scale=True)).requires_grad_(True)
    out = network(normal(1, 8, 2, 4, 4), torch.tensor([5]), context(1, 2), torch.tensor([8]))
    out.square().mean().backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_a_learned_image_scale_of_zero_is_no_scale() -> None:
    scaled = tiny_unet(replace(TINY_UNET, learned_image_scale=True))
    alphas = {name: value for name, value in scaled.named_parameters() if name.endswith("attn2.alpha")}
    spatial = [module for module in scaled.modules() if isinstance(module, SpatialTransformer)]
    assert len(alphas) == len(spatial) > 0
    x, ctx = normal(1, 8, 2, 4, 4), context(1, 2)
    plain = tiny_unet()
    plain.load_state_dict({n: p for n, p in scaled.state_dict().items() if n not in alphas})
    assert relative_difference(run(scaled, x, ctx), run(plain, x, ctx)) > 1e-3
    with torch.no_grad():
        for alpha in alphas.values():
            alpha.zero_()
    assert torch.equal(run(scaled, x, ctx), run(plain, x, ctx))


def test_the_learned_scale_weighs_the_image_by_one_plus_its_tanh() -> None:
    scaled = tiny_unet(replace(TINY_UNET, learned_image_scale=True))
    plain = tiny_unet()
    weights = {n: p.clone() for n, p in scaled.state_dict().items() if not n.endswith("alpha")}
    for name, alpha in scaled.named_parameters():
        if name.endswith("alpha"):
            weights[name.replace("alpha", "to_v_ip.weight")] *= 1 + torch.tanh(alpha)
    plain.load_state_dict(weights)
    x, ctx = normal(1, 8, 2, 4, 4), context(1, 2)
    assert relative_difference(run(scaled, x, ctx), run(plain, x, ctx)) < BATCHED


def test_the_first_transformer_has_eight_heads_and_the_others_heads_of_one_width() -> None:
    heads = {
        name: module.heads
        for name, module in NETWORK.named_modules()
        if name.endswith(("attn1", "attn2")) and hasattr(module, "heads")
    }
    for name, count in heads.items():
        if name.startswith("init_attn"):
            assert count == 8
        else:
            level = (
                1
                if name.startswith(("input_blocks.3", "middle", "output_blocks.0", "output_blocks.1"))
                else 0
            )
            width = TINY_UNET.model_channels * TINY_UNET.channel_mult[level]
            assert count == width // TINY_UNET.num_head_channels, name


LAYOUT = {"R": ResBlock, "S": SpatialTransformer, "T": TemporalTransformer, "D": Downsample, "U": Upsample}


def layout(stages: torch.nn.Module) -> list[str]:
    letters = {kind: letter for letter, kind in LAYOUT.items()}
    return [
        "".join(letters.get(type(layer), "C") for layer in stage.children()) for stage in stages.children()
    ]


def test_the_released_networks_stages_stand_where_the_checkpoints_count_them() -> None:
    with torch.device("meta"):
        network = VideoUNet(UNetConfig())
    assert layout(network.input_blocks) == ["C", *["RST", "RST", "D"] * 3, "R", "R"]
    assert layout(network.output_blocks) == ["R", "R", "RU", *["RST", "RST", "RSTU"] * 2, *["RST"] * 3]
    assert "".join(layout(torch.nn.ModuleList([network.middle_block]))) == "RSTR"
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_438_854_980


@pytest.mark.parametrize("dim", [7, 8])
def test_sinusoids_are_cosines_first(dim: int) -> None:
    values = torch.tensor([0.0, 3.0, 999.0])
    made = sinusoidal_embedding(values, dim)
    half = dim // 2
    for row, value in enumerate(values.double()):
        for i in range(half):
            angle = value * 10000.0 ** (-i / half)
            assert made[row, i].item() == pytest.approx(angle.cos().item(), abs=1e-4)
            assert made[row, half + i].item() == pytest.approx(angle.sin().item(), abs=1e-4)
    assert made.shape == (3, dim)
    assert dim % 2 == 0 or torch.equal(made[:, -1], torch.zeros(3))


def test_temporal_convolution_statistics_include_time() -> None:
    """A clip whose frames differ in brightness only would be flattened by a norm of each frame."""
    block = tiny_unet().get_submodule("middle_block.0.temopral_conv")
    x = torch.ones(4, 32, 2, 2) * torch.arange(4.0)[:, None, None, None]
    with torch.inference_mode():
        change = block(x, 4) - x
    assert relative_difference(change[0], change[3]) > 0.1


@pytest.mark.parametrize(("groups", "shape"), [(3, (1, 3, 2, 12)), (1, (1, 1, 2, 12)), (5, (1, 1, 10, 12))])
def test_image_tokens_are_grouped_by_frame_or_for_all_frames(groups: int, shape: tuple[int, ...]) -> None:
    given = Context(normal(1, 77, 12), normal(1, groups, 2, 12))
    grouped = given.grouped(3)
    assert grouped.image.shape == shape and grouped.text is given.text
    assert torch.equal(grouped.image.flatten(), given.image.flatten())
