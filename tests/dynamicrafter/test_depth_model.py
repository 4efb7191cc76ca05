"""Depth maps estimated by models of transformers, and the option --depth-model of the command camera."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import QUICK, Run, complaint, left
from PIL import Image
from torch import Tensor

from dynamicrafter.camera.choices import GuideCamera
from dynamicrafter.camera.depth import read_depth
from dynamicrafter.camera.estimation import estimate_depth
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.media.pictures import read_picture
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.variants import SMALL
from dynamicrafter.settings import make_settings
from dynamicrafter.shots import FilmedScene, guide_of

transformers: Any = pytest.importorskip("transformers")

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Depth Anything model of 21,000 random weights; not to be changed."""
    folder = tmp_path_factory.mktemp("depth") / "model"
    sight = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=sight,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8],
        reassemble_factors=[2, 1],
        fusion_hidden_size=8,
        head_hidden_size=8,
        patch_size=14,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.DepthAnythingForDepthEstimation(config)
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(0, 0.2)
            model.head.conv3.bias.fill_(50)
    model.save_pretrained(folder)
    processor = transformers.DPTImageProcessor(
        size={"height": 28, "width": 42}, keep_aspect_ratio=False, ensure_multiple_of=14
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def changed(saved: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(saved, tmp_path / "changed"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of 96x64 pixels."""
    rows, columns = np.mgrid[:64, :96]
    pixels = np.stack([rows * 3 + 10, columns * 2, 128 + 100 * np.sin(columns / 9)], axis=-1)
    path = tmp_path / "image.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def estimated(model: Path | str, image: Path, kind: Any = "disparity") -> Tensor:
    return estimate_depth(read_picture(image).pixels, str(model), kind)


def configure(folder: Path, **entries: Any) -> None:
    """Change config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_the_map_is_the_models_output_at_the_size_of_the_image(
    saved: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = estimated(saved, image)
    assert found.shape == (64, 96) and found.dtype == torch.float32
    assert float(found.std()) > 0.1
    assert capfd.readouterr() == ("", "")
    model = transformers.DepthAnythingForDepthEstimation.from_pretrained(saved).eval()
    processor = transformers.DPTImageProcessor.from_pretrained(saved)
    with torch.inference_mode():
        small = model(**processor(Image.open(image), return_tensors="pt")).predicted_depth[:, None]
    expected = torch.nn.functional.interpolate(small, (64, 96), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected[0, 0])


def test_a_name_is_looked_up_in_the_cache_of_the_hub(
    saved: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "cache" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    shutil.copytree(saved, repository / "snapshots" / "0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert torch.equal(estimated("someone/small", image), estimated(saved, image))


@pytest.mark.parametrize("name", ["someone/other", "not/a/name", "no such folder"])
def test_a_model_that_is_not_there_is_no_download(
    name: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UsageError,
        match=f"the depth model {name} is neither a folder nor in the cache of the Hugging Face hub; correct the "
        "path, or download the model with 'hf download NAME'$",
    ):
        estimated(name, image)


def test_without_transformers_the_extra_is_named(
    saved: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicrafter.camera.estimation.find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match=r"needs the transformers package; install it with pip install 'dynamicrafter-studio\[depth\]', or use",
    ):
        estimated(saved, image)


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    """As older models are stored, in a file that could run code."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    without_weights(folder)


def cut_short(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(2000)


def without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.conv3")}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


def of_another_task(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def with_code(folder: Path) -> None:
    """Code of its own for an architecture that the library does not know."""
    (folder / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    (folder / "own.py").write_text('raise SystemExit("run")')


def of_another_width(folder: Path) -> None:
    configure(folder, head_hidden_size=9)


def without_height(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 0, "width": 28}}))


def with_a_backbone_of_the_hub(folder: Path) -> None:
    configure(folder, backbone="someone/backbone", backbone_config=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without_weights,
            r"cannot be used \(.*no file named model.safetensors.*\); it must have config.json, prep",
        ),
        (pickled, r"cannot be used \(.*no file named model.safetensors.*\); it must have"),
        (cut_short, r"cannot be used \(.*\); it must have"),
        (
            without_head,
            "is incomplete: 2 of its tensors are missing, such as head.conv3.bias; download it again$",
        ),
        (
            of_another_task,
            "a model for depth estimation is needed, but .*changed is one of type bert; use another",
        ),
        (with_code, r"cannot be used \(.*custom code.*\); it must have"),
        (of_another_width, r"cannot be used \(.*\); it must have"),
        (without_height, r"cannot be used \(.*\); it must have"),
        (with_a_backbone_of_the_hub, r"cannot be used \(.*offline mode is enabled\); it must have"),
    ],
)
def test_a_folder_that_is_no_depth_model_is_refused(
    changed: Path, image: Path, change: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(changed)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *words, **more: asked.append(words))
    with pytest.raises(CheckpointError, match=message) as raised:
        estimated(changed, image)
    assert "\n" not in str(raised.value)
    assert not asked
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is False


def test_weights_that_are_never_used_may_be_missing(changed: Path, saved: Path, image: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(changed / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if "layers.0.residual_layer1" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, changed / WEIGHTS, {"format": "pt"})
    assert torch.equal(estimated(changed, image), estimated(saved, image))


def test_a_kind_that_the_model_contradicts_is_refused(changed: Path, saved: Path, image: Path) -> None:
    with pytest.raises(
        UsageError, match="makes maps of kind disparity, but metric was given; choose disparity"
    ):
        estimated(saved, image, "metric")
    configure(changed, depth_estimation_type="metric")
    with pytest.raises(
        UsageError, match="makes maps of kind metric, but disparity was given; choose metric as"
    ):
        estimated(changed, image)
    assert estimated(changed, image, "metric").shape == (64, 96)


class TestCommand:
    def test_a_clip_is_made_and_made_again_without_the_model(
        self, run: Run, saved: Path, image: Path, kept: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ("--path", "truck:0.2", "--guide", "guide/", "--size", "64x64")
        ran = run("camera", image, "--depth-model", saved, *words, *QUICK, "-o", "clip.webp", "--json")
        assert ran.code == 0, ran.err
        depth = Path("clip-depth.npy").resolve()
        assert ran.json["depth"] == str(depth)
        assert left() == ["clip-depth.npy", "clip.webp", "guide"]
        assert torch.equal(read_depth(depth, (96, 64)), estimated(saved, image))
        guide = guide_of(
            FilmedScene(depth, GuideCamera("truck:0.2")),
            read_picture(image),
            make_settings(SMALL, "views", frames=4),
        )
        assert torch.equal(read_frames("guide"), guide)
        assert read_metadata("clip.webp")["camera"]["depth"]["file"] == "clip-depth.npy"
        # Neither again nor a map from a file needs the library.
        monkeypatch.setitem(sys.modules, "transformers", None)
        shutil.copy(image, "image.png")
        assert run("again", "clip.webp", "-o", "again.webp").code == 0
        assert torch.equal(read_frames("again.webp"), read_frames("clip.webp"))
        ran = run("camera", image, "--depth", depth, *words, *QUICK, "-o", "same.webp")
        assert ran.code == 0, ran.err
        assert torch.equal(read_frames("same.webp"), read_frames("clip.webp"))

    def test_the_map_is_written_with_the_guide_alone(self, run: Run, saved: Path, image: Path) -> None:
        ran = run(
            "camera", image, "--depth-model", saved, "--path", "orbit:5", "--guide-only", "--frames", "3"
        )
        assert ran.code == 0, ran.err
        assert left() == ["image-guide-depth.npy", "image-guide.mp4"]
        assert ran.out.splitlines()[0] == f"{Path('image-guide-depth.npy').resolve()}: depth map of {saved}"

    def test_nothing_is_left_of_a_dry_run_or_of_a_path_that_leaves_the_scene(
        self, run: Run, saved: Path, image: Path
    ) -> None:
        words = ("camera", image, "--depth-model", saved, *QUICK)
        ran = run(*words, "--path", "orbit:5", "--dry-run")
        assert ran.code == 0, ran.err
        message = complaint(run(*words, "--path", "truck:1", "--centre", "10"), 2)
        assert "the camera leaves the scene" in message
        assert left() == []

    def test_what_does_not_fit_together_is_said(self, run: Run, saved: Path, image: Path) -> None:
        path = ("--path", "orbit:5")
        message = complaint(run("camera", image, "--depth-model", saved, *path, "-o", "-"), 2)
        assert message == (
            "--depth-model writes a depth map next to the output, but this is standard output; name a file with "
            "--output"
        )
        ran = run("camera", image, "--depth-model", saved, "--depth", "map.png", *path)
        assert ran.code == 2 and "argument --depth: not allowed with argument --depth-model" in ran.err
        ran = run("camera", image, *path)
        assert ran.code == 2 and "one of the arguments --depth --depth-model is required" in ran.err
