"""A LoRA in training: its layers, alpha, dropout, the file of every save, and the frozen weights below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamicrafter.api import load
from dynamicrafter.diffusion.schedule import make_schedule
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.model.configs import Quantised
from dynamicrafter.model.quantised import STORED
from dynamicrafter.model.variants import SMALL
from dynamicrafter.pipeline import Model
from dynamicrafter.training.config import FinetuneConfig, SampleConfig
from dynamicrafter.training.data import read_list
from dynamicrafter.training.encoding import encode_items
from dynamicrafter.training.finetune import choose_trained, finetune, item_draw
from dynamicrafter.training.lora import (
    USUAL,
    Adapters,
    adapted_layers,
    forget_steps,
    keep_compact,
    quantise_frozen,
    step_file,
)
from dynamicrafter.training.losses import DenoisingLoss
from dynamicrafter.training.state import load_state
from dynamicrafter.training.trainer import STATE, TrainerConfig
from dynamicrafter.weights.lora import merge_adapters, read_adapters

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("peft", reason="adapters are made by peft")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

QUICK = TrainerConfig(steps=2, learning_rate=1e-3, log_every=1, save_every=1)
ALL = (*USUAL, "feed_forward", "convolutions")


def config(folder: Path, **choices) -> FinetuneConfig:
    values = {"frames": 4, "strides": (1, 1), "rank": 4, "checkpointing": False, "trainer": QUICK, **choices}
    return FinetuneConfig("small", str(folder), **values)


def loss_of(model: Model, wanted: FinetuneConfig) -> float:
    """The loss of a batch of clips."""
    batch = item_draw(model, encode_items(model, read_list(Path(wanted.data)), wanted), wanted)
    with torch.no_grad():
        loss = DenoisingLoss(model.unet, model.resampler, make_schedule(SMALL.diffusion))
        return float(loss(**batch(torch.Generator().manual_seed(0))))


@pytest.mark.parametrize(
    "choices", [{"alpha": 2.0}, {"layers": ALL}, {"layers": ("temporal", "convolutions"), "alpha": 9.0}]
)
def test_a_merged_lora_is_what_was_trained(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path, choices: dict
) -> None:
    trained = load(small_weights, device="cpu")
    fast = replace(QUICK, learning_rate=0.02)
    wanted = config(clip_folder(), **choices, trainer=fast)
    path = finetune(trained, wanted, tmp_path / "run")
    plain = load(small_weights, device="cpu")
    before = loss_of(plain, wanted)
    merge_adapters(plain.unet, read_adapters(path), 1.0, "it")
    assert loss_of(plain, wanted) == pytest.approx(loss_of(trained, wanted), rel=1e-4)
    assert loss_of(plain, wanted) != pytest.approx(before, rel=1e-3)


def test_alpha_is_in_the_file_only_if_it_is_not_the_rank(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    path = finetune(load(small_weights, device="cpu"), config(folder, alpha=4.0), tmp_path / "a")
    plain = load_file(path)
    assert not [name for name in plain if name.endswith(".alpha")]
    scaled = load_file(finetune(load(small_weights, device="cpu"), config(folder, alpha=2.0), tmp_path / "b"))
    assert set(plain) < set(scaled)
    alphas = {name: value for name, value in scaled.items() if name not in plain}
    assert len(alphas) == len(plain) // 2
    # Nor is it another run without alpha.
    assert finetune(load(small_weights, device="cpu"), config(folder), tmp_path / "a") == path
    assert all(name.endswith(".alpha") and value.shape == () and value == 2 for name, value in alphas.items())


def test_layers_are_of_one_kind_each(small_model: Model) -> None:
    found = {kind: set(adapted_layers(small_model.unet, (kind,))) for kind in ALL}
    assert "middle_block.1.transformer_blocks.0.attn2.to_q" in found["spatial"]
    assert "middle_block.2.transformer_blocks.0.attn1.to_out.0" in found["temporal"]
    assert "init_attn.0.transformer_blocks.0.attn1.to_q" in found["temporal"]
    assert "middle_block.1.transformer_blocks.0.attn2.to_k_ip" in found["image"]
    assert "middle_block.1.transformer_blocks.0.ff.net.0.proj" in found["feed_forward"]
    assert "middle_block.0.temopral_conv.conv1.2" in found["convolutions"]
    assert not {"input_blocks.0.0", "out.2"} & found["convolutions"]
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    assert all(found.values())


def test_dropout_is_for_training_only(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Both runs train one step, from adapters that change nothing; only the second one feels the dropout."""
    folder = clip_folder()
    ended = []
    for dropout in (0.0, 0.5):
        lines: list[dict[str, float]] = []
        wanted = config(folder, held_out=1, dropout=dropout, trainer=replace(QUICK, steps=1))
        path = finetune(
            load(small_weights, device="cpu"),
            wanted,
            tmp_path / str(dropout),
            report=lambda line, lines=lines: lines.append(dict(line.extra)),
        )
        ended.append((lines[0]["held_out"], load_file(path)))
    assert ended[0][0] == ended[1][0]
    assert any(not torch.equal(value, ended[1][1][name]) for name, value in ended[0][1].items())
    # A finished run measures the same value again and again.
    model = load(small_weights, device="cpu")
    again: list[float] = []
    for steps in (2, 3):
        wanted = config(
            folder, held_out=1, dropout=0.5, trainer=replace(QUICK, steps=steps, learning_rate=1e-20)
        )
        finetune(
            model if steps == 2 else load(small_weights, device="cpu"),
            wanted,
            tmp_path / "0.5",
            report=lambda line: again.append(line.extra["held_out"]),
        )
    assert len(set(again)) == 1


def test_every_save_writes_a_lora_and_the_last_ones_are_kept(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    wanted = config(clip_folder(), keep_last=2, trainer=replace(QUICK, steps=3))
    # Left by a longer run, whose state was deleted.
    (tmp_path / "run").mkdir()
    for step in (2, 900):
        step_file(tmp_path / "run", step).touch()
    path = finetune(load(small_weights, device="cpu"), wanted, tmp_path / "run")
    files = sorted((tmp_path / "run").glob("lora_step_*"))
    assert [file.name for file in files] == ["lora_step_000002.safetensors", "lora_step_000003.safetensors"]
    assert files[1].read_bytes() == path.read_bytes() != files[0].read_bytes()


def test_only_lora_files_of_steps_are_forgotten(tmp_path: Path) -> None:
    others = ["lora.safetensors", "lora_step_000001.safetensors.txt", "lora_step_best.safetensors"]
    for name in (*others, *(step_file(tmp_path, step).name for step in (5, 900000, 1000000))):
        (tmp_path / name).touch()
    forget_steps(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*others, "lora_step_1000000.safetensors"]
    )


@pytest.mark.slow
def test_a_run_starts_from_a_lora_of_any_alpha(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    still = replace(QUICK, steps=1, learning_rate=1e-30, weight_decay=0.0)
    first = finetune(
        load(small_weights, device="cpu"),
        config(folder, alpha=2.0, trainer=replace(QUICK, learning_rate=0.02)),
        tmp_path / "first",
    )
    merged = load(small_weights, device="cpu")
    merge_adapters(merged.unet, read_adapters(first), 1.0, "it")
    for alpha in (None, 8.0):
        wanted = config(folder, alpha=alpha, start_from=str(first), trainer=still)
        path = finetune(load(small_weights, device="cpu"), wanted, tmp_path / str(alpha))
        again = load(small_weights, device="cpu")
        merge_adapters(again.unet, read_adapters(path), 1.0, "it")
        for name, value in merged.unet.state_dict().items():
            assert torch.allclose(value, again.unet.state_dict()[name], atol=1e-6), name
        # A run that goes on does not start over, and needs the file no more.
        gone = replace(wanted, start_from=str(tmp_path / "gone"), trainer=replace(still, steps=2))
        finetune(load(small_weights, device="cpu"), gone, tmp_path / str(alpha))


def test_a_lora_that_does_not_fit_is_no_start(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    path = finetune(load(small_weights, device="cpu"), config(folder), tmp_path / "run")
    other = tmp_path / "other.safetensors"
    save_file({"diffusion_model.x.lora_A.weight": torch.ones(4, 2)}, other)
    for choices, message in (
        (
            {"start_from": str(path), "rank": 2},
            r"has \(4, 64\) as .*lora_A.weight, but the config needs \(2, 64\); set",
        ),
        (
            {"start_from": str(path), "layers": ("temporal",)},
            "for which the config has no adapter; set layers to",
        ),
        (
            {"start_from": str(other)},
            r"contains diffusion_model\.x\.lora_A\.weight, for which the config has no",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(load(small_weights, device="cpu"), config(folder, **choices), tmp_path / "new")


def test_a_file_to_start_from_is_read_before_clips_are_encoded(
    small_model: Model, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    with pytest.raises(CheckpointError, match="cannot be read as a LoRA"):
        finetune(small_model, config(folder, start_from="gone"), tmp_path / "new")
    assert not (folder / "cache").exists()


def test_another_alpha_is_another_run(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    finetune(load(small_weights, device="cpu"), config(folder, alpha=2.0), tmp_path / "run")
    for alpha, told in ((None, "alpha 2.0, not None"), (3.0, "alpha 2.0, not 3.0")):
        with pytest.raises(CheckpointError, match=f"belongs to a run with {told}"):
            finetune(load(small_weights, device="cpu"), config(folder, alpha=alpha), tmp_path / "run")


@pytest.mark.slow
def test_a_base_in_bfloat16_trains_the_same_to_the_bit(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    states = []
    for base in ("float32", "bf16"):
        wanted = config(
            folder, base=base, layers=ALL, held_out=1, trainer=replace(QUICK, precision="bf16", ema=0.5)
        )
        model = load(small_weights, device="cpu")
        finetune(model, wanted, tmp_path / base)
        states.append(load_state(tmp_path / base / STATE))
        layer = model.unet.get_submodule("middle_block.1.transformer_blocks.0.attn1.to_q")
        assert layer.base_layer.weight.dtype == (torch.bfloat16 if base == "bf16" else torch.float32)
        assert layer.lora_A.default.weight.dtype == torch.float32
    for name, value in states[0]["module"].items():
        assert torch.equal(value, states[1]["module"][name]), name
    logs = [
        (tmp_path / base / "log.csv").read_text(encoding="utf-8").splitlines() for base in ("float32", "bf16")
    ]
    without_seconds = [[line.split(",")[:3] + line.split(",")[4:] for line in log] for log in logs]
    assert without_seconds[0] == without_seconds[1]


def test_samples_of_a_compact_base(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    notes: list[str] = []
    wanted = config(
        clip_folder(),
        base="bf16",
        samples=SampleConfig(every=2, steps=1),
        trainer=replace(QUICK, precision="bf16"),
    )
    finetune(load(small_weights, device="cpu"), wanted, tmp_path / "run", note=notes.append)
    assert not notes
    assert len(list((tmp_path / "run" / "samples").glob("*.mp4"))) == 2


def test_a_compact_base_takes_half_the_memory(small_weights: Path) -> None:
    def size() -> int:
        return sum(p.numel() * p.element_size() for p in loss.parameters() if not p.requires_grad)

    model = load(small_weights, device="cpu")
    loss = DenoisingLoss(model.unet, model.resampler, make_schedule(SMALL.diffusion))
    choose_trained(loss, "lora", Adapters(4))
    before = size()
    keep_compact(loss.unet, loss.resampler)
    # What is left in float32 are biases, norms and adapters.
    assert size() < 0.52 * before


@pytest.mark.parametrize("base", ["int8", "fp8_scaled"])
def test_adapters_are_trained_on_weights_in_8_bits(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path, base: Quantised
) -> None:
    model = load(small_weights, device="cpu")
    path = finetune(model, config(clip_folder(), base=base, layers=ALL, trainer=QUICK), tmp_path / "run")
    layer = model.unet.get_submodule("middle_block.1.transformer_blocks.0.attn1.to_q")
    assert layer.base_layer.weight.dtype == STORED[base][0]
    assert layer.lora_A.default.weight.dtype == torch.float32
    assert any(value.abs().max() > 0 for name, value in read_adapters(path).items() if "lora_B" in name)


def test_a_base_in_8_bits_takes_less_than_a_third_of_the_memory(small_weights: Path) -> None:
    model = load(small_weights, device="cpu")
    loss = DenoisingLoss(model.unet, model.resampler, make_schedule(SMALL.diffusion))
    choose_trained(loss, "lora", Adapters(4))

    def size() -> int:
        return sum(p.nbytes for p in loss.unet.parameters() if not p.requires_grad)

    before = size()
    quantise_frozen(loss.unet, "int8")
    assert size() < 0.32 * before


def test_a_model_in_8_bits_is_not_trained_as_it_is(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = load(small_weights, device="cpu", weights="int8")
    with pytest.raises(UsageError, match="training starts from full weights, but the model's are int8"):
        finetune(model, config(clip_folder()), tmp_path / "run")


def test_a_model_that_moves_its_networks_is_not_trained(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = load(small_weights, device="cpu", memory="low")
    with pytest.raises(UsageError, match='the model moves them; load it with memory="high"'):
        finetune(model, config(clip_folder()), tmp_path / "run")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"base": "bf16"},
            "base bf16 needs target lora and precision bf16, but they are lora and no; change them",
        ),
        (
            {"base": "bf16", "target": "all", "trainer": replace(QUICK, precision="bf16")},
            "base bf16 needs target lora and precision bf16, but they are all and bf16; change them",
        ),
        (
            {"start_from": "a.safetensors", "target": "spatial"},
            "start_from needs target lora, but it is spatial; change it, or leave start_from out",
        ),
        (
            {"base": "int8", "target": "all"},
            "base int8 needs target lora, but it is all; change it, or use base float32",
        ),
        ({"alpha": 0.0}, "alpha must be above 0, but 0.0 was given; the rank, or half of it, is usual"),
        ({"dropout": 1.0}, "dropout must be 0 to below 1, but 1.0 was given"),
        ({"keep_last": 0}, "keep_last must be at least 1, but 0 was given"),
        ({"layers": ()}, "layers must name at least one of spatial, .*, but it is empty"),
    ],
)
def test_wrong_settings_are_told(tmp_path: Path, choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path, **choices)


# Block swap


def test_a_run_that_swaps_blocks_is_the_same_to_the_bit(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder(count=2)
    results = []
    for count in (0, 7):
        wanted = config(folder, base="int8", block_swap=count, checkpointing=True)
        results.append(load_file(finetune(load(small_weights, device="cpu"), wanted, tmp_path / str(count))))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"checkpointing": False},
            "block_swap needs checkpointing and a network that is not compiled, but checkpointing is false and "
            "compile is false; change them, or set block_swap to 0",
        ),
        ({"trainer": TrainerConfig(compile=True)}, "but checkpointing is true and compile is true"),
        ({"target": "all"}, "block_swap needs frozen weights, but target all trains every weight"),
        ({"block_swap": -1}, "block_swap must be at least 0, but -1 was given"),
    ],
)
def test_what_cannot_be_swapped_is_told(tmp_path: Path, choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path, **{"block_swap": 2, "checkpointing": True} | choices)


def test_more_blocks_than_there_are(small_weights: Path, tmp_path: Path) -> None:
    wanted = config(tmp_path, block_swap=99, checkpointing=True)
    with pytest.raises(
        UsageError, match=r"block_swap must be at most \d+, the number of blocks of small, but 99 was"
    ):
        finetune(load(small_weights, device="cpu"), wanted, tmp_path / "run")


def test_several_processes_do_not_swap(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicrafter.training.finetune.process_count", lambda: 2)
    wanted = config(clip_folder(count=2), block_swap=2, checkpointing=True)
    with pytest.raises(
        UsageError, match="block_swap needs a single process, but 2 train together; start one"
    ):
        finetune(load(small_weights, device="cpu"), wanted, tmp_path / "run")
