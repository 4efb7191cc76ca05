"""What lies where, and what happens when memory runs out, inside a real host; for test_partial_loading.py.

The host's modules have short names, parse the command line and warn, so they stay out of the test process.
Usage: ``python memory_in_host.py REPOSITORY WORKING_FOLDER``; writes ``found.json`` into the working folder: by
name what was found, what the host lacks for it, or the traceback where that failed.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from probed_host import (
    ALONE,
    FAR,
    FRAMES,
    PARTS,
    PLENTY,
    Host,
    Lacking,
    OneDevice,
    decibels,
    error,
    need,
    put,
    spread_error,
)
from torch import Tensor, nn


class Findings:
    """Everything that is looked at; ``results`` by name."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.results: dict[str, Any] = {}

    def find(self, name: str, what: Callable[..., Any], *arguments: Any) -> None:
        """Keep what a function returns, or how it failed."""
        try:
            self.results[name] = what(*arguments)
        except Lacking as part:
            self.results[name] = {"lacking": str(part)}
        except Exception:
            self.results[name] = f"failed: {traceback.format_exc()}"

    def all(self) -> None:
        """Look at everything; what changes the host for good comes last."""
        for checkpoint, part in ALONE:
            self.find(f"nothing {checkpoint} {part}", self.partial, checkpoint, part, (0.0,))
            self.find(f"some {checkpoint} {part}", self.partial, checkpoint, part, (0.25, 0.5, 1.0, 1.5, 2.0))
            self.find(f"cast {checkpoint} {part}", self.cast, checkpoint, part)
        self.find("states", self.states)
        self.find("fp8", self.fp8)
        for kind in ("int8", "fp8_scaled"):
            self.find(kind, self.quantised, kind)
        self.find("flags", self.flags)
        self.find("channels last", self.channels_last)
        self.find("in turn", self.in_turn)
        self.find("room", self.room)
        self.find("oom once", self.oom_once)
        self.find("oom always", self.oom_always)
        self.find("oom decode", self.oom_decode)
        self.find("oom encode", self.oom_encode)
        self.find("copies", self.copies)
        self.find("copies elsewhere", self.copies_elsewhere)
        for checkpoint in self.host.variants:
            self.find(f"dynamic {checkpoint}", self.dynamic, checkpoint)

    # --- partial loading ---

    def partial(self, checkpoint: str, part: str, shares: tuple[float, ...]) -> dict[str, Any]:
        """Load to the far device what fits into a share of the weights' size: what stays behind, and does it run.

        The host keeps room for the largest layers, so that of small networks less than the share goes; the first
        share is taken with which something goes.
        """
        for share in shares:
            parts = self.host.load_alone(checkpoint, part)
            patcher = self.host.patchers(parts)[part]
            patcher.load_device = FAR
            patcher.load(FAR, lowvram_model_memory=max(0.1, share * patcher.model_size()))
            if any(parameter.device.type == FAR.type for parameter in patcher.model.parameters()):
                break
        places = {"near": 0, "far": 0}
        behind: list[str] = []
        plain: list[str] = []
        for prefix, module in patcher.model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                far = parameter.device.type == FAR.type
                places["far" if far else "near"] += 1
                if hasattr(module, "comfy_cast_weights"):
                    continue
                lone = next(module.children(), None) is not None
                (behind if lone else plain).append(f"{prefix}.{name}".rpartition(".")[2] if lone else prefix)
        with self.host.free(PLENTY), OneDevice():
            out = self.host.work(part, parts, FAR)
        return {
            "places": places,
            "lone": sorted(set(behind)),
            "not the host's": plain,
            "device": out.device.type,
            "buffers": [name for name, _ in patcher.model.named_buffers()],
        }

    def cast(self, checkpoint: str, part: str) -> float:
        """Difference that casting every weight in forward makes, as when all are streamed."""
        parts = self.host.load_alone(checkpoint, part)
        whole = self.host.work(part, parts, "cpu")
        patcher = self.host.patchers(parts)[part]
        patcher.load(torch.device("cpu"), lowvram_model_memory=0.1)
        return error(self.host.work(part, parts, "cpu"), whole)

    def states(self) -> dict[str, Any]:
        """By the host's --novram and --lowvram, with plenty and with little memory: parameters near and far."""
        management = self.host.management
        found: dict[str, Any] = {}
        for state in ("NO_VRAM", "LOW_VRAM", "NORMAL_VRAM", "HIGH_VRAM"):
            for free in (PLENTY, 1.3 * 2**30):
                parts = self.host.load_alone("plain", "model")
                parts.model.load_device = FAR
                with (
                    put(management, "vram_state", getattr(management.VRAMState, state)),
                    self.host.free(free),
                    put(management, "minimum_inference_memory", lambda: 1.0),
                    put(management, "extra_reserved_memory", lambda: 0.0),
                    put(management, "MIN_WEIGHT_MEMORY_RATIO", 0.0),
                ):
                    # As much for activations as leaves room for about half of the weights.
                    needed = free - 0.5 * parts.model.model_size() if free < PLENTY else 0
                    management.load_models_gpu([parts.model], memory_required=needed)
                    devices = [p.device.type for p in parts.model.model.parameters()]
                    with OneDevice():
                        out = self.host.work("model", parts, FAR)
                    management.current_loaded_models.clear()
                found[f"{state} {'plenty' if free == PLENTY else 'little'}"] = [
                    devices.count("cpu"),
                    devices.count(FAR.type),
                    out.device.type,
                ]
        return found

    def quantised(self, kind: str) -> dict[str, Any]:
        """A network in 8 bits: stored dtypes, its error whole and streamed, its file, and a LoRA."""
        plain = self.host.work("model", self.host.load_alone("plain", "model", "float32"), "cpu")
        parts = self.host.load_alone("plain", "model", kind)
        whole = self.host.work("model", parts, "cpu")
        convert = self.host.pack("dynamicrafter.weights.convert").convert
        self.host.paths[kind] = self.host.paths["plain"].with_name(f"{kind}.safetensors")
        convert(self.host.paths["plain"], self.host.paths[kind], dtype=kind)
        module = parts.model.model.diffusion_model
        found: dict[str, Any] = {
            "stored": sorted({str(parameter.dtype) for parameter in module.parameters()}),
            "error": error(whole, plain),
            "file": error(self.host.work("model", self.host.load_alone(kind, "model"), "cpu"), whole),
            "restored": error(
                self.host.work("model", self.host.load_alone(kind, "model", "float32"), "cpu"), plain
            ),
        }
        patcher = parts.model
        patcher.load(torch.device("cpu"), lowvram_model_memory=0.1)
        found["streamed"] = error(self.host.work("model", parts, "cpu"), whole)
        far = self.host.load_alone("plain", "model", kind)
        far.model.load_device = FAR
        far.model.load(FAR, lowvram_model_memory=0.5 * far.model.model_size())
        found["places"] = sorted({parameter.device.type for parameter in far.model.model.parameters()})
        with self.host.free(PLENTY), OneDevice():
            found["device"] = self.host.work("model", far, FAR).device.type
        everything = self.host.load("plain", kind)
        encoded = self.host.encode(everything)
        found["finite"] = bool(torch.isfinite(self.host.sample(everything, encoded)).all())
        found["lora"] = self.lora(kind)
        return found

    def lora(self, kind: str) -> dict[str, Any]:
        """A LoRA that core adds to weights in 8 bits, in decibels to the same on float32 weights, and without it."""
        import comfy.sd

        exact, stored = (self.host.load_alone("plain", "model", dtype) for dtype in ("float32", kind))
        network = stored.model.model.diffusion_model
        adapters: dict[str, Tensor] = {}
        drawn = torch.Generator().manual_seed(5)
        parameters = dict(network.named_parameters())
        for name, weight in parameters.items():
            if f"{name}_scale" not in parameters:
                continue
            stem = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = weight.shape[0], weight[0].numel()
            size = 0.02 / columns**0.5
            down = torch.randn(4, columns, generator=drawn).view(4, *weight.shape[1:])
            adapters[f"{stem}.lora_A.weight"] = down
            up = size * torch.randn(rows, 4, generator=drawn)
            adapters[f"{stem}.lora_B.weight"] = up.view(rows, 4, *[1] * (weight.ndim - 2))

        def placed(parts: Any, strength: float | None, memory: float = 0) -> tuple[Tensor, Any]:
            """The output, with the LoRA if a strength is given, of a network that is loaded whole, or streamed."""
            patcher = parts.model
            if strength is not None:
                patcher, _ = comfy.sd.load_lora_for_models(patcher, None, adapters, strength, 0)
                # Core's loader node adds nothing at all for a strength of 0, which would show nothing.
                assert patcher.patches
            patcher.patch_model(torch.device("cpu"), lowvram_model_memory=memory)
            out = self.host.work("model", replace(parts, model=patcher), "cpu")
            return out, patcher

        def plain(parts: Any) -> Tensor:
            return self.host.work("model", parts, "cpu")

        def kept() -> dict[str, Tensor]:
            return {name: value.clone() for name, value in network.state_dict().items()}

        def same(one: dict[str, Tensor]) -> bool:
            other = network.state_dict()
            return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)

        before, weights, wanted = plain(stored), kept(), plain(exact)
        patched, by_core = placed(exact, 1.0)
        by_core.unpatch_model(torch.device("cpu"))
        found: dict[str, Any] = {"changes": error(patched, wanted), "without": decibels(before, wanted)}
        for way, memory in (("whole", 0), ("streamed", 0.1)):
            out, patcher = placed(stored, 1.0, memory)
            found[way] = {"decibels": decibels(out, patched), "changed": not same(weights)}
            patcher.unpatch_model(torch.device("cpu"))
            found[way] |= {"restored": same(weights), "after": error(plain(stored), before)}
            nothing, patcher = placed(stored, 0.0, memory)
            found[way] |= {"nothing": error(nothing, before), "nothing changed": same(weights)}
            patcher.unpatch_model(torch.device("cpu"))
        # Loaded whole, and then partly moved away.
        out, patcher = placed(stored, 1.0)
        patcher.partially_unload(torch.device("cpu"), 0.5 * patcher.model_size())
        found["unloaded"] = decibels(plain(stored), patched)
        patcher.unpatch_model(torch.device("cpu"))
        found["unloaded restored"] = same(weights)
        layer = next(module for module in network.modules() if hasattr(module, "set_weight"))
        wide = layer.convert_weight(layer.weight)
        found["returned"] = torch.equal(layer.set_weight(wide, return_weight=True), layer.weight)
        found["hook"] = self.failure(layer.set_weight, wide, True)
        found["saved"] = self.failure(lambda: layer.set_weight(2 * wide, return_weight=True))
        return found

    def fp8(self) -> dict[str, Any]:
        """A clip with weights kept in fp8, against one with all of their digits."""
        parts = self.host.load()
        encoded = self.host.encode(parts)
        exact = self.host.sample(parts, encoded)
        found: dict[str, Any] = {}
        for name in ("fp8_e4m3fn", "fp8_e5m2", "bfloat16", "float16"):
            kept = self.host.load_alone("plain", "model", name)
            model = kept.model.model
            found[name] = {
                "kept": sorted({str(p.dtype) for p in model.diffusion_model.parameters()}),
                "computes": str(model.manual_cast_dtype),
                "error": spread_error(self.host.sample(kept, encoded), exact),
            }
        return found

    def flags(self) -> dict[str, list[str]]:
        """What "auto" keeps the network in, by the host's start flags."""
        from comfy.cli_args import args

        found: dict[str, list[str]] = {}
        for flag in ("", "fp32_unet", "fp16_unet", "bf16_unet", "fp8_e4m3fn_unet", "force_fp32"):
            with put(args, flag, True) if flag else put(args, "fp32_unet", False):
                model = self.host.load_alone("plain", "model").model.model
                kept = {str(p.dtype) for p in model.diffusion_model.parameters()}
            found[flag] = [*kept, str(model.get_dtype())]
        return found

    def channels_last(self) -> dict[str, Any]:
        """The network with --force-channels-last, against the usual one."""
        from comfy.cli_args import args

        usual = self.host.load_alone("plain", "model")
        with put(args, "force_channels_last", True):
            turned = self.host.load_alone("plain", "model")
        weights = list(turned.model.model.diffusion_model.parameters())
        # Of a 1 x 1 kernel both formats are the same.
        spatial = [p for p in weights if p.ndim == 4 and p.shape[2] > 1]
        return {
            "turned": {p.is_contiguous(memory_format=torch.channels_last) for p in spatial} == {True},
            "over time": len([p for p in weights if p.ndim == 5]),
            "error": error(self.host.work("model", turned, "cpu"), self.host.work("model", usual, "cpu")),
        }

    # --- loading in turn ---

    def in_turn(self) -> list[list[Any]]:
        """What each call that loads asked for during a whole clip: names of the models, and memory."""
        management = self.host.management
        parts = self.host.load()
        calls: list[list[Any]] = []
        real = management.load_models_gpu

        def record(models: Any, memory_required: float = 0, **more: Any) -> Any:
            names = sorted({type(patcher.model).__name__ for patcher in models})
            calls.append([names, memory_required])
            return real(models, memory_required=memory_required, **more)

        with put(management, "load_models_gpu", record):
            latents = self.host.sample(parts, self.host.encode(parts))
            self.host.decode(parts, latents)
        return calls

    def room(self) -> list[list[str]]:
        """Models that are loaded before and after room was made for the network."""
        management = self.host.management
        management.current_loaded_models.clear()
        parts = self.host.load()
        patchers = self.host.patchers(parts)
        management.load_models_gpu(list(patchers.values()))

        def loaded() -> list[str]:
            return sorted(type(model.model.model).__name__ for model in management.current_loaded_models)

        before = loaded()
        with self.host.free(0):
            self.host.pack("nodes.host.memory").make_room(1e9, parts.model.clone())
        return [before, loaded()]

    # --- out of memory ---

    def failing(self, owner: Any, name: str, fails: Callable[[int, Any], bool]) -> Any:
        """``owner.name`` runs out of memory where ``fails(call, first tensor)`` says so; gives the list of calls."""
        real = getattr(owner, name)
        calls: list[int] = []

        def run(*arguments: Any, **more: Any) -> Any:
            tensor = next(x for x in arguments if isinstance(x, Tensor))
            calls.append(tensor.shape[0])
            if fails(len(calls), tensor):
                raise self.host.management.OOM_EXCEPTION("no memory: injected by a test")
            return real(*arguments, **more)

        return put(owner, name, run), calls

    def oom_once(self) -> dict[str, Any]:
        """Both branches do not fit together: difference of the latents, and the batch of each evaluation."""
        parts = self.host.load()
        encoded = self.host.encode(parts)
        whole = self.host.sample(parts, encoded)
        patched, calls = self.failing(
            parts.model.model.diffusion_model, "forward", lambda _, x: x.shape[0] > FRAMES
        )
        with patched:
            apart = self.host.sample(parts, encoded)
        again = self.host.sample(parts, encoded)
        return {"apart": error(apart, whole), "again": error(again, whole), "calls": calls}

    def oom_always(self) -> dict[str, Any]:
        """Nothing fits: the error, and that the model is as good as before."""
        parts = self.host.load()
        encoded = self.host.encode(parts)
        whole = self.host.sample(parts, encoded)
        patched, calls = self.failing(parts.model.model.diffusion_model, "forward", lambda *_: True)
        with patched:
            message = self.failure(self.host.sample, parts, encoded)
        return {
            "message": message,
            "calls": calls,
            "again": error(self.host.sample(parts, encoded), whole),
        }

    def oom_decode(self) -> dict[str, Any]:
        """Frames decoded in smaller pieces, by how small they have to be."""
        parts = self.host.load()
        latents = torch.randn((6, 4, 8, 8), generator=torch.Generator().manual_seed(2))
        whole = self.host.decode(parts, latents)
        module = parts.vae.first_stage_model
        found: dict[str, Any] = {}
        for name, fails in {
            "one by one": lambda _, z: z.shape[0] > 1,
            "tiles": lambda call, _: call < 4,
            "never": lambda *_: True,
        }.items():
            patched, calls = self.failing(module, "decode", fails)
            with patched:
                if name == "never":
                    found[name] = {"message": self.failure(self.host.decode, parts, latents, None, 4)}
                else:
                    frames = self.host.decode(parts, latents, None, 4)
                    found[name] = {"error": error(frames, whole), "calls": calls}
        special = self.host.load("special")
        pictures = torch.zeros(2, 3, 64, 64)
        clip = self.host.decode(special, latents, pictures)
        module = special.vae.first_stage_model
        for name, fails in {"clip once": lambda call, _: call == 1, "clip never": lambda *_: True}.items():
            patched, calls = self.failing(module, "decode_clip", fails)
            with patched:
                if name == "clip never":
                    found[name] = {"message": self.failure(self.host.decode, special, latents, pictures)}
                else:
                    frames = self.host.decode(special, latents, pictures)
                    found[name] = {"error": error(frames, clip), "calls": calls}
        # Of two tiles.
        latents = torch.randn((2, 4, 8, 40), generator=torch.Generator().manual_seed(3))
        pictures = torch.rand((2, 3, 64, 320), generator=torch.Generator().manual_seed(4)) * 2 - 1
        clip = self.host.decode(special, latents, pictures)
        patched, calls = self.failing(module, "decode_clip", lambda call, _: call < 3)
        with patched:
            frames = self.host.decode(special, latents, pictures)
        again = self.host.decode(special, latents, pictures)
        found["clip tiles"] = {
            "error": error(frames, clip),
            "again": error(again, clip),
            "calls": calls,
        }
        return found

    def oom_encode(self) -> dict[str, Any]:
        """A picture encoded at the second try, and not at all."""
        parts = self.host.load()
        encode = self.host.pack("nodes.host.vae").HostPictureEncoder(parts.vae).encode
        picture = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(2))
        found: dict[str, Any] = {}
        with torch.inference_mode():
            mean = encode(picture).mean
            patched, calls = self.failing(parts.vae.first_stage_model, "posterior", lambda call, _: call == 1)
            with patched:
                found["once"] = {"error": error(encode(picture).mean, mean), "calls": calls}
            patched, calls = self.failing(parts.vae.first_stage_model, "posterior", lambda *_: True)
            with patched:
                found["never"] = {"message": self.failure(encode, picture), "calls": calls}
        return found

    def failure(self, work: Callable[..., Any], *arguments: Any) -> str:
        """The kind and words of the error that a function ends with."""
        try:
            work(*arguments)
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"
        return "no error"

    # --- copies and streaming ---

    def copies(self) -> dict[str, Any]:
        """Second copies as the host makes them for hooks and tools."""
        return self.copied(lambda patcher: patcher.clone(force_deepcopy=True), "clone", "force_deepcopy")

    def copies_elsewhere(self) -> dict[str, Any]:
        """Second copies as the host makes them for other devices."""
        return self.copied(
            lambda patcher: patcher.deepclone_multigpu(new_load_device=FAR),
            "deepclone_multigpu",
            "new_load_device",
        )

    def copied(self, copy: Callable[[Any], Any], method: str, parameter: str) -> dict[str, Any]:
        """Copies of all networks by a method of the host's patcher, which needs a parameter of this name."""
        import comfy.model_patcher

        found_method = need(comfy.model_patcher.ModelPatcher, method)
        if parameter not in inspect.signature(found_method).parameters:
            raise Lacking(f"{parameter} of comfy.model_patcher.ModelPatcher.{method}")
        parts = self.host.load()
        whole = {part: self.host.work(part, parts, "cpu") for part in PARTS}
        found: dict[str, Any] = {}
        for part, patcher in self.host.patchers(parts).items():
            if part == "resampler":
                continue
            copied = copy(patcher)
            found[part] = {
                "shares": copied.model is patcher.model,
                "same": all(
                    torch.equal(a, b)
                    for a, b in zip(copied.model.parameters(), patcher.model.parameters(), strict=True)
                ),
                "device": str(copied.load_device),
                "still works": error(self.host.work(part, parts, "cpu"), whole[part]),
            }
        return found

    def dynamic(self, checkpoint: str) -> dict[str, Any]:
        """Networks and a clip with the host's streaming patcher, against the older one."""
        import comfy.model_patcher

        # What stands for pinned memory below gives weights back with it.
        need(need(comfy.model_patcher, "ModelPatcherDynamic"), "restore_loaded_backups")
        import comfy.memory_management
        import comfy_aimdo.host_buffer

        class Buffer:
            """Stands for pinned memory, of which there is none without a GPU."""

            size = 0

            def __init__(self, *_: Any) -> None:
                pass

            def truncate(self, *_: Any, **__: Any) -> None:
                pass

        class Streaming(comfy.model_patcher.ModelPatcherDynamic):
            """The host's, also for the CPU, for which it would take the older one."""

            def __new__(cls, *_: Any, **__: Any) -> Any:
                return object.__new__(cls)

            def partially_unload(self, *_: Any, **__: Any) -> int:
                return self.restore_loaded_backups()

        parts = self.host.load(checkpoint)
        whole = {part: self.host.work(part, parts, "cpu") for part in PARTS}
        latents = self.host.sample(parts, self.host.encode(parts))
        found: dict[str, Any] = {"errors": {}, "dynamic": {}, "missing": {}, "plain copies": {}}
        with (
            put(comfy.memory_management, "aimdo_enabled", True),
            put(comfy.model_patcher, "CoreModelPatcher", Streaming),
            put(comfy_aimdo.host_buffer, "HostBuffer", Buffer),
            put(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *_: 1e12),
        ):
            streamed = self.host.load(checkpoint)
            patchers = self.host.patchers(streamed)
            for part, patcher in patchers.items():
                found["dynamic"][part] = patcher.is_dynamic()
                ours = [name for name, p in patcher.model.named_parameters() if p.device.type == "meta"]
                empty = [
                    name
                    for name, module in patcher.model.named_modules()
                    if getattr(module, "weight", torch.ones(1)) is None
                ]
                found["missing"][part] = [*ours, *empty]
            self.host.management.load_models_gpu(list(patchers.values()))
            for part in patchers:
                found["errors"][part] = error(self.host.work(part, streamed, "cpu"), whole[part])
            found["errors"]["clip of frames"] = error(
                self.host.sample(streamed, self.host.encode(streamed)), latents
            )
            for part, patcher in patchers.items():
                if part != "resampler":
                    plain = patcher.clone(disable_dynamic=True)
                    found["plain copies"][part] = [plain.is_dynamic(), plain.model is patcher.model]
                    found["errors"][f"{part} plain"] = self.plain_error(part, plain, whole[part], streamed)
            self.host.management.unload_all_models()
            found["errors"]["clip after unloading"] = error(
                self.host.sample(streamed, self.host.encode(streamed)), latents
            )
            self.host.management.unload_all_models()
        return found

    def plain_error(self, part: str, patcher: Any, whole: Tensor, parts: Any) -> float:
        """Difference of a copy of a network to what it was copied from."""
        module: nn.Module = patcher.model
        copied = {
            "model": lambda: replace(parts, model=patcher),
            "vae": lambda: replace(parts, vae=_With(first_stage_model=module)),
            "clip": lambda: replace(parts, clip=_With(cond_stage_model=module)),
            "clip_vision": lambda: replace(parts, clip_vision=_With(model=module)),
        }[part]()
        return error(self.host.work(part, copied, "cpu"), whole)


class _With:
    """An object with these attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


if __name__ == "__main__":
    repository, working = Path(sys.argv[1]), Path(sys.argv[2])
    sys.argv[1:] = ["--cpu"]
    # Small networks, and other tests beside this one.
    torch.set_num_threads(1)
    findings = Findings(Host(repository, working))
    findings.all()
    (working / "found.json").write_text(json.dumps(findings.results), encoding="utf-8")
