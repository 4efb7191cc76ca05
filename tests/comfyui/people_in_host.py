"""Numbers of the nodes that move a person, inside a real host, for test_pack_people.py; run as a script of its own.

Usage: ``python people_in_host.py REPOSITORY WORKING_FOLDER``; writes ``people.json`` into the working folder: by name
what was measured, or the traceback where that failed.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from probed_host import FAR, PLENTY, OneDevice, error, load_pack, put
from torch import Tensor

SIZE = (64, 96)
"""Width and height of the clips."""
STEPS = 5
"""A divisor of 1000, so that each step of the original ends where the next begins."""


def figure(width: int, height: int, scale: float = 0.5, across: float = 0.5) -> dict[str, Any]:
    """A standing person as OpenPose writes one: upright and symmetric, its height that of the canvas times a scale."""
    middle, size = across * width, scale * height
    places = {0: (0, 0.1), 1: (0, 0.2), 2: (-0.1, 0.2), 3: (-0.15, 0.35), 4: (-0.15, 0.5), 5: (0.1, 0.2)}
    places |= {6: (0.15, 0.35), 7: (0.15, 0.5), 8: (-0.07, 0.5), 9: (-0.07, 0.75), 10: (-0.07, 1.0)}
    places |= {11: (0.07, 0.5), 12: (0.07, 0.75), 13: (0.07, 1.0)}
    body = [0.0] * 54
    for joint, (x, y) in places.items():
        body[3 * joint : 3 * joint + 3] = [middle + x * size, 0.05 * height + y * 0.9 * size, 1.0]
    hand = [value for i in range(21) for value in (middle + i, 0.5 * height, 1.0)]
    one = {"pose_keypoints_2d": body, "hand_left_keypoints_2d": hand}
    return {"people": [one], "canvas_width": width, "canvas_height": height}


class People:
    """Everything that is measured; ``results`` by name."""

    def __init__(self, repository: Path, working: Path) -> None:
        from small_person import small_person, write_person

        self.working = working
        self.pack = load_pack(repository)
        self.results: dict[str, Any] = {}
        person = small_person()
        for part in ("reference", "denoising", "pose_guider", "vae", "embedder"):
            for parameter in getattr(person, part).parameters():
                # The host keeps image encoders in float16.
                parameter.copy_(parameter.half())
        self.path = write_person(working / "small_person.safetensors", person)
        self.nodes = self.pack("nodes.person")
        self.model, self.vae = self.loaded()
        generator = torch.Generator().manual_seed(3)
        self.picture = torch.randint(0, 256, (90, 70, 3), generator=generator).float() / 255
        self.poses = torch.randint(0, 256, (11, 40, 30, 3), generator=generator).float() / 255

    def measure(self, name: str, what: Callable[..., Any], *arguments: Any) -> None:
        """Keep what a function returns, or how it failed."""
        try:
            self.results[name] = what(*arguments)
        except Exception:
            self.results[name] = traceback.format_exc()

    def all(self) -> None:
        """Measure everything."""
        for name, choices in {
            "plain": {},
            "windows": {"frames": 11},
            "exact windows": {"frames": 11, "exact": True},
            "no guidance": {"cfg": 1.0},
            "noise": {"eta": 0.7, "noise_dtype": "float16"},
        }.items():
            self.measure(f"package {name}", self.like_the_package, choices)
        self.measure("core", self.core)
        self.measure("kinds", self.kinds)
        self.measure("dtypes", self.dtypes)
        self.measure("poses", self.posed)
        self.measure("sdpose", self.sdpose)
        self.measure("extracted", self.extracted)
        self.measure("folders", self.folders)
        self.measure("sizes", self.sizes)
        self.measure("messages", self.messages)
        self.measure("memory", self.memory)
        self.measure("flat", self.flat)
        self.measure("partial", self.partial)

    def loaded(self, weight_dtype: str = "auto") -> Any:
        """MODEL and VAE of the small model."""
        return self.pack("nodes.host.person_loading").load_person_parts(self.path, weight_dtype)

    def conditioned(self, model: Any = None, **choices: Any) -> Any:
        """Positive, negative and latent of our conditioning node; four frames unless said otherwise."""
        chosen = {"frames": 4, "width": SIZE[0], "height": SIZE[1], "window": 6, "overlap": 2, **choices}
        made = self.nodes.DynamiCrafterPersonConditioning.execute(
            model or self.model, self.vae, self.picture[None], self.poses, **chosen
        )
        return made.args

    def sampled(self, conditioned: Any, model: Any = None, **choices: Any) -> Any:
        """Latents of our sampler."""
        chosen = {"seed": 5, "steps": STEPS, "cfg": 3.5, **choices}
        return self.nodes.DynamiCrafterPersonSampler.execute(
            model or self.model, *conditioned, **chosen
        ).args[0]

    def like_the_package(self, choices: dict[str, Any]) -> dict[str, float]:
        """Differences of latents (relative) and frames (levels) to what ``dynamicrafter person`` makes."""
        from PIL import Image

        api, weights = (self.pack(f"dynamicrafter.animate_anyone.{name}") for name in ("api", "weights"))
        pipeline = self.pack("dynamicrafter.animate_anyone.pipeline")
        of_clip = {name: choices[name] for name in ("frames", "exact") if name in choices}
        of_sampler = {name: value for name, value in choices.items() if name not in of_clip}
        model = weights.load_person(self.path)
        settings = api.PersonSettings(
            width=SIZE[0],
            height=SIZE[1],
            steps=STEPS,
            seed=5,
            window=6,
            overlap=2,
            exact=of_clip.get("exact", False),
            **of_sampler,
        )

        def as_image(frame: Tensor) -> Image.Image:
            return Image.fromarray(self.nodes.as_picture(frame).pixels.numpy())

        poses = [as_image(pose) for pose in self.poses[: of_clip.get("frames", 4)]]
        kept: list[Tensor] = []

        def frames_of(model: Any, latents: Tensor, interpolate: int) -> Any:
            kept.append(latents)
            return pipeline.person_frames(model, latents, interpolate)

        api.person_frames = frames_of
        clip = api.person(model, as_image(self.picture), poses, settings)
        sampled = self.sampled(self.conditioned(**of_clip), **of_sampler)
        decode = self.pack("nodes.decode").DynamiCrafterVAEDecode
        frames = decode.execute(self.vae, sampled).args[0]
        theirs = kept[0][0].movedim(1, 0) / model.config.vae.scale_factor
        levels = ((frames * 255).byte().int() - clip.int()).abs().max().item()
        return {"latents": error(sampled["samples"], theirs), "levels": levels, "frames": len(frames)}

    def core(self) -> dict[str, float]:
        """Differences of core's KSampler (euler, simple) to our sampler without added noise, by number of steps."""
        import comfy.samplers

        found: dict[str, float] = {}
        for steps, frames in ((5, 4), (10, 11)):
            positive, negative, latent = conditioned = self.conditioned(frames=frames)
            ours = self.sampled(conditioned, steps=steps)["samples"]
            shape = latent["samples"].shape
            generator = torch.Generator().manual_seed(5)
            noise = torch.randn((1, shape[1], shape[0], *shape[2:]), generator=generator)[0].movedim(1, 0)
            theirs = comfy.samplers.KSampler(
                self.model, steps, "cpu", "euler", "simple", 1.0, model_options=self.model.model_options
            ).sample(noise, positive, negative, 3.5, latent_image=latent["samples"], disable_pbar=True)
            found[f"{steps} {frames}"] = error(theirs, ours)
        return found

    def kinds(self) -> dict[str, float]:
        """How much the clip changes without the reference, with another one, and with other poses."""
        conditioned = self.conditioned()
        usual = self.sampled(conditioned)["samples"]
        (context, options), *_ = conditioned[0]
        module = self.pack("nodes.host.person_model")
        from dataclasses import replace

        blind = replace(options[module.PERSON], features=None)
        without = self.sampled(([[context, {module.PERSON: blind}]], *conditioned[1:]))["samples"]
        kept = self.poses
        self.poses = kept.flip(0)
        posed = self.sampled(self.conditioned())["samples"]
        self.poses = kept
        return {"reference": error(without, usual), "poses": error(posed, usual)}

    def dtypes(self) -> dict[str, Any]:
        """Error of the latents with weights stored otherwise, and the dtypes that are kept."""
        usual = self.sampled(self.conditioned())["samples"]
        found: dict[str, Any] = {}
        for name in ("bfloat16", "fp8_e4m3fn", "int8"):
            model, _ = self.loaded(name)
            network = model.model.diffusion_model
            sampled = self.sampled(self.conditioned(model), model)["samples"]
            found[name] = {
                "kept": sorted({str(parameter.dtype) for parameter in network.parameters()}),
                "error": error(sampled, usual),
            }
        return found

    def posed(self) -> dict[str, Any]:
        """What the nodes of poses make of two frames with a person of half the height, and one without."""
        poses = self.pack("nodes.poses")
        drawing = self.pack("dynamicrafter.animate_anyone.drawing").draw
        align, draw = poses.DynamiCrafterPoseAlignment.execute, poses.DynamiCrafterPoseDrawing.execute
        frames = [
            figure(200, 100, 0.5, 0.25),
            {**figure(200, 100), "people": []},
            figure(200, 100, 0.5, 0.35),
        ]
        person = poses.people_of(frames, "poses")[0]
        drawn = draw(frames, True, True, 64, 96).args[0]
        kept = poses.DynamiCrafterPoseDrawing.execute(self.poses).args[0]
        aligned, preview = align(frames, [figure(60, 90, 1.0, 0.5)], image=self.picture[None]).args
        by_hand, _ = align(frames, scale=2.0, shift_x=0.1, shift_y=-0.05, fill=0).args
        smoothed, _ = align(frames, smooth=3).args

        def joints(frame: dict[str, Any]) -> Any:
            return torch.tensor(frame["people"][0]["pose_keypoints_2d"]).view(-1, 3)[[1, 8, 11], :2].tolist()

        wanted = torch.from_numpy(drawing(person, 96, 64)).float() / 255
        return {
            "drawn": error(drawn[0], wanted),
            "size": list(draw(frames).args[0].shape),
            "hands": (draw(frames, False, False, 64, 96).args[0] != drawn).any().item(),
            "images": torch.equal(kept, self.poses),
            "resized": list(draw(self.poses, width=64, height=96).args[0].shape),
            "aligned": joints(aligned[0]),
            "reference": joints(figure(60, 90, 1.0, 0.5)),
            "canvas": [aligned[0]["canvas_width"], aligned[0]["canvas_height"]],
            "filled": [len(frame["people"]) for frame in aligned],
            "unfilled": [len(frame["people"]) for frame in by_hand],
            "before": joints(frames[0]),
            "by hand": joints(by_hand[0]),
            "smoothed": joints(smoothed[1]),
            "preview": list(preview.shape),
            "below": preview[:, 0, 0].tolist(),
        }

    def sdpose(self) -> dict[str, Any]:
        """Difference of what is drawn of core's keypoints to what the package draws of the same points."""
        import importlib.util

        if importlib.util.find_spec("comfy_extras.nodes_sdpose") is None:
            return {"lacking": "comfy_extras.nodes_sdpose"}
        import numpy as np
        from comfy_extras import nodes_sdpose

        random = np.random.default_rng(4)
        points = random.uniform(20, 480, (2, 133, 2)).astype(np.float32)
        scores = random.uniform(0.35, 1.0, (2, 133)).astype(np.float32)
        # A few that were not found, of the second, who is less certain.
        scores[1] *= 0.5
        points[0, :3], scores[0, :3] = -1, 0
        frames = nodes_sdpose._to_openpose_frames([points], [scores], 512, 500)
        person = self.pack("dynamicrafter.animate_anyone.keypoints").person_of_coco(
            points.tolist(), scores.tolist(), 500, 512
        )
        wanted = self.pack("dynamicrafter.animate_anyone.drawing").draw(person, 512, 512)
        drawn = self.pack("nodes.poses").DynamiCrafterPoseDrawing.execute(frames).args[0][0]
        share = (drawn - torch.from_numpy(wanted).float() / 255).abs().amax(-1).gt(1e-3).float().mean()
        return {"differing": share.item(), "lit": float((wanted > 0).any(-1).mean())}

    def extracted(self) -> dict[str, Any]:
        """What core's extractor outputs of a known person, aligned to the person's first pose.

        Of its networks only the last result is put in their place: points on its input of 768x1024 pixels, and scores.
        The person is smaller and elsewhere, in a frame of another shape; one wrist is not found in one frame.
        """
        import importlib.util
        import json
        from types import SimpleNamespace
        from unittest.mock import patch

        if importlib.util.find_spec("comfy_extras.nodes_sdpose") is None:
            return {"lacking": "comfy_extras.nodes_sdpose"}
        import comfy.sample
        import numpy as np
        from comfy_extras import nodes_sdpose

        path = self.pack("nodes.sample_picture").FOLDER / "walking.json"
        walking = json.loads(path.read_text(encoding="utf-8"))[:6]
        bodies = np.array([frame["people"][0]["pose_keypoints_2d"] for frame in walking]).reshape(6, 18, 3)
        # COCO's 17 joints among OpenPose's 18, whose neck core puts between the shoulders.
        coco = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
        bodies[:, 1] = bodies[:, [2, 5]].mean(axis=1)
        width, height = 320, 240
        points, scores = np.full((6, 133, 2), -1, np.float32), np.zeros((6, 133), np.float32)
        points[:, :17] = (bodies[:, coco, :2] * 0.9 + [100, 20]) * [768 / width, 1024 / height]
        scores[:, :17] = 0.8
        # Of the face and the hands it is unsure.
        points[:, 23:], scores[:, 23:] = points[:, :1], 0.1
        points[2, 10], scores[2, 10] = -1, 0
        ends = [0]

        def head(_: Any) -> tuple[Any, Any]:
            of_batch = slice(*ends[-2:])
            return points[of_batch], scores[of_batch]

        def sample(*_: Any, latent_image: Tensor, **__: Any) -> None:
            ends.append(ends[-1] + len(latent_image))

        head.heatmap_size = (192, 256)
        model = SimpleNamespace(
            model=SimpleNamespace(diffusion_model=SimpleNamespace(heatmap_head=head)), model_options={}
        )
        model.clone = lambda: model
        vae = SimpleNamespace(encode=lambda images: images)
        with patch.object(comfy.sample, "sample", sample):
            frames = nodes_sdpose.SDPoseKeypointExtractor.execute(
                model, vae, torch.zeros(6, height, width, 3), batch_size=4
            ).args[0]
        poses = self.pack("nodes.poses")
        reference = {**walking[0], "people": [{"pose_keypoints_2d": bodies[0].reshape(-1).tolist()}]}
        aligned = poses.DynamiCrafterPoseAlignment.execute(frames, reference=[reference]).args[0]
        made = np.array([frame["people"][0]["pose_keypoints_2d"] for frame in aligned]).reshape(6, 18, 3)
        drawn = poses.DynamiCrafterPoseDrawing.execute(aligned, hands=False, face=False).args[0]
        return {
            "form": {name: type(value).__name__ for name, value in frames[0].items()},
            "person": {name: len(values) for name, values in frames[0]["people"][0].items()},
            "absent": frames[2]["people"][0]["pose_keypoints_2d"][12:15],
            "canvas": [aligned[0]["canvas_width"], aligned[0]["canvas_height"]],
            "apart": float(np.delete(np.abs(made - bodies)[..., :2], 4, axis=1).max()),
            "filled": float(np.abs(made - bodies)[2, 4, :2].max()),
            "hands": float(max(aligned[0]["people"][0]["hand_left_keypoints_2d"], default=0)),
            "size": list(drawn.shape),
            "lit": float(drawn.amax(-1).gt(0).float().mean()),
        }

    def folders(self) -> dict[str, Any]:
        """What is listed of a folder with the original's files, and of one file; built-in models only if they exist."""
        import folder_paths

        self.pack("nodes.host.files").register_folders()
        files = self.pack("nodes.host.person_files")
        root = self.working / "checkpoints"
        (root / "anyone").mkdir(parents=True)
        for name in ("denoising_unet.pth", "pose_guider.pth"):
            (root / "anyone" / name).write_bytes(b"")
        (root / "a.safetensors").write_bytes(b"")
        (root / "my_person.safetensors").write_bytes(b"")
        folder_paths.folder_names_and_paths["checkpoints"] = ([str(root)], {".pth", ".safetensors"})
        folder_paths.filename_list_cache.clear()
        listed = files.list_people()
        before = files.fingerprint_person("anyone/")
        (root / "anyone" / "pose_guider.pth").write_bytes(b"more")
        said: dict[str, str] = {}
        for name in ("gone/", "gone.safetensors"):
            try:
                files.person_path(name)
            except FileNotFoundError as problem:
                said[name] = str(problem)
        return {
            "listed": listed,
            "with built-in": files.list_people()[:2],
            "place": files.person_path("anyone/") == root / "anyone",
            "changed": files.fingerprint_person("anyone/") != before,
            "gone": said,
        }

    def sizes(self) -> dict[str, Any]:
        """Sizes of clips by the sides that are set and those of the image, and which ends of ranges are accepted."""
        choices = self.pack("nodes.person_choices")
        asked = ((0, 0, 768, 1152), (0, 0, 70, 90), (256, 0, 100, 150), (0, 320, 100, 150), (64, 72, 9, 9))
        accepted: dict[str, list[bool]] = {}
        for name, found in choices.RANGES.items():
            preset = self.pack("dynamicrafter.animate_anyone.config").PersonPreset()
            kind = type(getattr(choices.clip_settings(preset), name))
            accepted[name] = []
            own = choices.OWN.get(name)
            below = found.low - (2 if found.low - 1 == own else 1)
            for value in (found.low, found.high, below, found.high + 1):
                rest = {"window": 32} if name == "overlap" else {"overlap": 0} if name == "window" else {}
                try:
                    choices.clip_settings(preset, **{name: kind(value)}, **rest)
                    accepted[name].append(True)
                except ValueError:
                    accepted[name].append(False)
        return {"sizes": [choices.clip_size(*one, preset) for one in asked], "accepted": accepted}

    def messages(self) -> dict[str, str]:
        """What is said about inputs that do not fit."""
        positive, negative, latent = conditioned = self.conditioned()
        other = {"samples": torch.zeros(3, 4, 12, 8)}
        plain = [[torch.zeros(1, 1, 16), {}]]
        masked = {**latent, "noise_mask": torch.ones(1)}
        windowed = self.model.clone()
        windowed.model_options["context_handler"] = object()
        foreign = type("Model", (), {"model": torch.nn.Identity()})()
        calls: dict[str, Callable[[], Any]] = {
            "size": lambda: self.sampled((positive, negative, other)),
            "video": lambda: self.sampled((positive, negative, {"samples": torch.zeros(1, 16, 5, 8, 8)})),
            "no person": lambda: self.sampled((plain, negative, latent)),
            "no negative": lambda: self.sampled((positive, plain, latent)),
            "mask": lambda: self.sampled((positive, negative, masked)),
            "windows": lambda: self.sampled(conditioned, windowed),
            "model": lambda: self.sampled(conditioned, foreign),
            "frames": lambda: self.conditioned(frames=12),
            "batch": lambda: self.nodes.DynamiCrafterPersonConditioning.execute(
                self.model, self.vae, self.poses, self.poses
            ),
        }
        poses = self.pack("nodes.poses")
        draw, align = poses.DynamiCrafterPoseDrawing.execute, poses.DynamiCrafterPoseAlignment.execute
        frames = [figure(200, 100)]
        bare = [{"people": [{"pose_keypoints_2d": [0.5, 0.5, 1.0] * 18}]}]
        head = figure(200, 100)
        head["people"][0]["pose_keypoints_2d"][3:] = [0.0] * 51
        calls |= {
            "one side": lambda: draw(frames, width=64),
            "no canvas": lambda: draw(bare),
            "nobody": lambda: draw([{**figure(200, 100), "people": []}]),
            "even": lambda: align(frames, smooth=2),
            "no limb": lambda: align(frames, [head]),
            "overlap": lambda: self.nodes.DynamiCrafterPersonConditioning.check_lazy_status(
                window=8, overlap=8
            ),
            "width": lambda: self.nodes.DynamiCrafterPersonConditioning.check_lazy_status(width=65),
            "steps": lambda: self.nodes.DynamiCrafterPersonSampler.check_lazy_status(steps=1001),
            "long": lambda: poses.people_of(frames * 2001, "poses"),
        }
        said: dict[str, str] = {}
        for name, call in calls.items():
            try:
                call()
            except ValueError as problem:
                said[name] = str(problem)
        return said

    def memory(self) -> dict[str, float]:
        """What the host is asked for, by frames."""
        needed = self.model.model.memory_required
        return {str(frames): needed((frames, 4, 96, 64)) for frames in (24, 32, 240)}

    def flat(self) -> dict[str, int]:
        """Peak bytes on the device of one evaluation, by frames, in windows of four; latents and outputs aside."""
        import comfy.model_management
        from live_bytes import count

        module = self.pack("nodes.host.person_model")
        plan = self.pack("dynamicrafter.diffusion.windows").plain_windows
        model, _ = self.loaded()
        network = model.model.diffusion_model.to(FAR)
        found: dict[str, int] = {}

        def plenty(_: Any = None, torch_free_too: bool = False) -> Any:
            return (PLENTY, PLENTY) if torch_free_too else PLENTY

        for frames in (4, 40):
            x = torch.zeros(frames, 4, 12, 8, device=FAR)
            context = torch.zeros(frames, 1, 16, device=FAR)
            poses = torch.zeros(frames, 3, 96, 64, dtype=torch.uint8)
            clip = module.PersonClip(None, poses, tuple(plan(frames, 4, 1)))
            with put(comfy.model_management, "get_free_memory", plenty):
                seen = count(lambda x=x, c=context, p=clip: network(x, x[:, 0, 0, 0], c, clip=p))
            found[str(frames)] = seen.peak - 2 * x.nbytes
        return found

    def partial(self) -> dict[str, Any]:
        """Both networks with a part of their weights on the far device: what stayed behind, and where results are."""
        import comfy.model_management

        module = self.pack("nodes.host.person_model")
        windows = self.pack("dynamicrafter.diffusion.windows").plain_windows(7, 4, 1)
        model, _ = self.loaded()
        reference = model.get_attachment("dynamicrafter_person_parts").reference

        def far(*shape: int) -> Tensor:
            return torch.zeros(shape, device=FAR)

        def see() -> dict[str, Tensor]:
            return reference.model(far(1, 4, 12, 8), far(1, 1, 16))

        def denoise() -> Tensor:
            clip = module.PersonClip(see(), torch.zeros(7, 3, 96, 64, dtype=torch.uint8), tuple(windows))
            return model.model.diffusion_model(far(7, 4, 12, 8), far(7), far(7, 1, 16), clip=clip)

        found: dict[str, Any] = {}
        for patcher in (reference, model):
            patcher.load_device = FAR
            patcher.load(FAR, lowvram_model_memory=0.8 * patcher.model_size())
        for name, patcher in (("reference", reference), ("denoising", model)):
            places = [parameter.device.type for parameter in patcher.model.parameters()]
            found[name] = [places.count("cpu"), places.count(FAR.type)]

        def plenty(_: Any = None, torch_free_too: bool = False) -> Any:
            return (PLENTY, PLENTY) if torch_free_too else PLENTY

        with put(comfy.model_management, "get_free_memory", plenty), OneDevice():
            found["device"] = denoise().device.type
        return found


if __name__ == "__main__":
    repository, working = Path(sys.argv[1]), Path(sys.argv[2])
    sys.argv = [sys.argv[0], "--cpu"]
    # Last, since both the host and the repository have modules called nodes.
    sys.path += [str(repository / name) for name in ("", "tests/animate_anyone", "benchmarks")]
    torch.set_num_threads(1)
    with torch.inference_mode():
        people = People(repository, working)
        people.all()
    (working / "people.json").write_text(json.dumps(people.results), encoding="utf-8")
