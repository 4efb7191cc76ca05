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
from probed_host import error, load_pack
from torch import Tensor

SIZE = (64, 96)
"""Width and height of the clips."""
STEPS = 5
"""A divisor of 1000, so that each step of the original ends where the next begins."""


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
        self.measure("messages", self.messages)
        self.measure("memory", self.memory)

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
        as_image = self.nodes.as_image
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
        poses: list[Image.Image] = [as_image(pose) for pose in self.poses[: of_clip.get("frames", 4)]]
        kept: list[Tensor] = []

        def frames_of(model: Any, latents: Tensor) -> Any:
            kept.append(latents)
            return pipeline.person_frames(model, latents)

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
        for steps, frames in ((5, 4), (10, 4), (25, 4), (10, 11)):
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

    def messages(self) -> dict[str, str]:
        """What is said about inputs that do not fit."""
        positive, negative, latent = conditioned = self.conditioned()
        other = {"samples": torch.zeros(3, 4, 12, 8)}
        plain = [[torch.zeros(1, 1, 16), {}]]
        masked = {**latent, "noise_mask": torch.ones(1)}
        windowed = self.model.clone()
        windowed.model_options["context_handler"] = object()
        foreign = type("Model", (), {"model": torch.nn.Identity()})()
        patched = self.loaded("int8")[0]
        name = "diffusion_model.conv_in.weight"
        patched.add_patches({name: ("diff", (torch.ones(patched.model.get_parameter(name).shape),))})
        calls: dict[str, Callable[[], Any]] = {
            "size": lambda: self.sampled((positive, negative, other)),
            "no person": lambda: self.sampled((plain, negative, latent)),
            "no negative": lambda: self.sampled((positive, plain, latent)),
            "mask": lambda: self.sampled((positive, negative, masked)),
            "windows": lambda: self.sampled(conditioned, windowed),
            "model": lambda: self.sampled(conditioned, foreign),
            "lora": lambda: self.sampled(conditioned, patched),
            "frames": lambda: self.conditioned(frames=12),
            "batch": lambda: self.nodes.DynamiCrafterPersonConditioning.execute(
                self.model, self.vae, self.poses, self.poses
            ),
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


if __name__ == "__main__":
    repository, working = Path(sys.argv[1]), Path(sys.argv[2])
    sys.argv = [sys.argv[0], "--cpu"]
    # Last, since both the host and the repository have modules called nodes.
    sys.path += [str(repository), str(repository / "tests" / "animate_anyone")]
    torch.set_num_threads(1)
    with torch.inference_mode():
        people = People(repository, working)
        people.all()
    (working / "people.json").write_text(json.dumps(people.results), encoding="utf-8")
