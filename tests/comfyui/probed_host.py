"""The pack inside a real host, its networks at work, and devices and memory that are not there.

For memory_in_host.py, in a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAR = torch.device("meta")
"""Stands for a GPU: a device that is not the CPU."""
FRAMES = 4
PARTS = ("model", "resampler", "vae", "clip", "clip_vision")
ALONE = [("plain", part) for part in PARTS] + [("special", "model"), ("special", "vae")]
"""Checkpoint and network of everything that has weights, each once."""
PLENTY = 1e12


def load_pack(repository: Path) -> Callable[[str], Any]:
    """The pack as the host loads it, from its folder; a function from a dotted name below it to the module."""
    import comfy.options

    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location(
        "pack", repository / "__init__.py", submodule_search_locations=[str(repository)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    return lambda name: importlib.import_module(f"pack.{name}")


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def spread_error(ours: Tensor, theirs: Tensor) -> float:
    """Spread of the difference over the spread."""
    return ((ours - theirs).std() / theirs.std()).item()


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Power of what was wanted over that of the error."""
    return float(10 * torch.log10(wanted.square().mean() / (found - wanted).square().mean()))


class Lacking(Exception):
    """This version of the host lacks what is to be looked at; the message is its name."""


def need(owner: Any, name: str) -> Any:
    """``owner.name``; raises Lacking if this version of the host has none."""
    if not hasattr(owner, name):
        parent = owner.__name__ if inspect.ismodule(owner) else f"{owner.__module__}.{owner.__name__}"
        raise Lacking(f"{parent}.{name}")
    return getattr(owner, name)


class OneDevice(TorchDispatchMode):
    """Refuses operators on tensors of two devices, as a GPU would; the meta device itself lets some pass."""

    MOVES = ("aten._to_copy", "aten.copy_")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.ndim > 0}
        if len(devices) > 1 and not str(func).startswith(self.MOVES):
            shapes = [(tuple(x.shape), x.device.type) for x in tensors]
            raise RuntimeError(f"{func} on two devices: {shapes}")
        return func(*args, **(kwargs or {}))


@contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Host:
    """The pack in the host, and small checkpoints of which one has every lone parameter there is."""

    def __init__(self, repository: Path, working: Path) -> None:
        self.pack = load_pack(repository)
        # Only now, because it looks at the command line.
        import comfy.model_management

        self.management = comfy.model_management
        self.loading = self.pack("nodes.host.loading")
        variants = self.pack("dynamicrafter.model.variants")
        small = variants.SMALL
        self.variants = {
            "plain": small,
            "special": replace(
                small,
                unet=replace(small.unet, learned_image_scale=True),
                vae=replace(small.vae, video_decoder=True),
            ),
        }
        self.paths = {name: working / f"{name}.safetensors" for name in self.variants}
        for name, variant in self.variants.items():
            write = self.pack("dynamicrafter.weights.random_model").write_random_checkpoint
            # The host keeps towers in float16, whose weights are then the file's to the last digit.
            write(self.paths[name], variant, dtype=torch.float16)

    def load(self, name: str = "plain", weight_dtype: str = "auto") -> Any:
        """All parts of a checkpoint."""
        return self.loading.load_checkpoint(self.paths[name], None, weight_dtype)

    def load_alone(self, name: str, part: str, weight_dtype: str = "auto") -> Any:
        """Parts of which all but one are missing."""
        wanted = "model" if part == "resampler" else part
        made = self.loading.load_part(wanted, self.paths[name], "small", weight_dtype)
        return self.loading.Loaded(**{**dict.fromkeys(("model", "vae", "clip", "clip_vision")), wanted: made})

    def patchers(self, parts: Any) -> dict[str, Any]:
        """The patcher of every network that is there."""
        found: dict[str, Any] = {}
        if parts.model is not None:
            found = {
                "model": parts.model,
                "resampler": parts.model.get_attachment("dynamicrafter_resampler")[0],
            }
        for name in ("vae", "clip", "clip_vision"):
            if getattr(parts, name) is not None:
                found[name] = getattr(parts, name).patcher
        return found

    def free(self, size: float) -> Any:
        """The host finds this much memory free on every device."""

        def answer(_: Any = None, torch_free_too: bool = False) -> Any:
            return (size, size) if torch_free_too else size

        return put(self.management, "get_free_memory", answer)

    def work(self, part: str, parts: Any, device: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        """A network's output for inputs of zeros on the far device, else for random ones."""

        def some(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)
            return drawn.to(device)

        with torch.inference_mode():
            if part == "model":
                return parts.model.model.diffusion_model(
                    some(FRAMES, 8, 8, 8),
                    torch.full((FRAMES,), 500.0, device=device),
                    some(FRAMES, 77, 64),
                    image_tokens=some(1, FRAMES, 16, 64),
                    fs=torch.full((1,), 8, device=device),
                )
            if part == "resampler":
                return self.patchers(parts)["resampler"].model(some(1, 65, 64))
            if part == "vae":
                module = parts.vae.first_stage_model
                if not hasattr(module, "decode_clip"):
                    return torch.cat(
                        [
                            module.encode(some(1, 3, 64, 64)).flatten(),
                            module.decode(some(2, 4, 8, 8)).flatten(),
                        ]
                    )
                pictures = some(2, 3, 64, 64)
                references = module.references(pictures[:1], pictures[1:])
                return module.decode_clip(some(FRAMES, 4, 8, 8), FRAMES, references)
            if part == "clip":
                model = parts.clip.cond_stage_model.clip_h.transformer
                ids = torch.arange(77).unsqueeze(0).to(device)
                return model(ids, dtype=torch.float32)[0]
            return parts.clip_vision.model(pixel_values=some(1, 3, 224, 224), intermediate_output=-2)[0]

    # --- a whole clip ---

    def encode(self, parts: Any) -> Any:
        """Positive, negative, image-only and latent of one picture."""
        picture = torch.rand((64, 64, 3), generator=torch.Generator().manual_seed(1))
        chosen = {
            "frames": FRAMES,
            "motion": -1.0,
            "width": 0,
            "height": 0,
            "fit": "crop",
            "prompt": "a boat",
        }
        encode = self.pack("nodes.encode").encode
        with torch.inference_mode():
            made, _ = encode(
                "animate", parts.model, parts.vae, parts.clip_vision, picture, None, clip=parts.clip, **chosen
            )
        return made

    def sample(self, parts: Any, encoded: Any, steps: int = 2) -> Tensor:
        """Latents by our sampler with guidance."""
        variant = parts.model.model.variant
        settings = self.pack("dynamicrafter.settings").make_settings(
            variant,
            variant.modes[0],
            frames=encoded[3]["samples"].shape[0],
            steps=steps,
            cfg=3.0,
            guidance_rescale=0.7,
            spacing="uniform_trailing",
            eta=1.0,
            seed=3,
        )
        with torch.inference_mode():
            return self.pack("nodes.host.sampler").sample_exactly(
                parts.model,
                {"full": encoded[0], "unconditional": encoded[1]},
                encoded[3]["samples"],
                settings,
            )

    def decode(self, parts: Any, latents: Tensor, pictures: Tensor | None = None, chunk: int = 0) -> Tensor:
        """Frames of latents."""
        with torch.inference_mode():
            return self.pack("nodes.host.vae").decode_frames(parts.vae, latents, pictures, chunk)
