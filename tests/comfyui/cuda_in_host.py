"""The whole pack in a real host that believes in a GPU which is not there, for test_pretended_cuda.py.

Usage: ``python cuda_in_host.py REPOSITORY WORKING_FOLDER``; writes ``found.json`` into the working folder: by name
what was found, what the host lacks for it, or the traceback where that failed. Numbers are computed in float32 on the
CPU by tensors that say they are on a GPU (pretended_device.py), so that they can be compared with those of the CPU.

Not reached: streaming by the host's newer patcher (memory_in_host.py tests it on the CPU), compiled networks, samplers
that draw noise on the GPU, uni_pc (it makes a tensor of a list of tensors, which asks the driver), half precision, and
what the host does for real GPUs alone, such as pinned memory and streams.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pretended_device import CUDA, PretendedCuda
from probed_host import FRAMES, PLENTY, Host, Lacking, error, need, put
from torch import Tensor

CHOICES = {"frames": FRAMES, "motion": -1.0, "width": 0, "height": 0, "fit": "crop", "prompt": "a boat"}
STEPS = {"seed": 3, "steps": 2, "cfg": 3.0, "eta": 1.0}


class Chain:
    """Graphs of the pack's nodes, one step after the other."""

    def __init__(self, host: Host) -> None:
        self.host = host
        nodes = host.pack("nodes")
        self.nodes = {name: getattr(nodes, name) for name in dir(nodes) if name.startswith("DynamiCrafter")}
        self.picture = host.pack("nodes.host.run").intermediate

    def run(self, kind: str, **inputs: Any) -> Any:
        """The outputs of a node."""
        return self.nodes[f"DynamiCrafter{kind}"].execute(**inputs).result

    def load(self, checkpoint: str) -> Any:
        """What the loader outputs for one of the host's checkpoints."""
        with put(self.host.pack("nodes.loader"), "checkpoint_path", lambda name: self.host.paths[name]):
            return self.run("CheckpointLoader", checkpoint=checkpoint, variant="auto", weight_dtype="auto")

    def condition(self, parts: Any, kind: str) -> Any:
        """The outputs of a conditioning node."""
        model, clip, clip_vision, vae = parts
        made = torch.rand((2, 64, 64, 3), generator=torch.Generator().manual_seed(1))
        first, last = (self.picture(picture[None]) for picture in made)
        pictures = {"first_image": first, "last_image": last} if kind == "Interpolation" else {"image": first}
        networks = {"model": model, "clip": clip, "clip_vision": clip_vision, "vae": vae}
        return self.run(kind, **networks, **pictures, **CHOICES)

    def sample(self, parts: Any, conditions: Any, **choices: Any) -> Any:
        """The latent of our sampler."""
        positive, negative, _, latent = conditions
        inputs = {"model": parts[0], "positive": positive, "negative": negative, "latent": latent}
        return self.run("Sampler", **inputs, **{**STEPS, **choices})[0]

    def core_sample(self, parts: Any, conditions: Any, sampler: str) -> Any:
        """The latent of core's KSampler."""
        import nodes

        positive, negative, _, latent = conditions
        ksampler = nodes.common_ksampler
        return ksampler(parts[0], 3, 2, 3.0, sampler, "simple", positive, negative, latent)[0]

    def decode(self, parts: Any, latent: Any) -> Tensor:
        """The frames of our decode."""
        return self.run("VAEDecode", vae=parts[3], latent=latent)[0]


class Findings:
    """Everything that is looked at; ``results`` by name."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.chain = Chain(host)
        self.results: dict[str, Any] = {}
        self.usual: dict[tuple[str, str], dict[str, Tensor]] = {}

    def find(self, name: str, what: Callable[..., Any], *arguments: Any) -> None:
        """Keep what a function returns, or how it failed."""
        try:
            with torch.inference_mode():
                self.results[name] = what(*arguments)
        except Lacking as part:
            self.results[name] = {"lacking": str(part)}
        except Exception:
            self.results[name] = f"failed: {traceback.format_exc()}"
        finally:
            self.host.management.current_loaded_models.clear()

    def all(self) -> None:
        """Look at everything."""
        self.find("animate", self.whole, "plain", "ImageConditioning", {})
        self.find("loop", self.whole, "plain", "Looping", {})
        self.find("interpolate", self.whole, "special", "Interpolation", {})
        self.find("gpu only", self.whole, "plain", "ImageConditioning", {"gpu_only": True})
        self.find("streamed", self.whole, "plain", "ImageConditioning", {"free": 2e6})
        self.find("built there", self.built_there)
        self.find("picture", self.picture)
        self.find("note", self.note)
        self.find("half", self.half)
        self.find("mistake", self.mistake)

    @contextmanager
    def gpu(self, gpu_only: bool = False, free: float = PLENTY) -> Iterator[None]:
        """The host as on a machine with one GPU, of which ``free`` bytes are free."""
        management = self.host.management
        from comfy.cli_args import LatentPreviewMethod, args

        state = "HIGH_VRAM" if gpu_only else "NORMAL_VRAM"
        answers = {
            "cpu_state": management.CPUState.GPU,
            "vram_state": getattr(management.VRAMState, state),
            # Would ask the driver what the GPU can do, and for kernels of its own.
            "is_nvidia": lambda: False,
            "get_torch_device": lambda: CUDA,
            "get_total_memory": self.memory(PLENTY),
            "get_free_memory": self.memory(free),
            "should_use_fp16": lambda *_, **__: False,
            "should_use_bf16": lambda *_, **__: False,
            # Would be the CPU without float16.
            "text_encoder_device": lambda: CUDA,
            "soft_empty_cache": lambda *_: None,
            "minimum_inference_memory": lambda: 1.0,
            "extra_reserved_memory": lambda: 0.0,
            "MIN_WEIGHT_MEMORY_RATIO": 0.0,
        }
        network = self.host.pack("nodes.host.model").HostModel
        with ExitStack() as pretended:
            if free < PLENTY:
                # All of it is left to weights, of which it holds some.
                pretended.enter_context(put(network, "memory_required", lambda *_, **__: 1.0))
            for name, answer in answers.items():
                pretended.enter_context(put(management, name, answer))
            pretended.enter_context(put(args, "gpu_only", gpu_only))
            pretended.enter_context(put(args, "preview_method", LatentPreviewMethod.Latent2RGB))
            pretended.enter_context(PretendedCuda())
            yield

    def memory(self, size: float) -> Callable[..., Any]:
        """What the host is told of its memory: ``size`` of the GPU's, a little of the CPU's."""

        def answer(device: Any = None, torch_free_too: bool = False, torch_total_too: bool = False) -> Any:
            found = 1e9 if device is not None and torch.device(device).type == "cpu" else size
            return (found, found) if torch_free_too or torch_total_too else found

        return answer

    def whole(self, checkpoint: str, kind: str, gpu: dict[str, Any]) -> dict[str, Any]:
        """From the file to frames by all samplers, against the CPU: devices of the results, and differences."""
        if (checkpoint, kind) not in self.usual:
            self.usual[checkpoint, kind] = self.results_of(checkpoint, kind)
            self.host.management.current_loaded_models.clear()
        usual = self.usual[checkpoint, kind]
        with self.gpu(**gpu):
            found = self.results_of(checkpoint, kind)
            devices = {name: found[name].device.type for name in found}
            places = self.places
            pretended = {name: result.cpu() for name, result in found.items()}
        return {
            "devices": devices,
            "places": places,
            "errors": {name: error(pretended[name], usual[name]) for name in usual},
        }

    def results_of(self, checkpoint: str, kind: str) -> dict[str, Tensor]:
        """Every tensor that leaves a node, by what it is."""
        chain = self.chain
        parts = chain.load(checkpoint)
        conditions = chain.condition(parts, kind)
        samplers = self.host.pack("dynamicrafter.diffusion.samplers").SAMPLERS
        silent = self.host.pack("dynamicrafter.diffusion.config").WITHOUT_ETA
        network = parts[0].model.diffusion_model
        latents: dict[str, Any] = {}
        for name in samplers:
            eta = {"eta": 0.0} if name in silent else {}
            latents[f"latent of {name}"] = chain.sample(parts, conditions, sampler=name, **eta)
            if name == "ddim":
                # The host loads more of the network each time, as it is told that the same memory is free.
                self.places = sorted({p.device.type for p in network.parameters()})
        for name in ("euler", "dpmpp_2m"):
            latents[f"latent of core {name}"] = chain.core_sample(parts, conditions, name)
        found = {name: latent["samples"] for name, latent in latents.items()}
        found["text"], found["empty latent"] = conditions[0][0][0], conditions[3]["samples"] + 1
        for name in ("latent of ddim", "latent of core euler"):
            found[f"frames, {name}"] = chain.decode(parts, latents[name])
        if not hasattr(parts[3].first_stage_model, "decode_clip"):
            found["frames of core"] = parts[3].decode(found["latent of ddim"])
        found["steps"] = torch.tensor(chain.run("Preset", model=parts[0])[:1])
        return found

    def built_there(self) -> dict[str, Any]:
        """Networks that the host knows, and where the UNet is, after the loader and before anything else."""
        with self.gpu():
            patcher = self.chain.load("plain")[0]
            loaded = self.host.management.current_loaded_models
            parameters = patcher.model.diffusion_model.parameters()
            return {
                "known": [type(model.model.model).__name__ for model in loaded],
                "devices": sorted({parameter.device.type for parameter in parameters}),
            }

    def picture(self) -> list[str]:
        """Devices of the picture of DynamiCrafter Sample Picture, without and with --gpu-only."""
        found: list[str] = []
        module = self.host.pack("nodes.sample_picture")
        for gpu_only in (False, True):
            # The preview is written into a folder of the host, which has none here.
            with self.gpu(gpu_only=gpu_only), put(module, "ui", SimpleNamespace(PreviewImage=lambda _: None)):
                found.append(self.chain.run("SamplePicture", picture="harbour")[0].device.type)
        return found

    def note(self) -> str:
        """What the built-in model says of an image that it does not know, with --gpu-only."""
        with self.gpu(gpu_only=True):
            model, clip, clip_vision, vae = self.chain.run(
                "CheckpointLoader", checkpoint="tiny (built in)", variant="auto", weight_dtype="auto"
            )
            made = torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(1))
            networks = {"model": model, "clip": clip, "clip_vision": clip_vision, "vae": vae}
            condition = self.chain.nodes["DynamiCrafterImageConditioning"].execute
            (note,) = condition(**networks, image=self.chain.picture(made), **CHOICES).ui[
                "dynamicrafter_notes"
            ]
            return note

    def half(self) -> list[str]:
        """Dtypes of an empty latent, a sampled latent and frames with --fp16-intermediates."""
        need(self.host.management, "intermediate_dtype")
        from comfy.cli_args import args

        with put(args, "fp16_intermediates", True), self.gpu():
            parts = self.chain.load("plain")
            conditions = self.chain.condition(parts, "ImageConditioning")
            latent = self.chain.sample(parts, conditions)
            results = (conditions[3]["samples"], latent["samples"], self.chain.decode(parts, latent))
            return [str(result.dtype) for result in results]

    def mistake(self) -> str:
        """The error if one tensor were forgotten on the CPU, as proof that it would be found."""

        def forget(_: Any, positional: Any, named: dict[str, Any]) -> Any:
            return positional, {**named, "image_tokens": named["image_tokens"].cpu()}

        with self.gpu():
            parts = self.chain.load("plain")
            conditions = self.chain.condition(parts, "ImageConditioning")
            parts[0].model.diffusion_model.register_forward_pre_hook(forget, with_kwargs=True)
            try:
                self.chain.sample(parts, conditions)
            except RuntimeError as problem:
                return str(problem)
        return "no error"


if __name__ == "__main__":
    repository, working = Path(sys.argv[1]), Path(sys.argv[2])
    # The attention of GPUs, and no file that the host would look for.
    sys.argv[1:] = ["--cpu", "--use-pytorch-cross-attention"]
    # Small networks, and other tests beside this one.
    torch.set_num_threads(1)
    findings = Findings(Host(repository, working))
    findings.all()
    (working / "found.json").write_text(json.dumps(findings.results), encoding="utf-8")
