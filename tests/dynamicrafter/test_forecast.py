"""What clips will take: memory from the networks' sizes, time from the last run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamicrafter import forecast
from dynamicrafter.forecast import Speed, Stopwatch, memory_of, speed_of
from dynamicrafter.model.memory import unet_bytes, vae_decode_bytes, vae_encode_bytes
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.variants import SMALL, TOON_512, V512, VARIANTS, Variant
from dynamicrafter.settings import make_settings
from dynamicrafter.weights.networks import COMPONENTS, build

CPU = torch.device("cpu")
ONE = make_settings(SMALL, "animate")


def test_weights_are_all_networks_in_the_precision() -> None:
    networks = [build(SMALL, part, Operations(dtype=torch.float32, device="meta")) for part in COMPONENTS]
    values = sum(tensor.numel() for network in networks for tensor in network.state_dict().values())
    assert memory_of(SMALL, [ONE], torch.float32).weights == 4 * values
    assert memory_of(SMALL, [ONE], torch.bfloat16).weights == 2 * values


def test_activations_are_those_of_the_network_that_takes_most() -> None:
    half = torch.float16
    one = make_settings(V512, "animate")
    network = [unet_bytes(V512.unet, count * 16 * 40 * 64, half) for count in (1, 2)]
    assert memory_of(V512, [one], half).activations == max(
        network[0], vae_decode_bytes(V512.vae, 1, 320 * 512, half)
    )
    assert memory_of(V512, [one, one], half).activations == network[1]
    # The guidance branches of a small clip are one batch.
    small = make_settings(V512, "animate", size=(256, 256))
    assert memory_of(V512, [small], half).activations == unet_bytes(V512.unet, 2 * 16 * 32 * 32, half)
    # ToonCrafter decodes all frames of a clip at once.
    drawn = make_settings(TOON_512, "interpolate")
    assert memory_of(TOON_512, [drawn], half).activations == vae_decode_bytes(
        TOON_512.vae, 16, 320 * 512, half
    )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_an_image_takes_less_to_encode_than_a_frame_to_decode(variant: Variant) -> None:
    """Images are encoded one at a time, so that the encoder is never what takes most."""
    pixels = variant.preset.width * variant.preset.height
    assert vae_encode_bytes(variant.vae, pixels, torch.float32) < vae_decode_bytes(
        variant.vae, 1, pixels, torch.float32
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(monkeypatch: pytest.MonkeyPatch, times: list[tuple[str, float]]) -> Stopwatch:
    """A run whose reports come at these times."""
    now = iter([0.0, *(time for _, time in times)])
    monkeypatch.setattr(forecast.time, "monotonic", lambda: next(now))
    watch = Stopwatch()
    for work, _ in times:
        watch.report(work)
    return watch


def test_a_clip_like_the_last_one_takes_as_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert speed_of(SMALL, CPU, torch.float32) is None
    times = [
        ("load", 2.0),
        ("hash", 3.0),
        ("encode", 4.0),
        ("sample", 8.0),
        ("sample", 24.0),
        ("decode", 27.0),
    ]
    run(monkeypatch, times).remember([ONE], SMALL, CPU, torch.float32)
    speed = speed_of(SMALL, CPU, torch.float32)
    assert speed is not None
    assert speed.load == 3.0
    assert speed.seconds([ONE]) == pytest.approx(27.0)
    assert speed.seconds([ONE, ONE]) == pytest.approx(3 + 2 * 24)
    # 20 s of sampling, 4 s of everything else.
    assert speed.seconds([replace(ONE, steps=2 * ONE.steps)]) == pytest.approx(3 + 40 + 4)
    assert speed.seconds([replace(ONE, cfg=1.0)]) == pytest.approx(3 + 10 + 4)
    assert speed.seconds([replace(ONE, image_cfg=1.5)]) == pytest.approx(3 + 30 + 4)
    # Heun evaluates the network a second time in every step but the last.
    second = 20 * (2 * ONE.steps - 1) / ONE.steps
    assert speed.seconds([replace(ONE, eta=0, sampler="heun")]) == pytest.approx(3 + second + 4)
    assert speed.seconds([replace(ONE, eta=0, sampler="unipc")]) == pytest.approx(27.0)
    # Half of the steps evaluate one branch instead of two.
    assert speed.seconds([replace(ONE, guidance_start=0.5)]) == pytest.approx(3 + 15 + 4)
    assert speed.seconds([replace(ONE, width=128, frames=8)]) == pytest.approx(27.0)
    for other in ((V512, CPU, torch.float32), (SMALL, CPU, torch.bfloat16)):
        assert speed_of(*other) is None
    assert speed_of(SMALL, CPU, torch.float32, stored="int8") is None
    assert speed_of(SMALL, CPU, torch.float32, memory="low") is None


def test_the_speed_of_a_run_is_that_of_all_its_clips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = run(monkeypatch, [("load", 1.0), ("sample", 11.0), ("decode", 12.0)])
    watch.remember([ONE], SMALL, CPU, torch.float32)
    monkeypatch.setattr(forecast.time, "monotonic", lambda: 42.0)
    watch.report("sample")
    watch.remember([ONE], SMALL, CPU, torch.float32)
    speed = speed_of(SMALL, CPU, torch.float32)
    assert speed is not None
    assert speed.seconds([ONE]) == pytest.approx(1 + (10 + 30) / 2 + 1 / 2)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"small, cpu, float32": 1}', '{"small, cpu, float32": {"load": 1.0}}']
    + [
        json.dumps({"small, cpu, float32": {"load": 1.0, "evaluation": value, "frame": 1.0}})
        for value in (-1.0, "1", None, True)
    ],
)
def test_a_damaged_memory_is_none_and_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder.mkdir()
    (folder / "speeds.json").write_text(text, encoding="utf-8")
    assert speed_of(SMALL, CPU, torch.float32) is None
    run(monkeypatch, [("sample", 1.0)]).remember([ONE], SMALL, CPU, torch.float32)
    assert isinstance(speed_of(SMALL, CPU, torch.float32), Speed)


def test_a_folder_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "file"))
    run(monkeypatch, [("sample", 1.0)]).remember([ONE], SMALL, CPU, torch.float32)
    assert speed_of(SMALL, CPU, torch.float32) is None
