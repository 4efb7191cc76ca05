"""Mode views: a guide clip conditions every frame; the command camera, and clips of it made again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import QUICK, Run, complaint, left
from PIL import Image
from torch import Tensor

import dynamicrafter
from dynamicrafter.camera.choices import GuideCamera
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.media.pictures import fit_picture, read_picture
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.conditioning import encode_keys
from dynamicrafter.model.protocols import Posterior
from dynamicrafter.model.variants import (
    SMALL,
    V512_INTERP,
    V1024,
    VARIANTS,
    VIEWCRAFTER_25,
    VIEWS_PROMPT,
)
from dynamicrafter.pipeline import KeyPictures, Model, encode, make_generators, request_of
from dynamicrafter.settings import make_settings
from dynamicrafter.shots import FilmedScene, guide_of
from dynamicrafter.weights.detect import choose, detect, variant_metadata


@pytest.fixture
def model(home: Path, kept: None) -> Model:
    return dynamicrafter.load("random", device="cpu")


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """An image of 96x64 and its depth map: a bright square nearer than what is behind it."""
    rows, columns = np.mgrid[:64, :96]
    image = np.stack([rows * 2 + 60, columns + 90, rows + columns], axis=-1).astype(np.uint8)
    depth = np.full((64, 96), 9000, np.uint16)
    image[20:44, 36:60] = (250, 240, 90)
    depth[20:44, 36:60] = 50000
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(depth).save(tmp_path / "depth.png")
    return tmp_path / "image.png", tmp_path / "depth.png"


class TestConditioning:
    def test_every_frame_of_the_guide_is_in_its_place(self, model: Model) -> None:
        """The first is the image, whatever the guide shows there."""
        settings = make_settings(SMALL, "views", frames=5)
        first, guide = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 3, 5, 64, 64) * 2 - 1
        generators = make_generators(model, [settings])
        found = encode(model, KeyPictures(first, clip=guide), [settings], generators)
        noise = torch.randn(5, 4, 8, 8, generator=make_generators(model, [settings])[0])
        with torch.inference_mode():
            for frame in range(5):
                picture = first if frame == 0 else guide[:, :, frame]
                drawn = model.vae.encode(picture).sample(noise[frame][None]) * SMALL.vae.scale_factor
                assert torch.equal(found.concat[:, :, frame], drawn)

    def test_the_unconditional_branch_keeps_the_guide_and_sees_grey(self, model: Model) -> None:
        """One concat is shared by all branches; the image's tokens are those of animation, for the same image."""
        first = torch.rand(1, 3, 64, 64) * 2 - 1
        made = {
            mode: encode(
                model,
                KeyPictures(first, clip=torch.rand(1, 3, 16, 64, 64) if mode == "views" else None),
                [settings := make_settings(SMALL, mode)],
                make_generators(model, [settings]),
            )
            for mode in ("views", "animate")
        }
        for branch in ("full", "unconditional"):
            views, animated = (getattr(made[mode], branch).image for mode in ("views", "animate"))
            assert torch.equal(views, animated)
        assert torch.equal(made["views"].concat[:, :, 0], made["animate"].concat[:, :, 0])
        assert not torch.equal(made["views"].concat[:, :, 1], made["animate"].concat[:, :, 1])

    @pytest.mark.parametrize(("frames", "tokens"), [(25, 256), (16, 16)])
    def test_every_frame_sees_all_image_tokens_unless_there_are_as_many_as_trained(
        self, model: Model, frames: int, tokens: int
    ) -> None:
        settings = make_settings(SMALL, "views", frames=frames)
        pictures = KeyPictures(torch.zeros(1, 3, 64, 64), clip=torch.zeros(1, 3, frames, 64, 64))
        found = encode(model, pictures, [settings], make_generators(model, [settings]))
        assert found.concat.shape[2] == frames
        assert found.full.grouped(frames).image.shape[-2] == tokens

    def test_images_are_encoded_one_at_a_time(self) -> None:
        sizes: list[int] = []

        class Encoder:
            def encode(self, pictures: Tensor) -> Posterior:
                sizes.append(len(pictures))
                return Posterior(pictures[:, :1], pictures[:, :1])

        encode_keys(Encoder(), "views", torch.zeros(2, 3, 8, 8), None, 3, 1.0, torch.zeros(2, 3, 3, 8, 8))
        assert sizes == [1] * 6

    def test_without_a_guide_the_image_is_held_still(self, model: Model) -> None:
        """As the self-test of a model has none."""
        settings = make_settings(SMALL, "views", frames=3)
        found = encode(
            model, KeyPictures(torch.rand(1, 3, 64, 64)), [settings], make_generators(model, [settings])
        )
        assert torch.equal(found.concat[:, :, 0], found.concat[:, :, 2])

    def test_other_modes_take_no_guide(self, model: Model) -> None:
        settings = make_settings(SMALL, "animate", frames=3)
        pictures = KeyPictures(torch.rand(1, 3, 64, 64), clip=torch.rand(1, 3, 3, 64, 64))
        assert request_of(model, pictures, [settings]).guide is None


class TestPython:
    def test_the_guide_decides_what_is_shown(self, model: Model, scene: tuple[Path, Path]) -> None:
        image = scene[0]
        still = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
        moving = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
        clips = [
            dynamicrafter.views(model, image, guide, frames=4, steps=2, seed=3) for guide in (still, moving)
        ]
        assert clips[0].frames.shape == (4, 64, 64, 3)
        assert not torch.equal(clips[0].frames, clips[1].frames)
        assert clips[0].settings.prompt == VIEWS_PROMPT
        again = dynamicrafter.views(model, image, moving, frames=4, steps=2, seed=3)
        assert torch.equal(again.frames, clips[1].frames)

    def test_the_first_frame_of_the_guide_has_no_effect(self, model: Model, scene: tuple[Path, Path]) -> None:
        guide = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
        other = guide.clone()
        other[0] = 0
        one, two = (
            dynamicrafter.views(model, scene[0], each, frames=3, steps=1).frames for each in (guide, other)
        )
        assert torch.equal(one, two)

    def test_what_is_wrong_with_a_guide_is_said(self, model: Model, scene: tuple[Path, Path]) -> None:
        with pytest.raises(
            UsageError, match="the guide clip has 3 frames, but 4 are generated; use a longer clip"
        ):
            dynamicrafter.views(model, scene[0], torch.zeros(3, 64, 64, 3, dtype=torch.uint8), frames=4)
        with pytest.raises(
            UsageError, match="views need a guide clip for each image, and take no masks; pass the"
        ):
            dynamicrafter.render(model, make_settings(SMALL, "views"), [scene[0]], None, [1])
        with pytest.raises(
            UsageError, match="needs length_method native and denoise 1, but native and 0.5 were given"
        ):
            make_settings(SMALL, "views", denoise=0.5)
        with pytest.raises(UsageError, match="1024_v1 was trained to animate, not to follow guide clips"):
            make_settings(V1024, "views")
        with pytest.raises(
            UsageError, match="viewcrafter_25 was trained to follow guide clips, not to animate"
        ):
            make_settings(VIEWCRAFTER_25, "animate")


def opened(name: str, metadata: dict[str, str] | None = None) -> Any:
    """A weights file without tensors."""
    return SimpleNamespace(path=Path(name), entries={}, metadata=metadata or {})


class TestVariant:
    def test_its_facts(self) -> None:
        usual = make_settings(VIEWCRAFTER_25, "views")
        assert (usual.width, usual.height, usual.frames, usual.fs) == (1024, 576, 25, 10)
        assert (usual.steps, usual.cfg, usual.eta, usual.guidance_rescale) == (50, 7.5, 1.0, 0.7)
        assert usual.spacing == "uniform_trailing"
        assert VIEWCRAFTER_25.diffusion.base_scale == 0.3
        for part in ("unet", "vae", "resampler", "text", "vision", "diffusion"):
            assert getattr(VIEWCRAFTER_25, part) == getattr(V1024, part)

    def test_it_is_chosen_by_its_name_only(self) -> None:
        file = opened("model.ckpt")
        fits = (V1024, VARIANTS["cil_1024"], VIEWCRAFTER_25)
        assert choose(fits, None, file) is V1024
        assert choose(fits, "viewcrafter_25", file) is VIEWCRAFTER_25
        assert choose((VIEWCRAFTER_25,), None, file) is VIEWCRAFTER_25
        with pytest.raises(CheckpointError, match="was detected as 512_interp_v1, not viewcrafter_25"):
            choose((V512_INTERP,), "viewcrafter_25", file)

    def test_a_converted_file_says_that_it_is_one(self) -> None:
        file = opened("model.safetensors", variant_metadata(VIEWCRAFTER_25))
        assert detect(file) == (VIEWCRAFTER_25,)


class TestCommand:
    def test_a_clip_is_made_and_made_again(self, run: Run, scene: tuple[Path, Path]) -> None:
        words = ("--depth", scene[1], "--path", "truck:0.2", "--guide", "guide/", "--size", "64x64")
        ran = run("camera", scene[0], *words, *QUICK, "-o", "clip/", "--json")
        assert ran.code == 0, ran.err
        assert ran.json["clips"][0]["settings"]["prompt"] == VIEWS_PROMPT
        assert ran.json["guide"]["frames"] == 4
        picture = read_picture(scene[0])
        guide = guide_of(
            FilmedScene(scene[1], GuideCamera("truck:0.2")), picture, make_settings(SMALL, "views", frames=4)
        )
        assert torch.equal(read_frames("guide"), guide)
        fitted = ((fit_picture(picture, 64, 64) + 1) * 127.5).round().byte().movedim(0, -1)
        assert torch.equal(guide[0], fitted)
        # The very guide is what the clip was made with, and the record leads to it.
        model = dynamicrafter.load("random", device="cpu")
        made = dynamicrafter.views(model, scene[0], guide, frames=4, steps=1)
        assert torch.equal(read_frames("clip/"), made.frames)
        shutil.copy(scene[0], "image.png")
        shutil.copy(scene[1], "depth.png")
        assert run("again", "clip/", "-o", "again/").code == 0
        assert torch.equal(read_frames("again/"), read_frames("clip/"))

    def test_other_models_interpolate_and_say_so(self, run: Run, scene: tuple[Path, Path]) -> None:
        image, depth = scene
        poses = "".join(f"0 1 1 0 0 0 0 1 0 0 {x} 0 1 0 0 0 0 1 0\n" for x in (0, -0.1, -0.2))
        (image.parent / "path.txt").write_text(poses)
        quick = ("--steps", "1", "--frames", "4", "--quiet", "-o", "clip.webp")
        ran = run("camera", image, "--depth", depth, "--path", image.parent / "path.txt", *quick)
        assert ran.code == 0, ran.err
        assert (
            "note: tiny was not trained to follow guide clips: it interpolates from the first frame of the guide to "
            "the last, whose black parts stay black\n"
        ) in ran.err
        record = read_metadata("clip.webp")
        assert record["settings"]["mode"] == "interpolate"
        assert record["camera"]["camera"]["path"] == record["camera"]["path"]["file"] == "path.txt"
        assert str(image.parent) not in str(record)
        for file in ("image.png", "depth.png", "path.txt"):
            shutil.copy(image.parent / file, file)
        assert run("again", "clip.webp", "-o", "again.webp").code == 0
        assert torch.equal(read_frames("again.webp"), read_frames("clip.webp"))
        Path("depth.png").write_bytes(b"another")
        message = complaint(run("again", "clip.webp"), 1)
        assert message.endswith(
            "is not the clip's depth map (its contents differ); put the depth map next to the clip"
        )

    def test_the_guide_alone_needs_no_weights(
        self, run: Run, scene: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dynamicrafter.shots.load", None)
        ran = run(
            "camera", scene[0], "--depth", scene[1], "--path", "orbit:10", "--guide-only", "--frames", "5"
        )
        assert re.fullmatch(
            r".*image-guide\.mp4: 64x64, 5 frame\(s\) at 8 fps, guide, \d+% of frame 5 is not black\n",
            ran.out,
        )
        assert left() == ["image-guide.mp4"]
        assert len(read_frames("image-guide.mp4")) == 5

    def test_what_is_wrong_is_said_before_the_weights_are_loaded(
        self, run: Run, scene: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, wide_weights: Path
    ) -> None:
        monkeypatch.setattr("dynamicrafter.shots.load", None)
        image, depth = scene

        def said(*words: object) -> str:
            return complaint(run("camera", image, *words, "--quiet"), 2)

        Image.new("L", (10, 10)).save("small.png")
        Image.new("L", (96, 64), 7).save("flat.png")
        holes = np.ones((64, 96))
        holes[3, 5] = np.nan
        np.save("holes.npy", holes)
        orbit = ("--path", "orbit:5")
        assert "has 10x10 pixels, but the image has 96x64; use a depth map of" in said(
            "--depth", "small.png", *orbit
        )
        assert "must have different values, but all are 7; check" in said("--depth", "flat.png", *orbit)
        assert "1 of 6144 are NaN or infinite; fill them" in said("--depth", "holes.npy", *orbit)
        far = ("--path", "truck:1", "--centre", "10")
        assert "the camera leaves the scene: frame" in said("--depth", depth, *far)
        assert "fov must be 5 to 150, but 200 was given" in said("--depth", depth, *orbit, "--fov", "200")
        assert "a camera path consists of orbit" in said("--depth", depth, "--path", "spin:5")
        model = ("--model", wide_weights)
        assert "wide was trained to animate, not to follow guide clips" in said(
            "--depth", depth, *orbit, *model
        )
        same = ("--guide", "one.mp4", "--output", "one.mp4", "--dry-run")
        assert "--guide and --output are the same" in said("--depth", depth, *orbit, *same)
        both = ("--guide-only", "--dry-run")
        assert "--guide-only generates nothing; omit one" in said("--depth", depth, *orbit, *both)
        assert [name for name in left() if name.endswith(".mp4")] == []

    def test_lists_of_jobs_have_no_guides(self, run: Run, scene: tuple[Path, Path]) -> None:
        Path("jobs.jsonl").write_text(f'{{"pictures": ["{scene[0].as_posix()}"], "mode": "views"}}')
        message = complaint(run("batch", "jobs.jsonl", "--out", "clips", "--model", "random"), 2)
        assert (
            "a list of jobs has no guide clips, but mode views was given; use the command camera" in message
        )


def test_scenes_share_a_batch_with_scenes_alone(scene: tuple[Path, Path]) -> None:
    from dynamicrafter.shots import Shot, batches

    settings = make_settings(SMALL, "views")
    shot = Shot(settings, (scene[0],), "a")
    with_scene = replace(shot, scene=FilmedScene(scene[1], GuideCamera("orbit:5")))
    assert [len(batch) for batch in batches([shot, with_scene, with_scene], 4)] == [1, 2]
