"""Training an existing model on a folder of clips: what is trained, what is kept, what a LoRA changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_clips import write_rows

from dynamicrafter.api import load
from dynamicrafter.diffusion.schedule import make_schedule
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import SMALL, V256
from dynamicrafter.pipeline import Model
from dynamicrafter.training.config import (
    FinetuneConfig,
    TinyConfig,
    TinyPersonConfig,
    config_from,
    load_config,
    shipped_configs,
)
from dynamicrafter.training.data import read_list
from dynamicrafter.training.encoding import encode_items
from dynamicrafter.training.finetune import (
    choose_trained,
    draw_timesteps,
    finetune,
    is_temporal,
    recompute_activations,
)
from dynamicrafter.training.lora import Adapters, save_adapters
from dynamicrafter.training.losses import DenoisingLoss
from dynamicrafter.training.state import load_state
from dynamicrafter.training.trainer import TrainerConfig
from dynamicrafter.weights.load import load_components
from dynamicrafter.weights.lora import merge_adapters, read_adapters

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

QUICK = TrainerConfig(steps=2, learning_rate=1e-3, log_every=1, save_every=1)


def config(folder: Path, **choices) -> FinetuneConfig:
    values = {"frames": 4, "strides": (1, 1), "batch": 2, "trainer": QUICK, "rank": 4, **choices}
    return FinetuneConfig(model="small", data=str(folder), **values)


def test_a_lora_is_trained_stored_and_merged(
    small_weights: Path, clip_folder: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="adapters are made by peft")
    model = load(small_weights, device="cpu")
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    path = finetune(model, config(clip_folder(), target="lora"), tmp_path / "run")
    stored = load_file(path)
    assert stored
    layer = "input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip"
    assert stored[f"diffusion_model.{layer}.lora_A.weight"].shape == (4, 64)
    assert stored[f"diffusion_model.{layer}.lora_B.weight"].abs().sum() > 0

    fresh = load(small_weights, device="cpu")
    merge_adapters(fresh.unet, read_adapters(path), 0.5, "it")
    after = fresh.unet.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.rsplit(".", 2)[-2] for name in changed} <= {
        "to_q",
        "to_k",
        "to_v",
        "to_k_ip",
        "to_v_ip",
        "0",
    }
    a, b = (stored[f"diffusion_model.{layer}.lora_{side}.weight"] for side in "AB")
    assert torch.allclose(after[f"{layer}.weight"], before[f"{layer}.weight"] + 0.5 * b @ a, atol=1e-6)


def test_a_fully_trained_model_loads_like_any_other(
    small_weights: Path, clip_folder: Callable, tmp_path: Path
) -> None:
    model = load(small_weights, device="cpu")
    path = finetune(model, config(clip_folder(), target="all", mode="interpolate"), tmp_path / "run")
    again = load_components(path, device=torch.device("cpu"), dtype=torch.float32)
    assert again.variant == SMALL
    before, after = load_file(small_weights), load_file(path)
    assert set(before) == set(after)
    changed = {name for name in after if not torch.equal(before[name].float(), after[name])}
    assert changed
    assert all(name.startswith(("model.diffusion_model.", "image_proj_model.")) for name in changed)


@pytest.mark.parametrize(
    ("target", "trained", "frozen"),
    [
        ("all", "input_blocks.1.2.proj_in.weight", None),
        ("spatial", "input_blocks.1.1.proj_in.weight", "input_blocks.1.2.proj_in.weight"),
        ("spatial", "input_blocks.0.0.weight", "input_blocks.1.0.temopral_conv.conv1.2.weight"),
        ("temporal", "init_attn.0.proj_in.weight", "input_blocks.0.0.weight"),
        ("temporal", "middle_block.2.norm.weight", "middle_block.1.norm.weight"),
        (
            "image_proj",
            "middle_block.1.transformer_blocks.0.attn2.to_k_ip.weight",
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        ),
    ],
)
def test_targets(small_model: Model, target, trained: str, frozen: str | None) -> None:
    loss = DenoisingLoss(small_model.unet, small_model.resampler, make_schedule(SMALL.diffusion))
    choose_trained(loss, target, Adapters(4))
    weights = dict(loss.unet.named_parameters())
    assert weights[trained].requires_grad
    assert frozen is None or not weights[frozen].requires_grad
    assert loss.resampler.latents.requires_grad == (target != "temporal")


def test_every_weight_is_spatial_or_temporal() -> None:
    with torch.device("meta"):
        names = [name for name, _ in VideoUNet(V256.unet).named_parameters()]
    temporal = [name for name in names if is_temporal(name)]
    assert sum(name.endswith("proj_in.weight") for name in temporal) == 17
    assert not [name for name in temporal if "to_k_ip" in name]
    assert len(temporal) < len(names)


def test_recomputed_activations_give_the_same_gradients(small_weights: Path) -> None:
    gradients = []
    for recompute in (False, True):
        model = load(small_weights, device="cpu")
        loss = DenoisingLoss(model.unet, model.resampler, make_schedule(SMALL.diffusion))
        choose_trained(loss, "all", Adapters(4))
        if recompute:
            recompute_activations(loss.unet)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(1, 4, 4, 8, 8, generator=generator)
        loss(
            latents=latents,
            noise=torch.randn(latents.shape, generator=generator),
            t=torch.tensor([500]),
            concat=latents,
            text=torch.randn(1, 77, 64, generator=generator),
            vision=torch.randn(1, 65, 64, generator=generator),
            fs=torch.tensor([8]),
        ).backward()
        gradients.append([p.grad for p in loss.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)


def test_encoded_clips_are_kept_until_something_changes(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder()
    cache = tmp_path / "cache"
    wanted, rows = config(folder, views=2, cache=str(cache)), read_list(folder)
    first = encode_items(small_model, rows, wanted)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.pt")}
    # Two views of three clips, and three captions.
    assert len(set(first)) == 6
    assert len(written) == 9
    assert encode_items(small_model, rows, wanted) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.pt")} == written

    other = encode_items(small_model, [replace(rows[0], caption="something else"), *rows[1:]], wanted)
    assert len(set(other) - set(first)) == 2
    # Only the caption is encoded again.
    assert {item.clip for item in other} == {item.clip for item in first}
    assert len(list(cache.rglob("*.pt"))) == 10
    (folder / "1.mp4").write_bytes((folder / "2.mp4").read_bytes())
    assert len(set(encode_items(small_model, rows, wanted)) - set(first)) == 2
    assert not set(encode_items(small_model, rows, replace(wanted, frames=5))) & set(first)


def test_items_hold_what_the_network_is_given(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder()
    animate = config(folder, random_frame=False)
    item = load_state(encode_items(small_model, read_list(folder), animate)[0].clip)
    assert item["latents"].shape == item["concat"].shape == (4, 4, 8, 8)
    assert all(torch.equal(item["concat"][:, frame], item["latents"][:, 0]) for frame in range(4))
    assert item["fs"] == 8
    between = replace(animate, mode="interpolate")
    item = load_state(encode_items(small_model, read_list(folder), between)[0].clip)
    assert torch.equal(item["concat"][:, -1], item["latents"][:, -1])
    assert not item["concat"][:, 1:-1].any()


def test_condition_frames_are_random(small_model: Model, clip_folder: Callable, tmp_path: Path) -> None:
    folder = clip_folder()
    items = encode_items(small_model, read_list(folder), config(folder, views=4))
    seen = set()
    for item in (load_state(item.clip) for item in items):
        distance = (item["latents"] - item["concat"]).abs().sum((0, 2, 3))
        seen.add(int(distance.argmin()))
    assert len(seen) > 1


@pytest.mark.parametrize(("timesteps", "share"), [("uniform", 0.3), ("high", 0.75 + 0.25 * 0.3)])
def test_high_timesteps_are_mostly_from_the_noisiest_levels(timesteps, share: float) -> None:
    t = draw_timesteps(20_000, timesteps, torch.Generator().manual_seed(0))
    assert (int(t.min()), int(t.max())) == (0, 999)
    assert float((t >= 700).float().mean()) == pytest.approx(share, abs=0.02)
    # Even within both parts: half of each is below its middle.
    for low, high in ((0, 700), (700, 1000)):
        part = t[(t >= low) & (t < high)]
        assert float((part < (low + high) / 2).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_broken_clips_are_reported_and_left_out(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder()
    (folder / "1.mp4").write_bytes(b"broken")
    told: list[str] = []
    items = encode_items(small_model, read_list(folder), config(folder), told.append)
    assert len(items) == 2
    assert len(told) == 1
    assert "1.mp4 cannot be read" in told[0]


def test_no_usable_clip_is_an_error(small_model: Model, clip_folder: Callable, tmp_path: Path) -> None:
    folder = clip_folder(count=2)
    with pytest.raises(UsageError, match=r"none of the 2 clip\(s\) of the list can be used"):
        finetune(small_model, config(folder, frames=16), tmp_path / "run")
    write_rows(folder / "captions.csv", ["path", "caption"], [["gone.mp4", "x"]])
    with pytest.raises(UsageError, match=r"none of the 1 clip\(s\) of the list can be used"):
        finetune(small_model, config(folder), tmp_path / "run")


def test_captions_of_a_thousand_words_are_cut_like_prompts(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder(count=1)
    write_rows(folder / "captions.csv", ["path", "caption"], [["0.mp4", "a word " * 500]])
    (item,) = encode_items(small_model, read_list(folder), config(folder))
    assert load_state(item.text)["text"].shape == (77, 64)


def test_a_full_disk_while_encoding_is_told(
    small_model: Model, clip_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    folder = clip_folder()
    with pytest.raises(UsageError, match="could not be written .*No space left"):
        encode_items(small_model, read_list(folder), config(folder))
    assert not list((folder / "cache").rglob("*.*"))


def test_a_model_of_another_mode_is_refused(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    still = replace(small_model, variant=replace(SMALL, modes=("animate",)))
    with pytest.raises(UsageError, match="supports animate, not interpolate"):
        finetune(still, config(clip_folder(), mode="interpolate"), tmp_path / "run")


def test_a_lora_of_another_model_is_refused(small_model: Model, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in small_model.unet.state_dict().items()}
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    wrong = {f"{layer}.lora_A.weight": torch.ones(2, 64), f"{layer}.lora_B.weight": torch.ones(320, 2)}
    for weights, message in (
        (wrong, r"does not fit: middle_block.* is \(64, 64\), the change \(320, 64\)"),
        (
            {"diffusion_model.x.lora_A.weight": torch.ones(2, 2)},
            "changes x.weight, which this model does not have",
        ),
        ({"lora_te.weight": torch.ones(2)}, "contains no adapters"),
    ):
        with pytest.raises(CheckpointError, match=message):
            merge_adapters(small_model.unet, weights, 1.0, "it")
    assert all(torch.equal(value, before[name]) for name, value in small_model.unet.state_dict().items())
    (tmp_path / "lora.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read as a LoRA"):
        read_adapters(tmp_path / "lora.safetensors")


LINEAR = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
OTHER = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q"
"""64 to 64."""
CONVOLUTION = "diffusion_model.middle_block.0.in_layers.2"
"""64 to 64, 3x3."""
NAN, INFINITE = torch.tensor(float("nan")), torch.tensor(float("inf"))


def pair(layer: str, down: Tensor, up: Tensor, alpha: Tensor | None = None) -> dict[str, Tensor]:
    made = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    return made if alpha is None else {**made, f"{layer}.alpha": alpha}


def whole(**parts: Tensor) -> dict[str, Tensor]:
    """A usable pair and besides it ``parts``, named by their endings with two underscores for each dot."""
    more = {f"{LINEAR}.{name.replace('__', '.')}": value for name, value in parts.items()}
    return {**pair(LINEAR, torch.ones(2, 64), torch.ones(64, 2)), **more}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {f"{OTHER}.lora_A.weight": (2, 64)},
            rf"but {OTHER}.lora_A.weight belongs to no pair \(1 such tensors\)",
        ),
        (
            {f"{OTHER}.lora_B.weight": (64, 2), f"{OTHER}.alpha": ()},
            rf"{OTHER}.lora_B.weight belongs to no pair \(2 ",
        ),
        ({f"{OTHER}.alpha": ()}, rf"but {OTHER}.alpha belongs to no pair"),
        ({f"{LINEAR}.dora_scale": (64, 1)}, rf"but {LINEAR}.dora_scale belongs to no pair"),
        ({f"{LINEAR}.diff": (64, 64)}, rf"but {LINEAR}.diff belongs to no pair"),
        (
            {f"{OTHER}.lora_down.weight": (2, 64), f"{OTHER}.lora_up.weight": (64, 2)},
            rf"but {OTHER}.lora_down.weight belongs to no pair \(2 such tensors\); use a complete LoRA file",
        ),
    ],
)
def test_no_part_of_a_lora_is_left_out_in_silence(
    small_model: Model, more: dict[str, tuple[int, ...]], told: str
) -> None:
    before = small_model.unet.get_parameter(f"{LINEAR.removeprefix('diffusion_model.')}.weight").clone()
    weights = {**whole(), **{name: torch.ones(shape) for name, shape in more.items()}}
    with pytest.raises(CheckpointError, match=rf"^it must contain only pairs of lora_A.weight and .*{told}"):
        merge_adapters(small_model.unet, weights, 1.0, "it")
    after = small_model.unet.get_parameter(f"{LINEAR.removeprefix('diffusion_model.')}.weight")
    assert torch.equal(before, after)


def test_a_lora_of_one_half_is_told(small_model: Model) -> None:
    weights = {f"{LINEAR}.lora_A.weight": torch.ones(2, 64)}
    with pytest.raises(CheckpointError, match=rf"but {LINEAR}.lora_A.weight belongs to no pair \(1 such"):
        merge_adapters(small_model.unet, weights, 1.0, "it")


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (
            pair(LINEAR, torch.ones(0, 64), torch.ones(64, 0)),
            rf"{LINEAR}.lora_A.weight is \(0, 64\) and lora_B.weight \(64, 0\), .* the rank, at least 1, and",
        ),
        (
            pair(LINEAR, torch.ones(2, 64), torch.ones(64, 3)),
            rf"{LINEAR}.lora_A.weight is \(2, 64\) and lora_B.weight \(64, 3\), but the first dimension of A must be",
        ),
        (
            pair(LINEAR, torch.ones(4, 64), torch.ones(64, 2, 2)),
            r"lora_B.weight \(64, 2, 2\), but the first dimension of A must be the second of B",
        ),
        (
            pair(CONVOLUTION, torch.ones(2, 64, 3, 3), torch.ones(64, 2, 3, 3)),
            r"lora_B.weight \(64, 2, 3, 3\), but .* and further ones of B must be 1",
        ),
        (
            pair(LINEAR, torch.ones(64), torch.ones(64, 1)),
            rf"{LINEAR}.lora_A.weight must have two or more dimensions, but its shape is \(64,\)",
        ),
        (
            pair(LINEAR, torch.ones(1, 64), torch.ones(64)),
            rf"{LINEAR}.lora_B.weight must have two or more dimensions, but its shape is \(64,\)",
        ),
        (pair(LINEAR, torch.ones(()), torch.ones(64, 1)), r"lora_A.weight .* but its shape is \(\)"),
        (
            pair(LINEAR, torch.ones(2, 32), torch.ones(128, 2)),
            r"attn1.to_q.weight is \(64, 64\), the change \(128, 32\); it is for a different model",
        ),
        (
            pair("diffusion_model.out.0", torch.ones(2, 1), torch.ones(32, 2)),
            r"out.0.weight is \(32,\), the change \(32, 1\)",
        ),
        (
            pair(CONVOLUTION, torch.ones(2, 64, 9, 1), torch.ones(64, 2, 1, 1)),
            r"in_layers.2.weight is \(64, 64, 3, 3\), the change \(64, 64, 9, 1\)",
        ),
        (
            pair(LINEAR, torch.ones(2, 64, 3, 3), torch.ones(64, 2, 1, 1)),
            r"attn1.to_q.weight is \(64, 64\), the change \(64, 64, 3, 3\)",
        ),
        (whole(alpha=torch.ones(3)), rf"{LINEAR}.alpha must be one number, but its shape is \(3,\)"),
        (whole(alpha=torch.ones(0)), rf"{LINEAR}.alpha must be one number, but its shape is \(0,\)"),
        (whole(alpha=NAN), rf"{LINEAR}.alpha must contain finite real numbers"),
        (whole(alpha=INFINITE), rf"{LINEAR}.alpha must contain finite real numbers"),
        (
            whole(lora_A__weight=NAN.expand(2, 64)),
            rf"{LINEAR}.lora_A.weight must contain finite real numbers",
        ),
        (whole(lora_B__weight=INFINITE.expand(64, 2)), rf"{LINEAR}.lora_B.weight must contain finite real"),
        (whole(alpha=torch.tensor(1j)), rf"{LINEAR}.alpha must contain finite real numbers"),
        (
            whole(alpha=torch.tensor(3e38)),
            "values that float32 can represent, .* at strength 2.0 they are too large",
        ),
    ],
)
def test_a_pair_that_cannot_be_merged_is_told_before_anything_changes(
    small_model: Model, weights: dict[str, Tensor], told: str
) -> None:
    before = {name: value.clone() for name, value in small_model.unet.state_dict().items()}
    first = pair(OTHER, torch.ones(2, 64), torch.ones(64, 2))
    with pytest.raises(CheckpointError, match=rf"^my.safetensors .*{told}"):
        merge_adapters(small_model.unet, {**first, **weights}, 2.0, "my.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in small_model.unet.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "down", "up"),
    [
        (CONVOLUTION, (2, 64, 3, 3), (64, 2, 1, 1)),
        (CONVOLUTION, (2, 576), (64, 2)),
        (LINEAR, (2, 64, 1, 1), (64, 2, 1, 1)),
    ],
)
def test_pairs_of_convolutions_are_merged(
    small_model: Model, layer: str, down: tuple[int, ...], up: tuple[int, ...]
) -> None:
    weight = small_model.unet.get_parameter(f"{layer.removeprefix('diffusion_model.')}.weight")
    before = weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in (down, up))
    merge_adapters(small_model.unet, pair(layer, a, b), 0.5, "it")
    expected = before + 0.5 * (b.flatten(1) @ a.flatten(1)).reshape(before.shape)
    assert torch.allclose(weight, expected, atol=1e-5)


def test_a_folder_is_no_lora(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r" is a folder, not a LoRA; choose a .safetensors file in it$"):
        read_adapters(tmp_path)


def test_alpha_scales_and_zero_strength_changes_nothing(small_model: Model, tmp_path: Path) -> None:
    layer = "middle_block.1.transformer_blocks.0.attn1.to_q"
    weight = small_model.unet.get_parameter(f"{layer}.weight")
    before = weight.detach().clone()
    adapters = {
        f"diffusion_model.{layer}.lora_A.weight": torch.ones(2, 64),
        f"diffusion_model.{layer}.lora_B.weight": torch.ones(64, 2),
        f"diffusion_model.{layer}.alpha": torch.tensor(1.0),
    }
    save_adapters(adapters, tmp_path / "a.safetensors")
    merge_adapters(small_model.unet, read_adapters(tmp_path / "a.safetensors"), 0.0, "it")
    assert torch.equal(weight, before)
    merge_adapters(small_model.unet, adapters, 0.5, "it")
    assert torch.allclose(weight - before, torch.full_like(before, 2 * 0.5 / 2), atol=1e-6)


def test_shipped_configs_are_valid() -> None:
    assert {"tiny", "lora", "stage1_context", "stage2_adaptation", "stage3_detail"} <= set(shipped_configs())
    for name in shipped_configs():
        assert isinstance(load_config(name), FinetuneConfig | TinyConfig | TinyPersonConfig)


def test_a_config_file_is_read(tmp_path: Path) -> None:
    values = {"recipe": "finetune", "model": "m", "data": "d", "strides": [2, 3], "trainer": {"steps": 7}}
    (tmp_path / "mine.json").write_text(json.dumps(values), encoding="utf-8")
    made = load_config(str(tmp_path / "mine.json"))
    assert isinstance(made, FinetuneConfig)
    assert (made.strides, made.trainer.steps) == ((2, 3), 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "must have a recipe"),
        ({"recipe": "finetune"}, "must contain model, data"),
        (
            {"recipe": "finetune", "model": "m", "data": "d", "target": "half"},
            "target in it must be one of all, ",
        ),
        (
            {"recipe": "finetune", "model": "m", "data": "d", "mode": "loop"},
            "mode in it must be one of animate",
        ),
        (
            {"recipe": "finetune", "model": "m", "data": "d", "timesteps": "low"},
            "timesteps in it must be one of uniform, high",
        ),
        (
            {"recipe": "finetune", "model": "m", "data": "d", "lr": 1},
            "it has unknown settings: lr; remove them",
        ),
        (
            {"recipe": "finetune", "model": "m", "data": "d", "trainer": {"x": 1}},
            r"unknown settings: trainer\.x",
        ),
        ({"recipe": "tiny", "steps": 3}, "unknown settings: steps"),
    ],
)
def test_wrong_configs_are_named(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_from(values, "it")


def test_a_config_that_is_no_file_lists_the_shipped_ones() -> None:
    with pytest.raises(
        UsageError, match=r"there is no config 'nothing'; use a TOML or JSON file, or one of .*tiny"
    ):
        load_config("nothing")
