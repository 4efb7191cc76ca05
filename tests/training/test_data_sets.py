"""Captions in .txt files, several folders, images, mixed lengths, masks, and batches drawn in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_clips import write_movie, write_rows

from dynamicrafter.errors import UsageError
from dynamicrafter.model.variants import SMALL, V256
from dynamicrafter.pipeline import Model
from dynamicrafter.training import finetune as finetuning
from dynamicrafter.training.config import DataConfig, FinetuneConfig, config_from
from dynamicrafter.training.data import ClipPiece, Row, read_list, read_piece
from dynamicrafter.training.encoding import encode_items, load_item
from dynamicrafter.training.finetune import finetune, item_draw, listed_clips
from dynamicrafter.training.losses import per_sample
from dynamicrafter.training.movies import UnusableClip
from dynamicrafter.training.trainer import Trainer, TrainerConfig

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")


def config(data: Path | tuple[DataConfig, ...], **choices) -> FinetuneConfig:
    values = {"frames": 4, "strides": (1, 1), "target": "image_proj", "checkpointing": False, **choices}
    trainer = TrainerConfig(steps=2, learning_rate=1e-3, log_every=1)
    return FinetuneConfig("small", data if isinstance(data, tuple) else str(data), trainer=trainer, **values)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_captions_beside_the_clips(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.png", "b.mask.png", "bare.webm", "empty.mov", "notes.pdf"):
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("\ufeffa boat\n on the  waves\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("a still", encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "readme.txt").write_text("no clip", encoding="utf-8")
    told: list[str] = []
    assert read_list(tmp_path, note=told.append) == [
        Row(tmp_path / "a.png", "a still"),
        Row(tmp_path / "b.mp4", "a boat on the waves", mask=tmp_path / "b.mask.png"),
    ]
    assert told == [
        f"2 clip(s) of {tmp_path} lack a .txt file with a caption and are skipped; the first one is bare.webm"
    ]
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"a\.txt is not a text file in UTF-8; save it as one"):
        read_list(tmp_path)
    write_rows(tmp_path / "captions.csv", ["path", "caption", "mask"], [["b.mp4", "x", "m.mp4"]])
    assert read_list(tmp_path) == [Row(tmp_path / "b.mp4", "x", mask=tmp_path / "m.mp4")]


def test_clips_without_any_caption_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(
        UsageError, match=r"contains no captions\.csv .*, or a \.txt file with the caption for every"
    ):
        read_list(tmp_path)


def test_several_folders_with_repeats(
    small_model: Model, clip_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = clip_folder(2, name="one"), clip_folder(3, name="other")
    write_rows(other / "some.csv", ["path", "caption"], [["1.mp4", "x"], ["2.mp4", "y"]])
    sets = (DataConfig(str(one)), DataConfig(str(other), str(other / "some.csv"), repeats=3))
    rows = listed_clips(config(sets))
    assert [(row.path.parent.name, row.repeats) for row in rows] == [("one", 1)] * 2 + [("other", 3)] * 2
    items = encode_items(small_model, rows, config(sets))
    assert [item.clip.parents[2].name for item in items] == ["one"] * 2 + ["other"] * 6
    assert len(set(items)) == 4
    read: list[Path] = []
    monkeypatch.setattr(finetuning, "load_item", lambda *files: read.append(files[0]) or load_item(*files))
    draw = item_draw(small_model, items, config(sets, batch=200, drop=0.0))
    assert len(read) == len(set(read)) == 4
    drawn = draw(seeded())["text"]
    share = torch.stack([(drawn == load_item(*items[2]).text).flatten(1).all(1)]).float().mean()
    assert float(share) == pytest.approx(3 / 8, abs=0.1)
    again = DataConfig(str(one / ".." / "one"))
    finetune(small_model, config((again, *sets), held_out=1), tmp_path / "run")
    assert len(list((other / "cache" / "clips").glob("*.pt"))) == 2


def test_time_noise_changes_the_image_latents_alone(small_model: Model, clip_folder: Callable) -> None:
    folder = clip_folder(1)
    items = encode_items(small_model, listed_clips(config(str(folder))), config(str(folder)))
    plain, noisy = (
        item_draw(small_model, items, config(str(folder), time_noise=largest))(seeded())
        for largest in (0.0, 100.0)
    )
    assert [name for name in plain if not plain[name].equal(noisy[name])] == ["concat"]
    assert float((noisy["concat"] - plain["concat"]).std()) > 10


def test_several_folders_in_a_config() -> None:
    values = {"recipe": "finetune", "model": "m"}
    made = config_from({**values, "data": [{"folder": "a"}, {"folder": "b", "repeats": 2}]}, "it")
    assert isinstance(made, FinetuneConfig)
    assert made.folders == (DataConfig("a"), DataConfig("b", repeats=2))
    for more, message in (
        (
            {"data": [{"folder": "b", "repeat": 2}]},
            r"unknown settings: data\.repeat; the nearest .* data\.repeats",
        ),
        ({"data": [{"folder": "b", "repeats": 0}]}, r"data\.repeats must be at least 1, but 0 was given"),
        ({"data": []}, "data must name a folder, but it is empty"),
        (
            {"data": [{"folder": "b"}], "listing": "c"},
            "listing is given for several folders; give each folder",
        ),
        ({"data": 3}, "data in it must be a string or a list, each an object, not 3"),
    ):
        with pytest.raises(UsageError, match=message):
            config_from({**values, **more}, "it")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three clips of six, three and two frames, and an image."""
    folder = tmp_path / "mixed"
    frames = torch.linspace(-0.8, 0.8, 6)[:, None, None, None].expand(-1, 3, 64, 64)
    for count in (6, 3, 2):
        write_movie(folder / f"{count}.mp4", frames[:count].clone())
        (folder / f"{count}.txt").write_text(f"of {count}", encoding="utf-8")
    Image.new("RGB", (96, 64), (255, 0, 0)).save(folder / "a.png")
    (folder / "a.txt").write_text("a still", encoding="utf-8")
    return folder


def test_clips_of_mixed_lengths_and_images(small_model: Model, mixed: Path, tmp_path: Path) -> None:
    wanted = config(mixed, shortest=3, batch=2)
    told: list[str] = []
    items = encode_items(small_model, read_list(mixed), wanted, told.append)
    assert told == [f"{mixed / '2.mp4'} has 2 frames, but 3 are needed"]
    loaded = [load_item(*item) for item in items]
    assert [item.latents.shape[1] for item in loaded] == [3, 4, 1]
    assert all(item.concat.shape == item.latents.shape for item in loaded)
    assert loaded[2].fs == SMALL.preset.fs_still
    draw = item_draw(small_model, items, wanted)
    lengths = {draw(torch.Generator().manual_seed(seed))["latents"].shape[2] for seed in range(20)}
    assert lengths == {1, 3, 4}
    finetune(small_model, wanted, tmp_path / "run")


def test_without_a_shortest_length_short_clips_are_left_out(small_model: Model, mixed: Path) -> None:
    told: list[str] = []
    assert len(encode_items(small_model, read_list(mixed), config(mixed), told.append)) == 2
    assert told == [f"{mixed / f'{n}.mp4'} has {n} frames, but 4 are needed" for n in (2, 3)]
    with pytest.raises(
        UsageError, match="shortest must be at most frames, 4, but 5 was given; use a smaller one"
    ):
        config(mixed, shortest=5)


def test_images_are_read_like_frames(mixed: Path) -> None:
    piece = read_piece(Row(mixed / "a.png", "x"), 4, (64, 64), (1, 6), seeded())
    assert piece.frames.shape == (1, 3, 64, 64)
    assert torch.allclose(piece.frames[0, :, 32, 32], torch.tensor([1.0, -1.0, -1.0]))
    assert (piece.fs(SMALL.preset), piece.fs(V256.preset)) == (SMALL.preset.fs_still, V256.preset.fs_still)
    assert read_piece(Row(mixed / "a.png", "x", fps=5.0), 4, (64, 64), (1, 6), seeded()).fs(SMALL.preset) == 5
    assert ClipPiece(piece.frames, 24.0, 3).fs(V256.preset) == 3
    (mixed / "a.png").write_bytes(b"broken")
    with pytest.raises(UnusableClip, match=r"a\.png"):
        read_piece(Row(mixed / "a.png", "x"), 4, (64, 64), (1, 6), seeded())


def test_an_image_is_no_interpolation(small_model: Model, mixed: Path) -> None:
    told: list[str] = []
    encode_items(small_model, read_list(mixed), config(mixed, mode="interpolate"), told.append)
    assert told[-1] == f"{mixed / 'a.png'} is an image, but mode interpolate needs clips"


def test_images_have_sizes_of_their_own(small_model: Model, mixed: Path) -> None:
    (item,) = encode_items(small_model, read_list(mixed)[3:], config(mixed, area=2 * 64 * 64))
    assert load_item(*item).latents.shape == (4, 1, 8, 16)


def left_half(size: tuple[int, int] = (64, 64)) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def test_a_masked_loss_sees_what_is_white(small_model: Model, mixed: Path, tmp_path: Path) -> None:
    left_half().save(mixed / "6.mask.png")
    moving = torch.full((6, 3, 64, 64), -1.0)
    moving[1:] = 1.0
    write_movie(mixed / "3.mask.mp4", moving)
    rows = read_list(mixed)
    wanted = config(mixed, shortest=3, batch=2)
    three, six, still = (load_item(*item) for item in encode_items(small_model, rows[1:], wanted))
    assert still.mask is None and six.mask is not None and three.mask is not None
    assert six.mask.shape == (1, 4, 8, 8)
    assert (six.mask[..., :4] == 1).all() and not six.mask[..., 4:].any()
    assert three.mask.mean((0, 2, 3)).tolist() == pytest.approx([0, 1, 1], abs=0.05)


def test_a_mask_is_of_the_same_frames(tmp_path: Path) -> None:
    levels = torch.linspace(-0.9, 0.9, 12)[:, None, None, None].expand(-1, 3, 64, 64).clone()
    clip, mask = (write_movie(tmp_path / name, levels) for name in ("a.mp4", "m.mp4"))
    piece = read_piece(Row(clip, "x", mask=mask), 4, (64, 64), (2, 2), seeded())
    assert piece.mask is not None
    assert torch.allclose(piece.mask.mean((1, 2, 3)), (piece.frames.mean((1, 2, 3)) + 1) / 2, atol=0.02)
    write_movie(mask, levels[:3])
    with pytest.raises(UnusableClip, match=r"m\.mp4 has 3 frames, but its clip .*a\.mp4 has more"):
        read_piece(Row(clip, "x", mask=mask), 4, (64, 64), (2, 2), seeded())
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(UnusableClip, match=r"black\.png is black, so nothing of .*a\.mp4 can be trained on"):
        read_piece(Row(clip, "x", mask=tmp_path / "black.png"), 4, (64, 64), (2, 2), seeded())


def test_the_loss_is_the_mean_over_the_mask() -> None:
    prediction, target = torch.zeros(2, 4, 3, 2, 2), torch.ones(2, 4, 3, 2, 2)
    target[..., 1] = 3
    mask = torch.ones(2, 1, 3, 2, 2)
    assert torch.equal(per_sample(prediction, target, mask), per_sample(prediction, target))
    mask[0, ..., 1] = 0
    mask[1, ..., 1] = 0.5
    assert per_sample(prediction, target, mask).tolist() == pytest.approx([1.0, (1 + 0.5 * 9) / 1.5])


def test_unmasked_clips_of_a_batch_count_everywhere(small_model: Model, mixed: Path, tmp_path: Path) -> None:
    write_movie(mixed / "5.mp4", torch.zeros(6, 3, 64, 64))
    (mixed / "5.txt").write_text("grey", encoding="utf-8")
    left_half().save(mixed / "6.mask.png")
    rows = [row for row in read_list(mixed) if row.path.name in ("5.mp4", "6.mp4")]
    items = encode_items(small_model, rows, config(mixed))
    batch = item_draw(small_model, items, config(mixed, batch=20))(seeded())
    assert set(batch["mask"].flatten(1).mean(1).tolist()) == {0.5, 1.0}
    assert "mask" not in item_draw(small_model, items[:1], config(mixed, batch=2))(seeded())
    finetune(small_model, config(mixed, held_out=1), tmp_path / "run")


def test_batches_are_drawn_in_the_background_and_are_the_same(tmp_path: Path) -> None:
    ended, threads = [], []
    for background in (False, True):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 1)

        class Loss(torch.nn.Module):
            def __init__(self, inner: torch.nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x).square().mean()

        names: list[str] = []

        def draw(generator: torch.Generator, names: list[str] = names) -> dict[str, torch.Tensor]:
            names.append(threading.current_thread().name)
            return {"x": torch.randn(2, 4, generator=generator)}

        wanted = TrainerConfig(steps=5, accumulate=2, learning_rate=0.1, save_every=2)
        Trainer(Loss(layer), draw, wanted, tmp_path / str(background), background=background).run()
        ended.append(layer.weight.detach().clone())
        threads.append(names)
    assert torch.equal(*ended)
    # Each of the three saves draws one batch of its own.
    assert [len(names) for names in threads] == [13, 13]
    assert sum(name.startswith("batches") for name in threads[1]) == 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_an_error_in_the_background_ends_the_run(tmp_path: Path) -> None:
    def draw(generator: torch.Generator) -> dict[str, torch.Tensor]:
        raise UsageError("no clip")

    with pytest.raises(UsageError, match="^no clip$"):
        Trainer(torch.nn.Linear(4, 1), draw, TrainerConfig(steps=2), tmp_path, background=True).run()
