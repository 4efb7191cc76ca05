"""The nodes that move a person by poses: loader, conditioning and sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.animate_anyone.api import MOST_FRAMES
from ..dynamicrafter.animate_anyone.framing import framed
from ..dynamicrafter.animate_anyone.pipeline import DIFFUSION
from ..dynamicrafter.diffusion.denoiser import Evaluate, make_denoiser
from ..dynamicrafter.diffusion.guidance import make_guidance
from ..dynamicrafter.diffusion.samplers import Callback, sample_ddim
from ..dynamicrafter.diffusion.schedule import make_schedule, make_strided_plan
from ..dynamicrafter.media.pictures import Picture
from ..dynamicrafter.settings import Fit
from .choices import advanced, missing
from .encode import FPS, single
from .host.loading import AUTO, WEIGHT_DTYPES
from .host.person_conditioning import condition_person
from .host.person_files import fingerprint_person, list_people, person_path
from .host.person_loading import load_person_parts
from .host.person_model import person_clip, person_config
from .host.run import check_latent
from .host.sampler import run_exactly
from .person_choices import check_settings, clip_settings, clip_size, frames_input, setting, size_inputs
from .sockets import CATEGORY, image, schema
from .words import in_words_of_the_graph

if TYPE_CHECKING:
    from PIL.Image import Image

RATE = 24.0
"""Frames per second of a clip unless said otherwise; the clip has one frame for each pose."""
CHECKPOINT_TIP = (
    "The built-in model, which knows cartoon characters only; a file that 'dynamicrafter convert' has made; or a "
    "folder with the original's six files (its name ends in /), in models/checkpoints, models/diffusion_models or "
    "models/dynamicrafter."
)
POSES_TIP = (
    "Drawn poses, one image for each frame: IMAGE of DynamiCrafter Pose Drawing or of another pose node."
)


class DynamiCrafterPersonLoader(io.ComfyNode):
    """Loads a model of AnimateAnyone and outputs its networks as the host's objects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterPersonLoader",
            display_name="DynamiCrafter Person Loader",
            category=CATEGORY,
            description="Loads AnimateAnyone, which moves the person of an image by a clip of poses: one converted "
            "file, or a folder with the original's files.",
            search_aliases=["animate anyone", "AnimateAnyone", "load person", "pose to video", "character"],
            inputs=[
                io.Combo.Input("checkpoint", options=list_people(), tooltip=CHECKPOINT_TIP),
                io.Combo.Input(
                    "weight_dtype",
                    options=WEIGHT_DTYPES,
                    default=AUTO,
                    tooltip="Data type in which the weights of both networks are stored. auto follows ComfyUI's "
                    "rules and command-line options; fp8 halves the memory at some loss of quality, int8 at less; "
                    "int8 and fp8_scaled cannot be combined with a LoRA.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    tooltip="The denoising network with all that conditioning needs, for the person nodes and core "
                    "samplers.",
                ),
                io.Vae.Output("vae", tooltip="Autoencoder, for DynamiCrafter VAE Decode or core VAE nodes."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> str:
        """Changes when a file does."""
        return fingerprint_person(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, weight_dtype: str) -> io.NodeOutput:
        """Load the files; errors are one sentence."""
        with in_words_of_the_graph():
            return io.NodeOutput(*load_person_parts(person_path(checkpoint), weight_dtype))


class DynamiCrafterPersonConditioning(io.ComfyNode):
    """Conditioning that moves the person of an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterPersonConditioning",
            display_name="DynamiCrafter Person Conditioning",
            category=CATEGORY,
            description="Converts the image of a person and drawn poses into conditioning and an empty latent with "
            "one frame for each pose. Long clips are sampled in windows, with the memory of one.",
            search_aliases=["animate anyone", "pose to video", "reference", "character", "dance"],
            inputs=[
                io.Model.Input("model", lazy=True, tooltip="MODEL of DynamiCrafter Person Loader."),
                io.Vae.Input("vae", lazy=True, tooltip="VAE of the loader, or any SD 1.x VAE."),
                image("image", "The person to move; a single image, not a batch."),
                image("poses", POSES_TIP),
                frames_input(),
                *size_inputs(),
                setting("window", optional=True, extra_dict=advanced()),
                setting("overlap", optional=True, extra_dict=advanced()),
                io.Boolean.Input(
                    "exact",
                    default=False,
                    optional=True,
                    tooltip="Windows as in the original: the last one continues with the first frames, and overlaps "
                    "are not blended.",
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="Person and poses, for positive of any sampler."),
                io.Conditioning.Output("negative", tooltip="Poses alone, for negative of any sampler."),
                io.Latent.Output(
                    "latent", tooltip="Empty latent with the clip's size and length, for any sampler."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, **shown: Any) -> list[str]:
        """Reject what is wrong before the model is loaded."""
        given = {name: shown[name] for name in ("window", "overlap") if shown.get(name) is not None}
        sides = {name: shown[name] for name in ("width", "height") if shown.get(name)}
        check_settings(**given, **sides)
        return missing(shown, ("model", "vae"))

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        image: Tensor,
        poses: Tensor,
        frames: int = 0,
        width: int = 0,
        height: int = 0,
        fit: Fit = "stretch",
        window: int = 0,
        overlap: int = -1,
        exact: bool = False,
    ) -> io.NodeOutput:
        """Encode the image and resize the poses."""
        preset = person_config(model).preset
        picture = single(image, "image")
        size = clip_size(width, height, picture.shape[1], picture.shape[0], preset)
        settings = clip_settings(
            preset, width=size[0], height=size[1], window=window, overlap=overlap, exact=exact
        )
        count = frames or len(poses)
        if len(poses) < count:
            raise ValueError(
                f"frames is {count}, but there are only {len(poses)} poses; set fewer frames, or 0 for all of them"
            )
        if count > MOST_FRAMES:
            raise ValueError(
                f"a clip has at most {MOST_FRAMES} frames, but there are {count} poses; set frames, or choose some "
                "with core Image From Batch"
            )
        positive, negative, latent = condition_person(
            model,
            vae,
            framed(as_picture(picture), *size, fit),
            _drawings(poses[:count], size, fit),
            count,
            size,
            settings.windows(count),
        )
        return io.NodeOutput(positive, negative, {"samples": latent, FPS: RATE})


class DynamiCrafterPersonSampler(io.ComfyNode):
    """DDIM exactly as the original's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterPersonSampler",
            display_name="DynamiCrafter Person Sampler",
            category=CATEGORY,
            description="The sampler that AnimateAnyone was released with. A seed gives the same clip as the "
            "dynamicrafter person command with fit stretch, on every device.",
            search_aliases=["animate anyone", "ddim", "person ksampler"],
            inputs=[
                io.Model.Input(
                    "model", lazy=True, tooltip="MODEL of the loader, optionally with LoRA or other patches."
                ),
                io.Conditioning.Input(
                    "positive", lazy=True, tooltip="positive of DynamiCrafter Person Conditioning."
                ),
                io.Conditioning.Input("negative", lazy=True, tooltip="negative of the same node."),
                io.Latent.Input(
                    "latent",
                    lazy=True,
                    tooltip="latent of the same node; sets the size and length of the clip.",
                ),
                setting("seed"),
                setting("steps"),
                setting("cfg"),
                setting("eta", optional=True, extra_dict=advanced()),
                io.Combo.Input(
                    "noise_dtype",
                    options=["float32", "float16"],
                    default="float32",
                    optional=True,
                    tooltip="Precision in which the noise is generated; float16 repeats the seeds of clips that the "
                    "original made in it.",
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    tooltip="The denoised frames as a batch of latents, for DynamiCrafter or core VAE Decode.",
                )
            ],
        )

    @classmethod
    def check_lazy_status(cls, **shown: Any) -> list[str]:
        """Reject what is wrong before anything is computed; the conditioning comes first, as it has such checks too."""
        names = ("seed", "steps", "cfg", "eta", "noise_dtype")
        check_settings(**{name: shown[name] for name in names if shown.get(name) is not None})
        return missing(shown, ("positive", "negative", "latent")) or missing(shown, ("model",))

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        eta: float = 0.0,
        noise_dtype: str = "float32",
    ) -> io.NodeOutput:
        """Sample."""
        preset = person_config(model).preset
        person_clip(positive)
        _refuse_mask(latent)
        chosen = clip_settings(preset, seed=seed, steps=steps, cfg=cfg, eta=eta, noise_dtype=noise_dtype)
        check_latent(latent["samples"])
        frames, channels, height, width = latent["samples"].shape
        generator = torch.Generator().manual_seed(chosen.seed)
        precision = getattr(torch, chosen.noise_dtype)

        def draw() -> Tensor:
            shape = (1, channels, frames, height, width)
            return torch.randn(shape, generator=generator, dtype=precision).float()

        guidance = make_guidance(chosen.cfg, None, 0.0)
        plan = make_strided_plan(make_schedule(DIFFUSION), chosen.steps, chosen.eta)
        branches = {"full": positive, "unconditional": negative}

        def sampled_by(evaluate: Evaluate, noise: Tensor, stepped: Callback) -> Tensor:
            denoise = make_denoiser(evaluate, plan.schedule, guidance)
            return sample_ddim(denoise, plan, noise, lambda: draw().to(noise.device), stepped)

        sampled = run_exactly(
            model,
            {name: branches[name] for name in guidance.branches},
            draw(),
            sampled_by,
            timesteps=plan.timesteps[::-1],
            fps=latent.get(FPS, RATE),
            seed=chosen.seed,
        )
        return io.NodeOutput({**latent, "samples": sampled})


def _refuse_mask(latent: dict[str, Any]) -> None:
    """Raise ValueError for a LATENT of which only a part is to be sampled."""
    if latent.get("noise_mask") is not None:
        raise ValueError(
            "the latent has a noise mask, which this sampler does not support yet; remove the mask, or use "
            "a core sampler with this model"
        )


def as_picture(frame: Tensor) -> Picture:
    """A frame ``[h, w, c]`` in [0, 1] as an image of whole levels."""
    return Picture((frame[..., :3].float() * 255).round().clamp(0, 255).to(torch.uint8).cpu())


def _drawings(poses: Tensor, size: tuple[int, int], fit: Fit) -> Iterator[Image]:
    """One by one, since those of a long clip take gigabytes."""
    return (framed(as_picture(pose), *size, fit) for pose in poses)
