"""What version 0.1.0 wrote is read and used by this one, also when forms have gained fields since."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import Run

from dynamicrafter.api import find_model, load
from dynamicrafter.media.video import read_frames, read_metadata, write_clip
from dynamicrafter.model.configs import UNetConfig
from dynamicrafter.model.variants import SMALL, TINY, Variant
from dynamicrafter.settings import Settings, settings_from_json
from dynamicrafter.training.encoding import load_item
from dynamicrafter.training.state import load_state
from dynamicrafter.weights.detect import VARIANT_KEY, detect
from dynamicrafter.weights.formats.files import open_weights
from dynamicrafter.weights.load import load_components
from dynamicrafter.weights.lora import merge_adapters, read_adapters

OLD = Path(__file__).parents[1] / "data" / "written_by_0.1.0"
FIRST, LAST = OLD / "ball.png", OLD / "ball_end.png"

# clip: model, mode, pictures, frames, seed
CLIPS: dict[str, tuple[str, str, tuple[Path, ...], int, int]] = {
    "animated.mp4": ("tiny", "animate", (FIRST,), 4, 7),
    "animated": ("tiny", "animate", (FIRST,), 4, 8),
    "between.webp": ("tiny", "interpolate", (FIRST, LAST), 4, 9),
    "loop.gif": ("tiny", "loop", (FIRST,), 3, 10),
    "noise.webm": ("random", "animate", (FIRST,), 4, 11),
}


def grown(kind: type, name: str, of: type, default: object) -> Any:
    """The dataclass ``kind`` with one more field, or with another one in a field's place."""
    return make_dataclass(kind.__name__, [(name, of, field(default=default))], bases=(kind,), frozen=True)


@pytest.mark.parametrize("name", CLIPS)
def test_clips(name: str) -> None:
    model, mode, _, frames, seed = CLIPS[name]
    assert read_frames(OLD / name).shape == (frames, 64, 64, 3)
    record = read_metadata(OLD / name)
    assert (record["version"], record["model"]["asked"]) == ("0.1.0", model)
    stored = settings_from_json(record["settings"], record["version"])
    assert (stored.mode, stored.seed, stored.steps) == (mode, seed, 2)


@pytest.mark.parametrize("name", CLIPS)
def test_clips_can_be_made_again(run: Run, name: str) -> None:
    _, _, pictures, frames, _ = CLIPS[name]
    assert all(known["file"].startswith("/tmp/old/") for known in read_metadata(OLD / name)["pictures"])
    # They are next to the clip, and not where it was made.
    ran = run("again", OLD / name, "--output", "again", "--json")
    assert ran.code == 0, ran.out
    again = read_frames("again")
    assert again.shape == (frames, 64, 64, 3)
    # Newer versions may have more to say.
    old, new = read_metadata(OLD / name)["settings"], read_metadata("again")["settings"]
    assert old.items() <= new.items()
    assert [known["file"] for known in read_metadata("again")["pictures"]] == [p.name for p in pictures]
    if name == "animated":  # The only one whose frames are stored without loss.
        assert (again.int() - read_frames(OLD / name).int()).abs().max() <= 1


def test_settings_that_have_gained_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamicrafter.settings.Settings", grown(Settings, "mood", str, "calm"))
    stored: Any = settings_from_json(read_metadata(OLD / "animated.mp4")["settings"], "0.1.0")
    assert (stored.mood, stored.seed) == ("calm", 7)


def test_weights_whose_network_has_gained_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = grown(UNetConfig, "mood", str, "calm")
    monkeypatch.setattr("dynamicrafter.weights.detect.Variant", grown(Variant, "unet", unet, unet()))
    (variant,) = detect(open_weights(find_model("tiny").weights))
    assert variant.unet == unet(**vars(TINY.unet))
    assert variant.unet.mood == "calm"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def random_file(tmp_path: Path) -> Path:
    """A file with the old header; the values, which would be 20 MB, are zeros."""
    raw = gzip.decompress((OLD / "random.header.gz").read_bytes())
    header = json.loads(raw[8:])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    path = tmp_path / "random.safetensors"
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + end)
    return path


def test_a_checkpoint(random_file: Path) -> None:
    # The mode of guide clips came later.
    written = replace(SMALL, modes=("animate", "interpolate", "loop"))
    assert detect(open_weights(random_file)) == (written,)
    assert load_components(random_file, towers=False).variant == written


def test_the_shipped_model() -> None:
    """Its file was written by 0.1.0 and names all its sizes."""
    file = open_weights(find_model("tiny").weights)
    assert detect(file) == (TINY,)
    assert set(json.loads(file.metadata[VARIANT_KEY])) == {known.name for known in fields(Variant)}


def test_an_encoded_clip() -> None:
    item = load_item(OLD / "encoded.pt")
    assert (item.latents.shape, item.concat.shape, item.text.shape) == ((4, 4, 8, 8), (4, 4, 8, 8), (77, 64))
    assert (item.vision.shape[1], item.fs) == (64, 10)


def test_a_lora(home: Path) -> None:
    model = load("random", device="cpu")
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    merge_adapters(model.unet, read_adapters(OLD / "lora.safetensors"), 1.0, "it")
    changed = [
        name for name, value in model.unet.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert changed and all(re.search(r"to_(q|k|v|k_ip|v_ip|out\.0)\.weight$", name) for name in changed)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state.pt"
    path.write_bytes(gzip.decompress((OLD / "state.pt.gz").read_bytes()))
    return path


def test_a_training_state(state: Path) -> None:
    stored = load_state(state)
    assert stored["step"] == 2
    assert (stored["identity"]["model"], stored["identity"]["target"]) == ("random", "lora")


def test_a_run_goes_on_from_an_old_state(run: Run, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="training needs accelerate")
    pytest.importorskip("peft", reason="adapters are made by peft")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert run("toy-clips", "clips", "--pictures", "1").code == 0
    config = json.loads((OLD / "lora.json").read_text(encoding="utf-8"))
    config["trainer"]["steps"] = 3
    Path("lora.json").write_text(json.dumps(config), encoding="utf-8")
    Path("run").mkdir()
    state.rename(Path("run") / "state.pt")
    ran = run("train", "lora.json", "--folder", "run", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert re.findall(r"step +(\d+) loss", ran.out) == ["3"]
    assert load_state(Path("run") / "state.pt")["step"] == 3


def test_a_clip_of_a_later_version_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    record = read_metadata(OLD / "animated.mp4")
    record["version"] = "0.9.0"
    record["settings"]["mood"] = "calm"
    clip = write_clip(read_frames(OLD / "animated.mp4"), tmp_path / "clip.webp", 8, record)
    ran = run("again", clip, "--picture", FIRST)
    assert re.search(
        r"mood, which this version \(.*\) does not know; it was written by version 0\.9\.0", ran.err
    )
