"""Numbers of the pack's functions inside a real host, for test_pack_numbers.py; run as a script of its own.

The host's modules have short names, parse the command line and warn, so they stay out of the test process.
Usage: ``python numbers_in_host.py REPOSITORY WORKING_FOLDER GROUP...``; writes ``found.json`` into the working folder:
by name what was measured, or the traceback where that failed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from probed_host import error, load_pack
from torch import Tensor

EULER_STEPS = (5, 50)
MODES = ("animate", "interpolate", "loop")
EXTRAS: dict[str, dict[str, Any]] = {
    "heun": {"sampler": "heun"},
    "unipc": {"sampler": "unipc"},
    "dpmpp_2m_sde": {"sampler": "dpmpp_2m_sde"},
    "interval": {"guidance_start": 0.4, "guidance_end": 0.7},
}
"""Choices that the node and the package must take alike."""
LENGTHS: dict[str, dict[str, Any]] = {
    "continue": {
        "frames": 17,
        "prompt": "a boat | 4: a storm",
        "length": {"length_method": "continue", "overlap": 2, "reanchor": 1, "colour_match": 0.5},
    },
    "windows": {
        "frames": 20,
        "prompt": "a boat | a storm",
        "length": {"length_method": "windows", "overlap": 3},
    },
    "loop": {"frames": 21, "loop": True, "length": {"length_method": "windows"}},
    "pick": {"frames": 3, "length": {"length_method": "pick", "lock_frames": 2}},
    "keyframes": {
        "durations": "3,2",
        "prompt": "a boat | a storm",
        "cut_still": 1,
        "length": {"lock_frames": 1, "colour_match": 1.0},
    },
    "source": {"frames": 3, "techniques": {"denoise": 0.67}},
}
"""Clips that DynamiCrafter Generate and the package must make alike: the node's inputs."""
SETTINGS = {"frames": 4, "steps": 3, "seed": 5, "cfg": 3.0}


class Numbers:
    """Everything that is measured; ``results`` by name."""

    def __init__(self, repository: Path, working: Path) -> None:
        self.repository = repository
        self.working = working
        self.pack = load_pack(repository)
        self.results: dict[str, Any] = {}

    def measure(self, name: str, what: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Keep what a function returns, or how it failed."""
        began = time.monotonic()
        try:
            self.results[name] = what(*arguments, **named)
        except Exception:
            self.results[name] = traceback.format_exc()
        sys.stdout.write(f"{name}: {time.monotonic() - began:.1f} s\n")

    def sampling(self) -> None:
        """The noise process as core's samplers see it."""
        for base in (("v", True, 0.7), ("v", True, 0.3), ("eps", False, None)):
            name = f"{base[0]} {base[2]}"
            self.measure(f"timesteps {name}", self.simple_scheduler, *base)
            self.measure(f"euler {name}", self.euler, *base)

    def clips(self) -> None:
        """Clips of the graph against those of the package and of the original."""
        for mode in (*MODES, "two scales", "no guidance", *EXTRAS):
            self.measure(f"command {mode}", self.like_the_package, mode)
        for sidecar in sorted((self.repository / "tests" / "parity" / "golden").glob("e2e_*.json")):
            if sidecar.stem not in ("e2e_clip", "e2e_parts"):
                self.measure(f"golden {sidecar.stem}", self.golden, sidecar)

    def lengths(self) -> None:
        """Clips of DynamiCrafter Generate against those of the package, and core's windows against the same by hand."""
        self.measure("core windows", self.core_windows)
        for name, chosen in LENGTHS.items():
            self.measure(name, self.generated, name, **chosen)

    def borders(self) -> None:
        """What nodes say to objects of the host that no small file gives, and which frames a preview shows."""
        self.measure("foreign objects", self.foreign_objects)
        self.measure("not finite", self.not_finite)
        self.measure("overflow", self.overflow)
        self.measure("previews", self.previews)

    def exports(self) -> None:
        """The network in OpenVINO."""
        self.measure("exported", self.exported)

    def exported(self) -> dict[str, Any]:
        """Latents of our sampler and of core's on a checkpoint's network and on its export; how a LoRA is refused."""
        import comfy.samplers

        path, parts = self.small()
        self.pack("dynamicrafter.api").export_model(path)
        names = self.pack("dynamicrafter.api").exported_files()
        other = self.pack("nodes.host.loading").load_checkpoint(path, None, "auto", exported=True)
        picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
        outs: list[Tensor] = []
        for model in (parts.model, other.model):
            used = replace(parts, model=model)
            positive, negative, _, latent = self.encode(used, "animate", [picture], frames=2, prompt="a boat")
            sampled = self.pack("nodes.host.sampler").sample_exactly(
                model,
                {"full": positive, "unconditional": negative},
                latent["samples"],
                self.settings(model.model.variant, steps=2, cfg=3.0, guidance_rescale=0.7, eta=0.0, seed=1),
            )
            core = comfy.samplers.KSampler(
                model, 2, "cpu", "euler", "simple", 1.0, model_options=model.model_options
            )
            noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(2))
            outs += [
                sampled,
                core.sample(noise, positive, negative, 2.0, latent_image=latent["samples"], seed=1),
            ]
        try:
            other.model.clone().add_patches({}, 1.0)
            refused = ""
        except ValueError as problem:
            refused = str(problem)
        return {
            "listed": path.name in names,
            "exact": error(outs[2], outs[0]),
            "core": error(outs[3], outs[1]),
            "refused": refused,
        }

    def settings(self, variant: Any, **chosen: Any) -> Any:
        """Settings of a clip of which those of sampling apply."""
        make = self.pack("dynamicrafter.settings").make_settings
        return make(variant, variant.modes[0], **{"spacing": "uniform_trailing", "frames": 2, **chosen})

    def compilation(self) -> None:
        """The network compiled."""
        self.measure("compiled", self.compiled)

    # --- checkpoints ---

    def small(self, prediction: str = "v", zero_snr: bool = True, base_scale: float | None = 0.7) -> Any:
        """A small random checkpoint of a noise process, loaded into the host; its weights are exact in float16."""
        variants = self.pack("dynamicrafter.model.variants")
        diffusion = variants.DiffusionConfig(prediction, zero_snr, base_scale)
        path = self.working / f"{prediction}_{base_scale}.safetensors"
        if not path.exists():
            write = self.pack("dynamicrafter.weights.random_model").write_random_checkpoint
            write(path, replace(variants.SMALL, diffusion=diffusion), dtype=torch.float16)
        return path, self.pack("nodes.host.loading").load_checkpoint(path, None, "auto")

    def encode(self, parts: Any, mode: str, pictures: list[Tensor], **choices: Any) -> Any:
        """Positive, negative, image-only and latent of our conditioning nodes."""
        chosen = {"frames": 4, "motion": -1.0, "width": 0, "height": 0, "fit": "crop", **choices}
        last = pictures[1] if mode == "interpolate" else None
        encode = self.pack("nodes.encode").encode
        made, _ = encode(
            mode, parts.model, parts.vae, parts.clip_vision, pictures[0], last, clip=parts.clip, **chosen
        )
        return made

    # --- core's Euler against our DDIM ---

    def schedule(self, *base: Any) -> Any:
        variants, schedule = (
            self.pack("dynamicrafter.model.variants"),
            self.pack("dynamicrafter.diffusion.schedule"),
        )
        return schedule, schedule.make_schedule(variants.DiffusionConfig(*base))

    def simple_scheduler(self, *base: Any) -> dict[int, bool]:
        """Whether core's "simple" visits exactly the trailing timesteps, by number of steps."""
        import comfy.samplers

        module, schedule = self.schedule(*base)
        sampling = self.pack("nodes.host.sampling").RescaledSampling(schedule)
        same: dict[int, bool] = {}
        for steps in (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100):
            sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
            visited = [int(t) for t in sampling.timestep(sigmas[:-1])]
            same[steps] = (
                visited[::-1] == module.timesteps("uniform_trailing", steps) and float(sigmas[-1]) == 0
            )
        return same

    def euler(self, *base: Any) -> dict[int, float]:
        """Difference of core's Euler to our sampler at eta 0 on the same network, by number of steps."""
        import comfy.k_diffusion.sampling
        import comfy.samplers

        sampler = self.pack("nodes.host.sampler")
        module, schedule = self.schedule(*base)
        _, parts = self.small(*base)
        picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
        positive, _, _, latent = self.encode(parts, "animate", [picture], frames=2, prompt="a boat")
        abar = schedule.alphas_cumprod.double()
        found: dict[int, float] = {}
        for steps in EULER_STEPS:
            chosen = module.timesteps("uniform_trailing", steps)
            ours = sampler.sample_exactly(
                parts.model,
                {"full": positive},
                latent["samples"],
                self.settings(parts.model.model.variant, steps=steps, cfg=1.0, eta=0.0, seed=steps),
            )
            generator = torch.Generator().manual_seed(steps)
            sampler.posterior_noise(generator, sampler.keyframes_of(positive))
            noise = torch.randn(4, 2, 8, 8, generator=generator).movedim(0, 1)
            # Our sampler ends at abar[0] with the rescale of the lowest timestep, core's schedulers at no noise.
            scale = 1.0 if schedule.scale is None else schedule.scale[chosen[0]].double()
            end = (1 - abar[0]).sqrt() / (abar[0].sqrt() * scale)
            levels = parts.model.get_model_object("model_sampling").sigmas[chosen[::-1]]
            guider = comfy.samplers.CFGGuider(parts.model)
            guider.set_conds(positive, positive)
            theirs = guider.sample(
                noise,
                torch.zeros_like(noise),
                comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_euler),
                torch.cat([levels, end.float()[None]]),
                disable_pbar=True,
                seed=steps,
            )
            found[steps] = error(theirs * (abar[0].sqrt() * scale), ours)
        return found

    # --- the graph against the command ---

    def like_the_package(self, mode: str) -> dict[str, float]:
        """Differences of latents (relative) and frames (levels) to what ``dynamicrafter`` makes."""
        api, sampler = self.pack("dynamicrafter.api"), self.pack("nodes.sampler").DynamiCrafterSampler
        path, parts = self.small()
        pictures = [self.repository / "pictures" / name for name in ("hill_day.png", "hill_dusk.png")]
        opened = [
            self.pack("dynamicrafter.media.pictures").as_picture(picture).pixels / 255 for picture in pictures
        ]
        kind = mode if mode in MODES else "animate"
        settings = {**SETTINGS, "cfg": 1.0} if mode == "no guidance" else SETTINGS
        scale = {"image_cfg": 1.5} if mode == "two scales" else EXTRAS.get(mode, {})

        steps: list[Any] = []
        model = api.load(path, device="cpu")
        words = "a boat on the sea"
        make, needed = getattr(api, kind), 2 if kind == "interpolate" else 1
        clip = make(
            model, *pictures[:needed], words, callback=steps.append, negative="fog", **settings, **scale
        )
        theirs = steps[-1].x[0].movedim(0, 1) / model.variant.vae.scale_factor

        made = self.encode(
            parts, kind, opened, prompt=words, negative_prompt="fog", frames=settings["frames"]
        )
        positive, negative, image_only, latent = made
        chosen = {**{name: settings[name] for name in ("steps", "seed", "cfg")}, **scale}
        if mode == "two scales":
            chosen["image_only"] = image_only
        sampled = sampler.execute(parts.model, positive, negative, latent, **chosen)[0]
        decode = self.pack("nodes.decode").DynamiCrafterVAEDecode
        frames = decode.execute(parts.vae, sampled)[0]
        kept = theirs[:-1] if kind == "loop" else theirs
        # Cut off to whole levels, as core's Save Image does.
        levels = ((frames * 255).byte().int() - clip.frames.int()).abs().max().item()
        return {"latents": error(sampled["samples"], kept), "levels": levels, "frames": len(frames)}

    def core_windows(self) -> dict[str, float]:
        """Errors of our sampler with core's Context Windows, to the package's with the same windows by hand."""
        import comfy.context_windows as core
        import comfy.samplers

        pipeline = self.pack("dynamicrafter.pipeline")
        windows = self.pack("dynamicrafter.diffusion.windows")
        context = self.pack("dynamicrafter.model.protocols").Context
        path, parts = self.small()
        picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
        made = self.encode(parts, "animate", [picture], frames=20, prompt="a boat")
        branches = {"full": made[0], "unconditional": made[1]}
        settings = self.settings(parts.model.model.variant, steps=2, cfg=3.0, frames=20, seed=5)
        weights = (*range(1, 9), *range(8, 0, -1))

        def by_hand(network: Any) -> Any:
            def evaluate(x: Tensor, timesteps: Tensor, given: Any, fs: Tensor) -> Tensor:
                blend = windows.Blend(x[:, :4])
                for start in (0, 4):
                    window = windows.Window(tuple(range(start, start + 16)), weights)
                    part = network(
                        x[:, :, list(window.frames)], timesteps, context(given.text, given.image), fs
                    )
                    blend.add(window, part)
                return blend.mean()

            return evaluate

        model = self.pack("dynamicrafter.api").load(path, device="cpu")
        fitted = self.pack("nodes.encode").fitted([picture], settings)
        chosen = replace(settings, prompt="a boat")
        generators = pipeline.make_generators(model, [chosen])
        conditioning = pipeline.encode(model, pipeline.KeyPictures(fitted), [chosen], generators)
        theirs = pipeline.sample(model, conditioning, chosen, generators, network_wrappers=[by_hand])
        wanted = theirs[0].movedim(0, 1) / model.variant.vae.scale_factor

        def windowed(length: int, schedule: str, anchored: bool) -> Any:
            handler = core.IndexListContextHandler(
                core.get_matching_context_schedule(schedule),
                core.get_matching_fuse_method("pyramid"),
                context_length=length,
                context_overlap=4,
                context_stride=1,
                dim=0,
            )
            handler.causal_window_fix = anchored
            patched = parts.model.clone()
            patched.model_options["context_handler"] = handler
            return patched

        sample = self.pack("nodes.host.sampler").sample_exactly
        ours = {
            anchored: sample(
                windowed(16, "standard_static", anchored), branches, made[3]["samples"], settings
            )
            for anchored in (False, True)
        }
        whole = sample(parts.model, branches, made[3]["samples"], settings)
        same = sample(windowed(20, "standard_static", True), branches, made[3]["samples"], settings)
        shifted = windowed(16, "looped_uniform", True)
        sample(shifted, branches, made[3]["samples"], settings)
        noise = torch.randn(made[3]["samples"].shape, generator=torch.Generator().manual_seed(2))
        core_outs = [
            comfy.samplers.KSampler(
                used, 2, "cpu", "euler", "simple", 1.0, model_options=used.model_options
            ).sample(noise, made[0], made[1], 2.0, latent_image=made[3]["samples"], seed=1)
            for used in (windowed(16, "standard_static", anchored) for anchored in (False, True))
        ]
        return {
            "by hand": error(ours[False], wanted),
            "anchored": error(ours[True], wanted),
            "one window": error(same, whole),
            "differs": error(whole, wanted),
            "steps": shifted.model_options["context_handler"]._step,
            "core sampler": error(*core_outs),
        }

    def generated(
        self,
        name: str,
        *,
        prompt: str = "a boat",
        loop: bool = False,
        durations: str = "",
        length: dict[str, Any] | None = None,
        techniques: dict[str, Any] | None = None,
        **choices: Any,
    ) -> dict[str, float]:
        """Differences of frames, in levels, to what ``dynamicrafter`` makes."""
        api = self.pack("dynamicrafter.api")
        path, parts = self.small()
        read = self.pack("dynamicrafter.media.pictures").as_picture
        opened = [
            read(self.repository / "pictures" / f"{picture}.png").pixels / 255
            for picture in ("hill_day", "hill_dusk", "hill_day")
        ]
        choices = {"steps": 2, "seed": 5, "cfg": 3.0, **choices}
        given = {**choices, **(length or {}), **(techniques or {})}
        images: dict[str, Any] = {"image": opened[0][None]}
        sources: dict[str, Any] = {}
        model = api.load(path, device="cpu")
        if name == "source":
            noise = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1))
            mask = torch.zeros(opened[0].shape[:2])
            mask[:, ::3] = 1
            sources = {"source": (noise * 255).round() / 255, "mask": mask[None]}
            given |= {"video": (noise * 255).round().byte(), "mask": mask}
        if name == "keyframes":
            images = {"keyframes": torch.stack(opened)}
            gaps = [int(part) for part in durations.split(",")]
            keys = [sum(gaps[:count]) for count in range(3)]
            clip = api.keyframes(
                model, opened, prompt, keys=",".join(map(str, keys)), frames=keys[-1] + 1, **given
            )
        else:
            clip = (api.loop if loop else api.animate)(model, opened[0], prompt, **given)
        generate = self.pack("nodes.generate").DynamiCrafterGenerate
        extra = {"durations": durations} if durations else {}
        frames, _ = generate.execute(
            parts.model,
            parts.clip,
            parts.clip_vision,
            parts.vae,
            prompt=prompt,
            loop=loop,
            length=length,
            techniques=techniques,
            preview=False,
            **images,
            **sources,
            **extra,
            **choices,
        ).args
        levels = ((frames * 255).byte().int() - clip.frames.int()).abs()
        return {
            "levels": levels.max().item(),
            "frames": len(frames),
            "differing": levels.gt(0).float().mean().item(),
        }

    # --- goldens ---

    def golden(self, sidecar: Path) -> dict[str, float]:
        """Errors of latents and frames of a whole pipeline of the original, in the nodes' functions."""
        cases, golden = importlib.import_module("cases"), importlib.import_module("golden")
        case = golden.read_golden(sidecar)
        model = cases.pipeline_model(case)
        parts = self.pack("nodes.host.loading").load_checkpoint(self.golden_file(case, model), None, "auto")
        info, t = case.info, case.tensors
        mode = {"i2v": "animate", "interp": "interpolate", "loop": "loop"}[info["mode"]]
        pictures = [t[name] / 255 for name in ("picture1_u8", "picture2_u8") if name in t]
        positive, negative, image_only, latent = self.encode(
            parts,
            mode,
            pictures,
            frames=info["frames"],
            fs=info["fs"],
            prompt=info["prompt"],
            width=64,
            height=64,
        )
        image_cfg = (info.get("cfg_img") or info["cfg"]) if info.get("multiple_cond_cfg") else None
        branches = {"full": positive, "unconditional": negative}
        if image_cfg is not None:
            branches["image_only"] = image_only
        settings = self.settings(
            parts.model.model.variant,
            steps=info["steps"],
            cfg=info["cfg"],
            image_cfg=image_cfg,
            guidance_rescale=info["guidance_rescale"],
            spacing=info["timestep_spacing"],
            eta=info["eta"],
            seed=info["torch_seed"],
        )
        sampled = self.pack("nodes.host.sampler").sample_exactly(
            parts.model, branches, latent["samples"], settings
        )
        frames = self.pack("nodes.host.vae").decode_frames(parts.vae, sampled, None, 0)
        wanted = (t["video"][0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) / 2
        scale = model.variant.vae.scale_factor
        return {
            "latents": error(sampled * scale, t["final_latent"][0].movedim(0, 1)),
            "frames": error(frames, wanted),
        }

    def golden_file(self, case: Any, model: Any) -> Path:
        """The weights of a golden as a checkpoint that says what it is."""
        checkpoint, networks = (
            self.pack("dynamicrafter.weights.detect"),
            self.pack("dynamicrafter.weights.layout"),
        )
        files = self.pack("dynamicrafter.weights.formats.safetensors_file")
        entries = self.pack("dynamicrafter.weights.formats.entries")
        path = self.working / f"{case.name}.safetensors"
        variant = replace(model.variant, modes=("animate", "interpolate", "loop"))
        tensors = {
            networks.PREFIXES[part] + name: tensor.half()
            for part in ("unet", "vae", "resampler", "text", "vision")
            for name, tensor in getattr(model, part).state_dict().items()
        }
        listed = {name: entries.Entry(tuple(t.shape), t.dtype) for name, t in tensors.items()}
        pieces = [entries.Piece(name, 0, tensor.flatten()) for name, tensor in tensors.items()]
        files.write_safetensors(path, listed, pieces, checkpoint.variant_metadata(variant))
        return path

    # --- borders ---

    def foreign_objects(self) -> dict[str, str]:
        """The messages about a model, an image encoder and an autoencoder of other kinds."""
        import comfy.clip_vision

        sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
        shape = {
            "image_size": 8,
            "patch_size": 4,
            "num_channels": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        }
        siglip = comfy.clip_vision.ClipVisionModel({"model_type": "siglip_vision_model", **sizes, **shape})
        encode = self.pack("nodes.encode")
        towers, vae = self.pack("nodes.host.towers"), self.pack("nodes.host.vae")
        variant = self.pack("dynamicrafter.model.variants").SMALL
        calls: dict[str, Callable[[], Any]] = {
            "model": lambda: encode.variant_of(SimpleNamespace(model=torch.nn.Identity())),
            "siglip": lambda: towers.check_vision(siglip, variant),
            "no image encoder": lambda: towers.check_vision(None, variant),
            "no vae": lambda: vae.check_vae(None),
            "vae": lambda: vae.check_vae(SimpleNamespace(latent_channels=16, latent_dim=3)),
        }
        return {name: self.complaint(call) for name, call in calls.items()}

    def not_finite(self) -> dict[str, str]:
        """What a network and a VAE with a damaged weight, and latents that are lost already, are told as."""
        _, parts = self.small()
        picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
        positive, negative, _, latent = self.encode(parts, "animate", [picture], frames=2, prompt="a boat")
        sampler = self.pack("nodes.host.sampler")
        decode = self.pack("nodes.host.vae").decode_frames
        chosen = self.settings(parts.model.model.variant, steps=3, cfg=2.0, eta=0.0, seed=1)
        branches = {"full": positive, "unconditional": negative}
        parts.model.model.diffusion_model.out[2].bias.data.fill_(torch.inf)
        lost = torch.full_like(latent["samples"], torch.nan)
        calls: dict[str, Callable[[], Any]] = {
            "network": lambda: sampler.sample_exactly(parts.model, branches, latent["samples"], chosen),
            "latents": lambda: decode(parts.vae, lost, None, 0),
        }
        said = {name: self.complaint(call) for name, call in calls.items()}
        parts.vae.first_stage_model.decoder.conv_out.bias.data.fill_(torch.nan)
        said["vae"] = self.complaint(lambda: decode(parts.vae, latent["samples"], None, 0))
        return said

    def overflow(self) -> dict[str, float]:
        """What decodes of an overflowing VAE in float16 and in float32 differ by, and their largest value."""
        _, parts = self.small()
        vae = parts.vae
        decoder = vae.first_stage_model.half().decoder
        decoder.norm_out.weight.data.mul_(2.0**15)
        decoder.conv_out.weight.data.mul_(2.0**-15)
        decode = self.pack("nodes.host.vae").decode_exactly
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        vae.vae_dtype = torch.float32
        wide = decode(vae, latents, None)
        vae.vae_dtype = torch.float16
        found = decode(vae, latents, None)
        return {"apart": float((found - wide).abs().max()), "largest": float(found.abs().max())}

    def complaint(self, call: Callable[[], Any]) -> str:
        """The message of the ValueError that a call ends in."""
        try:
            call()
        except ValueError as problem:
            return str(problem)
        return ""

    def previews(self) -> dict[str, list[Any]]:
        """Which frames of two estimates of three frames are shown at 20 per second, and when; a cancellation; and how
        many frames are decoded of two estimates and a later one, if that takes long."""
        import time

        import comfy.model_management as management

        run = self.pack("nodes.host.run")
        shown: list[tuple[float, float]] = []

        def decode_latent_to_preview_image(kind: str, x0: Tensor) -> float:
            assert kind == "JPEG" and x0.shape[0] == 1
            return x0.max().item()

        previewer = SimpleNamespace(decode_latent_to_preview_image=decode_latent_to_preview_image)
        progress = run.Progress(7)
        progress.preview = lambda image: shown.append((image, time.monotonic()))
        frames = torch.arange(3.0)[:, None, None, None].expand(3, 4, 8, 8)
        preview = run.PlayedPreview(progress, previewer, 20.0)
        preview.show(frames)
        time.sleep(0.5)
        preview.show(frames + 10)
        time.sleep(0.5)
        preview.stop()
        count = len(shown)
        time.sleep(0.2)
        assert len(shown) == count

        def cancelled(image: float) -> None:
            management.throw_exception_if_processing_interrupted()

        progress.preview = cancelled
        management.interrupt_current_processing()
        preview = run.PlayedPreview(progress, previewer, 20.0)
        preview.show(frames)
        time.sleep(0.3)
        preview.stop()
        kept = management.processing_interrupted()
        management.interrupt_current_processing(False)
        silent = run.PlayedPreview(progress, None, 20.0)
        silent.show(frames)
        silent.stop()
        decoded: list[Tensor] = []

        def slow(kind: str, x0: Tensor) -> None:
            decoded.append(x0)
            time.sleep(0.01)

        progress.preview = lambda image: None
        preview = run.PlayedPreview(progress, SimpleNamespace(decode_latent_to_preview_image=slow), 20.0)
        counts: list[int] = []
        for wait in (0.0, 2.0, 0.0):
            preview.show(frames)
            counts.append(len(decoded))
            time.sleep(wait)
        preview.stop()
        return {
            "frames": [image for image, _ in shown],
            "at": [at for _, at in shown],
            "cancelled": [kept],
            "decoded": counts,
        }

    # --- compilation ---

    def compiled(self) -> dict[str, float]:
        """Error of a compiled network, as core's TorchCompileModel sets it, and how often it was compiled."""
        from comfy_api.torch_helpers import set_torch_compile_wrapper
        from torch._dynamo.testing import CompileCounterWithBackend

        _, parts = self.small()
        picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
        positive, negative, _, latent = self.encode(parts, "animate", [picture], frames=2, prompt="a boat")
        sampler = self.pack("nodes.sampler").DynamiCrafterSampler
        counter = CompileCounterWithBackend("eager")
        faster = parts.model.clone()
        set_torch_compile_wrapper(
            model=faster,
            backend=counter,
            options={
                "guard_filter_fn": lambda entries: ["transformer_options" not in e.name for e in entries]
            },
        )
        errors: list[float] = []
        for steps in (2, 3):
            plain, compiled = (
                sampler.execute(model, positive, negative, latent, seed=1, steps=steps, cfg=2.0, eta=1.0)[0]
                for model in (parts.model, faster)
            )
            errors.append(error(compiled["samples"], plain["samples"]))
        return {"error": max(errors), "graphs": counter.frame_count}


if __name__ == "__main__":
    repository, working, groups = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    sys.argv = [sys.argv[0], "--cpu"]
    if groups == ["compilation"]:
        # The attention of GPUs; the CPU's default asks for the free memory in each layer, which ends a graph.
        sys.argv.append("--use-pytorch-cross-attention")
    # Last, since both the host and the repository have modules called nodes.
    sys.path += [str(repository), str(repository / "tests" / "parity")]
    # Tensors this small gain nothing from more threads, which on a busy machine wait for one another.
    torch.set_num_threads(1)
    with torch.inference_mode():
        numbers = Numbers(repository, working)
        for group in groups:
            getattr(numbers, group)()
    (working / "found.json").write_text(json.dumps(numbers.results), encoding="utf-8")
