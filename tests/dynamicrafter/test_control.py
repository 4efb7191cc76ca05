"""ControlNets and sketches: what is read, what is added to which frame, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import TINY_UNET, context, filled, normal, tiny_unet
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from dynamicrafter import api
from dynamicrafter.cli import main
from dynamicrafter.cli.defaults import user_defaults
from dynamicrafter.control.hints import Control, ControlNet, Hints, controlled, is_controlled
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.media.video import read_frames, write_clip
from dynamicrafter.model.configs import UNetConfig
from dynamicrafter.model.controlnet import ControlNetwork
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.placement import Placement
from dynamicrafter.model.protocols import Context, Residuals
from dynamicrafter.model.variants import SMALL, TINY
from dynamicrafter.motion.windowed import over_windows, windows_of
from dynamicrafter.pipeline import KeyPictures, TorchModel, generate
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.weights.controlnet import check_controlnet, control_tensors, load_controlnet

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = tiny_unet()
SIZE = 4
"""Of latents; hints have 8 times as many pixels."""


def settings(**chosen: Any) -> Settings:
    return make_settings(SMALL, "animate", **{"steps": 4, "frames": 3, **chosen})


def network(channels: int = 3, seed: int = 5) -> ControlNetwork:
    return filled(ControlNetwork(TINY_UNET, channels), seed)


def hints(count: int, frames: tuple[int, ...] | None = None, channels: int = 3, seed: int = 7) -> Hints:
    images = torch.randint(
        0,
        256,
        (count, channels, 8 * SIZE, 8 * SIZE),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )
    return Hints(images, frames)


def control(count: int = 3, channels: int = 3, frames: tuple[int, ...] | None = None) -> Control:
    return Control(ControlNet(network(channels)), hints(count, frames, channels))


class Recorded(nn.Module):
    """A ControlNet with what it was called with."""

    def __init__(self, inner: ControlNetwork) -> None:
        super().__init__()
        self.inner, self.config, self.hint_channels = inner, inner.config, inner.hint_channels
        self.calls: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Residuals:
        self.calls.append(inputs)
        return self.inner(*inputs)


def evaluate(wrapped: Any, frames: int = 3, batch: int = 2, timestep: int = 500) -> Tensor:
    x = normal(batch, 8, frames, SIZE, SIZE)
    return wrapped(x, torch.full((batch,), timestep), context(batch, frames), torch.full((batch,), 8))


def test_the_sketch_encoder_is_a_controlnet_with_one_channel() -> None:
    """Numbers and shapes of the released file, from its published description."""
    tensors = control_tensors(UNetConfig(), 1)
    assert len(tensors) == 340
    assert sum(entry.numel for entry in tensors.values()) == 364_227_952
    assert Counter(name.partition(".")[0] for name in tensors) == {
        "time_embed": 4,
        "input_blocks": 248,
        "zero_convs": 24,
        "input_hint_block": 16,
        "middle_block": 46,
        "middle_block_out": 2,
    }
    shapes = {name: entry.shape for name, entry in tensors.items()}
    assert shapes["input_blocks.0.0.weight"] == (320, 4, 3, 3)
    widths = [320] * 4 + [640] * 3 + [1280] * 5
    assert [shapes[f"zero_convs.{k}.0.weight"] for k in range(12)] == [(c, c, 1, 1) for c in widths]
    assert shapes["middle_block_out.0.weight"] == (1280, 1280, 1, 1)
    hint = [1, 16, 16, 32, 32, 96, 96, 256, 320]
    assert [shapes[f"input_hint_block.{2 * k}.weight"] for k in range(8)] == [
        (b, a, 3, 3) for a, b in zip(hint, hint[1:], strict=False)
    ]


def test_skips_and_middle_have_the_shapes_of_the_denoising_network_s() -> None:
    """Otherwise they could not be added, at any depth."""
    for config in (TINY_UNET, replace(TINY_UNET, channel_mult=(1, 2, 2), num_res_blocks=2)):
        shown = filled(ControlNetwork(config))
        tokens = torch.zeros(1, 77, config.context_dim)
        hint = torch.zeros(2, 3, 64, 64)
        found = shown(normal(1, 4, 2, 8, 8), hint, torch.tensor([3]), tokens)
        unet = tiny_unet(config)
        out = unet(normal(1, 8, 2, 8, 8), torch.tensor([3]), context(1, 2), torch.tensor([8]), found)
        assert out.shape == (1, 4, 2, 8, 8)
        assert len(found.skips) == len(unet.input_blocks)


@pytest.mark.parametrize("channels", [1, 3])
def test_zeroed_output_convolutions_give_the_default_to_the_bit(channels: int) -> None:
    made = control(channels=channels)
    plain = evaluate(UNET)
    assert not torch.equal(evaluate(controlled(made, settings())(UNET)), plain)
    shown = made.net.network
    for conv in (*shown.zero_convs, shown.middle_block_out):
        for parameter in conv.parameters():
            parameter.zero_()
    assert torch.equal(evaluate(controlled(made, settings())(UNET)), plain)


def test_every_residual_reaches_the_output() -> None:
    plain = evaluate(UNET)
    found = control().net.network(
        normal(2, 4, 3, SIZE, SIZE), torch.zeros(3, 3, 32, 32), torch.tensor([3, 3]), torch.zeros(2, 77, 12)
    )

    def added(only: int | None) -> Tensor:
        skips = [skip if index == only else None for index, skip in enumerate(found.skips)]
        given = Residuals(found.middle if only is None else 0.0, skips)
        return evaluate(lambda *inputs: UNET(*inputs, given))

    outputs = [added(index) for index in (None, *range(len(found.skips)))]
    for index, output in enumerate(outputs):
        assert not torch.allclose(output, plain, atol=1e-4)
        assert not any(torch.allclose(output, other, atol=1e-4) for other in outputs[:index])


def test_the_residual_of_a_frame_depends_on_its_own_hint_alone() -> None:
    shown = network()
    x, t, tokens = normal(2, 4, 3, SIZE, SIZE), torch.tensor([500, 500]), normal(2, 77, 12)
    one, other = hints(3), hints(3)
    other.images[1] = 255 - other.images[1]
    first, second = (shown(x, each.of(range(3), x)[0], t, tokens) for each in (one, other))
    for before, after in zip((first.middle, *first.skips), (second.middle, *second.skips), strict=True):
        assert before is not None and after is not None
        changed = (before != after).flatten(1).any(1).tolist()
        assert changed == [False, True, False] * 2


def test_the_sketch_encoder_sees_all_tokens_and_others_the_text() -> None:
    """Of the branch that is evaluated; the noisy latents come first in the network's input."""
    for channels, count in ((1, 77 + 3 * 3), (3, 77)):
        seen = Recorded(network(channels))
        given = Control(ControlNet(seen), hints(3, channels=channels))  # pyright: ignore[reportArgumentType]
        evaluate(controlled(given, settings())(UNET))
        ((x, hint, timesteps, tokens),) = seen.calls
        assert torch.equal(x, normal(2, 8, 3, SIZE, SIZE)[:, :4])
        assert torch.equal(hint, given.hints.images / 255)
        assert timesteps.tolist() == [500, 500]
        both = context(2, 3)
        assert torch.equal(tokens, torch.cat([both.text, both.image.flatten(1, 2)], 1)[:, :count])


def test_windows_take_the_hints_of_their_frames() -> None:
    chosen = make_settings(SMALL, "animate", frames=24, length_method="windows")
    seen = Recorded(network())
    given = Control(ControlNet(seen), hints(24))  # pyright: ignore[reportArgumentType]
    wrapped = over_windows(chosen)(controlled(given, chosen)(UNET))
    x, tokens = normal(1, 8, 24, SIZE, SIZE), context(1, 16)
    wrapped(x, torch.tensor([500]), tokens, torch.tensor([8]))
    windows = windows_of(chosen, 500)
    assert len(seen.calls) == len(windows) > 1
    for (shown, hint, *_), window in zip(seen.calls, windows, strict=True):
        assert torch.equal(shown, x[:, :4, list(window.frames)])
        assert torch.equal(hint, given.hints.images[list(window.frames)] / 255)


def test_frames_without_a_hint_are_shown_a_blank_sheet_or_left_alone() -> None:
    given = control(count=1, channels=1, frames=(1,))
    shown, here = given.hints.of(range(3), torch.zeros(1))
    assert here == [False, True, False]
    assert shown[0].eq(0).all() and shown[2].eq(0).all() and torch.equal(shown[1:2], given.hints.images / 255)
    added: list[Residuals] = []

    class Spy(type(UNET)):
        def forward(self, *inputs: Any) -> Tensor:
            added.append(inputs[-1])
            return inputs[0][:, :4]

    spy = Spy(TINY_UNET)
    for gaps in ("blank", "none"):
        evaluate(controlled(given, settings(control_gaps=gaps))(spy), batch=1)
    blank, none = ([bool(frame.any()) for frame in each.skips[0]] for each in added)  # type: ignore
    assert blank == [True, True, True] and none == [False, True, False]
    assert torch.equal(added[0].skips[0][1], added[1].skips[0][1])  # type: ignore
    # Windows without any hint take no evaluation of the ControlNet.
    far = replace(given, hints=replace(given.hints, frames=(9,)))
    evaluate(controlled(far, settings(control_gaps="none"))(spy), batch=1)
    assert added[-1] is None


def test_scale_start_and_end() -> None:
    made, plain = control(), evaluate(UNET)

    def out(timestep: int = 500, **chosen: Any) -> Tensor:
        return evaluate(controlled(made, settings(**chosen))(UNET), timestep=timestep)

    assert torch.equal(out(control_scale=0), plain)
    assert not torch.allclose(out(control_scale=0.5), out(), atol=1e-4)
    late = settings(control_start=0.25, control_end=0.75)
    assert [is_controlled(late, timestep) for timestep in (999, 750, 749, 250, 249, 0)] == [
        *(False, False, True),
        *(True, False, False),
    ]
    assert all(is_controlled(settings(), timestep) for timestep in (999, 0))
    assert torch.equal(out(control_end=0.4), plain)
    with pytest.raises(UsageError, match="control_start must be less than control_end, but 0.5 and 0.5 were"):
        settings(control_start=0.5, control_end=0.5)


# Files


def save(path: Path, config: UNetConfig = TINY_UNET, channels: int = 3, prefix: str = "") -> Path:
    tensors = filled(ControlNetwork(config, channels), seed=5).state_dict()
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path


def test_files_are_read_with_and_without_the_prefix_and_beside_the_model(tmp_path: Path) -> None:
    bare = save(tmp_path / "bare.safetensors", channels=1)
    assert check_controlnet(bare, TINY_UNET) == 1
    whole = tmp_path / "whole.ckpt"
    tensors = {f"control_model.{name}": t for name, t in network().state_dict().items()}
    torch.save({"state_dict": {**tensors, "model.diffusion_model.out.0.weight": torch.zeros(2)}}, whole)
    for path, channels in ((bare, 1), (whole, 3)):
        loaded = load_controlnet(path, TINY_UNET)
        expected = network(channels).state_dict()
        assert loaded.hint_channels == channels
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("zero_convs.1.0.bias"),
            r"exactly a ControlNet of this model's sizes: 1 tensors are missing \(zero_convs.1.0.bias\); use",
        ),
        (lambda t: t.update(more=torch.zeros(1)), r"1 are unexpected \(more\); use one for Stable"),
        (
            lambda t: t.update({"time_embed.0.bias": torch.zeros(3)}),
            r"1 do not fit \(time_embed.0.bias .*; use one for",
        ),
        (
            lambda t: t.update({"input_hint_block.0.weight": torch.zeros(16, 4, 3, 3)}),
            "whose hints have 4 channels; use one for RGB images, or",
        ),
        (
            lambda t: t.update({"zero_convs.1.0.bias": torch.full((16,), torch.nan)}),
            "NaN or infinite values; download the file again",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    tensors = dict(network().state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_controlnet(tmp_path / "net.safetensors", TINY_UNET)


def test_other_families_and_other_networks_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    stable = replace(TINY_UNET, context_dim=1024)
    for width, name in ((768, "Stable Diffusion 1.5"), (2048, "Stable Diffusion XL"), (6, "another model")):
        save(path, replace(TINY_UNET, context_dim=width))
        message = (
            f"is a ControlNet for {name}, whose tokens have {width} values, but those of this model have 1024; use one "
            f"for Stable Diffusion 2.1"
        )
        with pytest.raises(CheckpointError, match=message):
            check_controlnet(path, stable)
    for tensors, message in (
        (
            {"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 3, 3, 3)},
            "is a ControlNet with diffusers' tensor names; use one with those of the original",
        ),
        (
            {"encoder.conv_in.weight": torch.zeros(2, 3, 3, 3)},
            r"must be a ControlNet, but it is only an autoencoder \(VAE\).*; use one for Stable Diffusion 2.1, or Toon",
        ),
    ):
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=message):
            check_controlnet(path, stable)


# Whole clips


@pytest.fixture(scope="module")
def tiny() -> TorchModel:
    return api.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def tiny_nets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """ControlNets of the sizes of tiny, by the channels of their hints."""
    folder = tmp_path_factory.mktemp("nets")
    return {n: save(folder / f"net{n}.safetensors", TINY.unet, n) for n in (1, 3)}


PICTURE = torch.zeros(64, 64, 3, dtype=torch.uint8)


def clip(tiny: TorchModel, **more: Any) -> Tensor:
    return api.animate(tiny, PICTURE, **{"steps": 2, "frames": 3, "cfg": 1.5, **more}).frames


def test_clips_follow_hints_in_every_branch_and_memory_mode(
    tiny: TorchModel, tiny_nets: dict[int, Path]
) -> None:
    net = api.load_control(tiny_nets[3], tiny)
    frames = torch.stack([PICTURE + 40 * k for k in range(4)])
    made = clip(tiny, control=net, hints=frames)
    assert torch.equal(made, clip(tiny, control=net, hints={k: frames[k] for k in range(3)}))
    plain = clip(tiny)
    assert not torch.equal(made, plain)
    assert torch.equal(clip(tiny, control=net, hints=frames, control_scale=0), plain)
    # Networks that are on the device only while they work give the same.
    placed = ControlNet(net.network, Placement([net.network], torch.device("cpu"), streamed=True))
    assert torch.equal(clip(tiny, control=placed, hints=frames), made)
    # Weakened and filtered branches too.
    more = {"stg_scale": 1.0, "alg_ratio": 0.5, "control": net, "hints": frames[0]}
    assert not torch.equal(clip(tiny, **more), clip(tiny, **{**more, "control_scale": 0}))


def test_sketches_are_lines_of_one_on_zero(tiny: TorchModel) -> None:
    """Drawings are black on white; bars beside them are paper."""
    paper = torch.full((64, 128, 3), 255, dtype=torch.uint8)
    paper[:, 64:66] = 0
    found = api.read_hints({2: paper}, settings(fit="pad", size=(64, 64)), 1)
    assert found.frames == (2,) and found.images.shape == (1, 1, 64, 64)
    assert found.images[..., 0].eq(0).all() and found.images[0, 0, 32, 32] > 100
    colour = api.read_hints(paper, settings(size=(64, 64)), 3)
    assert colour.frames is None and colour.images.shape == (1, 3, 64, 64)
    assert colour.images[0, :, :, 0].eq(255).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            torch.stack([PICTURE] * 2),
            "hints must be 1 for all frames or one for each of the 3 frames, but 2 were",
        ),
        (
            {0: PICTURE, 3: PICTURE},
            "the frames of hints must be from 0 to 2, but 3 was given; use a longer clip, or",
        ),
        ({}, "there are no hints; pass at least one, or no ControlNet"),
    ],
)
def test_hints_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        api.read_hints(given, settings(), 3)


def test_every_hint_needs_a_frame_of_its_own() -> None:
    for frames in ((0, 0), (0,)):
        with pytest.raises(
            UsageError, match="each hint needs a frame of its own, but 2 hints were given for the"
        ):
            hints(2, frames).check(3)


def test_what_cannot_be_controlled_is_said(tiny: TorchModel, tiny_nets: dict[int, Path]) -> None:
    net = api.load_control(tiny_nets[3], tiny)
    with pytest.raises(
        UsageError, match="a ControlNet needs hints, but none were given; pass a clip of them, or"
    ):
        clip(tiny, control=net)
    with pytest.raises(
        UsageError, match="hints are for a ControlNet, but none was given; pass one, or omit the"
    ):
        clip(tiny, hints=PICTURE)
    for more in ({"frames": 20, "length_method": "continue"}, {"length_method": "pick"}):
        with pytest.raises(
            UsageError, match="is for clips that are sampled as a whole; omit it, or use length_met"
        ):
            clip(tiny, control=net, hints=PICTURE, **more)

    def elsewhere(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        return x[:, :4]

    with pytest.raises(
        UsageError, match="a ControlNet adds to features inside the network, which must be a single one in Py"
    ):
        controlled(control(), settings())(elsewhere)
    other = replace(tiny, unet=elsewhere)  # pyright: ignore[reportArgumentType]
    chosen = make_settings(TINY, "animate", steps=1, frames=2)
    with pytest.raises(UsageError, match="must be a single one in PyTorch; omit it, or use one model"):
        generate(other, KeyPictures(torch.zeros(1, 3, 64, 64)), [chosen], control=Control(net, hints(1)))


# The command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with an image, two sketches and a clip of hints."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray((PICTURE + 60 * k).numpy()).save(name)
    write_clip(torch.stack([PICTURE + 50 * k for k in range(3)]), "hints.gif", 8, {})
    yield tmp_path


def test_a_controlled_clip_is_made_again(
    folder: Path, tiny: TorchModel, tiny_nets: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sketch = folder / "sketch.safetensors"
    sketch.write_bytes(tiny_nets[1].read_bytes())
    command = ["animate", "a.png", "--steps", "2", "--frames", "3", "--quiet", "-o", "clip/"]
    chosen = ["--control", str(sketch), "--hint", "b.png@0", "--hint", "c.png@2", "--control-gaps", "none"]
    assert main([*command, *chosen, "--seed", "3"]) == 0, capsys.readouterr().err
    made = read_frames("clip")
    net = api.load_control(sketch, tiny)
    expected = api.animate(
        tiny,
        "a.png",
        control=net,
        hints={0: "b.png", 2: "c.png"},
        control_gaps="none",
        seed=3,
        steps=2,
        frames=3,
    )
    assert torch.equal(made, expected.frames)
    assert main(["again", "clip", "-o", "again/", "--quiet"]) == 0, capsys.readouterr().err
    assert torch.equal(read_frames("again"), made)
    Path("c.png").write_bytes(Path("b.png").read_bytes())
    assert main(["again", "clip", "-o", "more/"]) != 0
    found = capsys.readouterr().err
    assert re.search(
        r"c.png is not the clip's hint \(its contents differ\); put the hint next to the clip", found
    )
    save(sketch, TINY.unet, 3)
    assert main(["again", "clip", "-o", "more/"]) != 0
    found = capsys.readouterr().err
    assert re.search(
        r"sketch.safetensors is not the clip's ControlNet \(its contents differ\); put the", found
    )


def test_clips_of_hints_serve_several_seeds(
    folder: Path, tiny_nets: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["animate", "a.png", "--steps", "1", "--frames", "3", "--quiet", "--seed", "1,2", "--batch", "2"]
    given = ["--control", str(tiny_nets[3]), "--hint", "hints.gif", "--control-scale", "2"]
    assert main([*words, *given, "-o", "one/"]) == 0, capsys.readouterr().err
    assert main([*words, "-o", "off/"]) == 0
    assert not torch.equal(read_frames("one-1"), read_frames("off-1"))
    assert not torch.equal(read_frames("one-1"), read_frames("one-2"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hint", "b.png"], "hints are for a ControlNet, but none was given; pass one, or omit the hints"),
        (["--control", "NET"], "a ControlNet needs hints, but none were given"),
        (
            ["--control", "NET", "--hint", "b.png", "--hint", "c.png@1"],
            "but 2 were given for 1 frames; name the",
        ),
        (
            ["--control", "NET", "--hint", "b.png@1", "--hint", "c.png@1"],
            "but 2 were given for 1 frames; name",
        ),
        (["--control", "NET", "--hint", "b.png@3"], "must be from 0 to 2, but 3 was given"),
        (["--control", "NET", "--hint", "none.png"], "none.png"),
        (["--control", "NET", "--hint", "."], r"\. is a folder; pass a clip as one file"),
        (["--control", "a.png", "--hint", "b.png"], "a.png"),
        (["--control", "NET", "--hint", "hints.gif", "-o", "hints.gif"], r"hints.gif is the image itself"),
        (
            ["--control", "NET", "--hint", "b.png", "--length-method", "pick"],
            "a ControlNet is for clips that are sampled as a whole",
        ),
    ],
)
def test_the_command_says_what_is_wrong_before_it_loads_the_model(
    folder: Path,
    tiny_nets: dict[int, Path],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    given = [str(tiny_nets[3]) if word == "NET" else word for word in words]
    assert main(["animate", "a.png", "--frames", "3", "--dry-run", *given]) != 0
    assert re.search(message, capsys.readouterr().err)


def test_hints_belong_to_one_run_and_scales_may_be_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CONTROL", "net.safetensors"), ("HINT", "a.png"), ("CONTROL_SCALE", "0.6")):
        monkeypatch.setenv(f"DYNAMICRAFTER_{name}", value)
    found = user_defaults()
    assert found["control_scale"].value == 0.6 and not found.keys() & {"control", "hint"}


def test_the_recorded_layers_come_from_the_operations_handed_in() -> None:
    """So that a host's or a quantised layer can stand for each."""
    made: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            def build(*arguments: Any, **named: Any) -> nn.Module:
                made.append(name)
                return getattr(nn, name)(*arguments, **named)

            return build

    built = ControlNetwork(TINY_UNET, 3, Operations(layers=Counting()))  # pyright: ignore
    weighted = [m for m in built.modules() if any(True for _ in m.parameters(recurse=False))]
    assert Counter(made) == Counter(type(module).__name__ for module in weighted)
