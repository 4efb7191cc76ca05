"""The stages of generation: images and prompts to conditioning, to latents, to frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from .control.hints import Control, check_control, controlled
from .diffusion.denoiser import DenoiseWrapper, Evaluate
from .diffusion.finite import finite_steps, overflows, require_finite
from .diffusion.guidance import Branch
from .diffusion.samplers import Callback, Step, draw_noise
from .diffusion.start import SourceClip, latent_mask
from .errors import Remedy, UsageError
from .model.autoencoder import Autoencoder
from .model.conditioning import (
    Conditioning,
    Request,
    condition,
    low_pass,
    perceive,
    repeat_picture,
    with_image_noise,
)
from .model.configs import LATENT_FACTOR, Quantised
from .model.encoders import CLIPImageEncoder, CLIPTextEncoder
from .model.memory import branches_at_once
from .model.placement import Placement
from .model.preview import PreviewColours
from .model.protocols import (
    Context,
    FrameDecoder,
    ImageEncoder,
    Network,
    NetworkWrapper,
    PictureCodec,
    TextEncoder,
    TokenResampler,
)
from .model.resampler import Resampler
from .model.unet import VideoUNet
from .model.variants import Variant
from .motion.pieces import Stretch, check_one_part, evenly, faithful, in_pieces, is_in_pieces
from .motion.windowed import needs_windows, over_windows, reschedule
from .sampling import calls_of, run, weak_layers
from .settings import Settings, clip_length, prompt_parts, sampled_frames

NO_SOURCE = "denoise below 1 and a mask need a clip to start from when two images are interpolated"
"""The error about an interpolation without one."""
Stage = Literal["encode", "sample", "decode"]
Progress = Callable[[Stage, int, int], None]
"""Called with the stage, the steps done and their total; any exception it raises stops the work.

Uniform spacing takes one or more additional steps at some step counts, so the total may grow once.
"""


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: its networks on one device, ready to run."""

    variant: Variant
    unet: Network
    vae: PictureCodec
    resampler: TokenResampler
    text: TextEncoder
    vision: ImageEncoder
    device: torch.device
    dtype: torch.dtype
    """The dtype in which the networks compute; sampling is always float32."""
    quantised: Quantised | None = field(default=None, kw_only=True)
    """How the weights of the denoising network's layers are stored; None if in ``dtype``."""
    placement: Placement | None = field(default=None, kw_only=True)
    """What moves the networks to ``device`` when they are called; None if they stay there."""


@dataclass(frozen=True)
class TorchModel(Model):
    """A model of PyTorch modules, which can be trained."""

    unet: VideoUNet
    vae: Autoencoder
    resampler: Resampler
    text: CLIPTextEncoder
    vision: CLIPImageEncoder
    preview: PreviewColours | None = None
    """Colours of the autoencoder's latents, kept with the model when it is saved."""


@dataclass(frozen=True)
class KeyPictures:
    """The images of a batch of clips, ``[b, 3, H, W]`` float32 in [-1, 1]; ``last`` is for interpolation only."""

    first: Tensor
    last: Tensor | None = None
    between: Tensor | None = None
    """The keyframes between first and last, ``[b, n, 3, H, W]``."""
    clip: Tensor | None = None
    """Clips to start from, in mode views to be guided by, ``[b, 3, t, H, W]`` in the same range; None is the first
    image held still."""
    mask: Tensor | None = None
    """What may change, ``[b, 1, H, W]`` from 0 to 1; None is everything."""


def make_generators(model: Model, settings: Sequence[Settings]) -> list[torch.Generator]:
    """One generator for each clip, on the device that its ``noise_device`` selects."""
    return [
        torch.Generator("cpu" if each.noise_device == "cpu" else model.device).manual_seed(each.seed)
        for each in settings
    ]


def may_share_a_batch(one: Settings, other: Settings) -> bool:
    """Whether two clips can be generated in one batch: they differ at most in seed, prompts and fs."""
    if [part.start for part in prompt_parts(one)] != [part.start for part in prompt_parts(other)]:
        return False
    return replace(one, seed=other.seed, prompt=other.prompt, negative=other.negative, fs=other.fs) == other


@torch.inference_mode()
def encode(
    model: Model,
    pictures: KeyPictures,
    settings: Sequence[Settings],
    generators: Sequence[torch.Generator],
) -> Conditioning:
    """Conditions of a batch of clips, each with separate settings.

    Samples the posterior noise of all frames of a clip even if only one frame's is used, as the original script does,
    so that the same seed continues with the same random numbers. Raises DynamiCrafterError for the first encoder whose
    output is not finite.
    """
    perceived = perceive(model, request_of(model, pictures, settings))
    if perceived.text.shape[0] > len(settings):
        # Of several prompts, which the windows of a clip choose from.
        text, negative = (
            rearrange(tokens, "(b p) n c -> b (p n) c", b=len(settings))
            for tokens in (perceived.text, perceived.negative)
        )
        perceived = replace(perceived, text=text, negative=negative)
    made = condition(
        perceived, model.resampler, model.variant.resampler, draw_posterior(model, settings[0], generators)
    )
    for part, values in (
        ("text encoder", made.full.text),
        ("text encoder", made.unconditional.text),
        ("image encoder", perceived.vision),
        ("resampler", made.full.image),
        ("autoencoder", made.concat),
    ):
        require_finite(values, part, model.dtype)
    return made


def request_of(model: Model, pictures: KeyPictures, settings: Sequence[Settings]) -> Request:
    """The inputs of the model's encoders; a clip with several prompts has as many of both kinds."""
    prompts = [(part.text, each.negative) for each in settings for part in prompt_parts(each)]
    return Request(
        # A window of a loop is a clip that begins with the image.
        mode="animate" if needs_windows(settings[0]) else settings[0].mode,
        frames=sampled_frames(settings[0]),
        prompts=[prompt for prompt, _ in prompts],
        negatives=[negative for _, negative in prompts],
        fs=[each.fs for each in settings],
        first=pictures.first.to(model.device),
        last=None if pictures.last is None else pictures.last.to(model.device),
        guide=pictures.clip.to(model.device)
        if settings[0].mode == "views" and pictures.clip is not None
        else None,
    )


def draw_posterior(model: Model, settings: Settings, generators: Sequence[torch.Generator]) -> Tensor:
    """The first random numbers of every clip, ``[b, t, 4, h, w]``: noise for the latents of its images."""
    shape = (sampled_frames(settings), *latent_shape(model.variant, settings))
    return draw_noise(generators, shape, model.device)


def evaluator(network: Network, conditioning: Conditioning, dtype: torch.dtype = torch.float32) -> Evaluate:
    """The evaluations of a network under all conditions of a batch of clips; the network computes in ``dtype``.

    The branches of a step are one batch if the clips are small, otherwise one evaluation after the other.
    """
    contexts: dict[Branch, Context] = {
        "full": conditioning.full,
        "unconditional": conditioning.unconditional,
        "image_only": conditioning.image_only,
    }
    concat = conditioning.concat.to(dtype)

    def evaluate(x: Tensor, timestep: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
        joined = torch.cat([x.to(dtype), concat], dim=1)
        t = torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device)
        chosen = [contexts[branch] for branch in branches]
        count = branches_at_once(x[:, 0].numel(), len(chosen))
        if count == 1:
            return [network(joined, t, context, conditioning.fs).float() for context in chosen]
        context = Context(
            torch.cat([each.text for each in chosen]), torch.cat([each.image for each in chosen])
        )
        out = network(
            joined.repeat(count, 1, 1, 1, 1), t.repeat(count), context, conditioning.fs.repeat(count)
        )
        return out.float().chunk(count)

    return evaluate


@torch.inference_mode()
def source_of(
    model: Model, pictures: KeyPictures, conditioning: Conditioning, settings: Settings
) -> SourceClip | None:
    """The latents that sampling starts from or keeps in part; None if it does neither.

    A clip's frames are encoded one by one, to the mean of their latents. Without a clip they are those of the first
    image. Raises UsageError for an interpolation without a clip.
    """
    mask = None if pictures.mask is None else latent_mask(pictures.mask.to(model.device), LATENT_FACTOR)
    if mask is None and settings.denoise == 1:
        return None
    if pictures.clip is not None:
        frames = rearrange(pictures.clip, "b c t h w -> (b t) 1 c h w").to(model.device, model.dtype)
        latents = torch.cat([model.vae.encode(frame).mean for frame in frames]).float()
        latents = rearrange(latents, "(b t) c h w -> b c t h w", b=pictures.clip.shape[0])
        return SourceClip(latents * model.variant.vae.scale_factor, mask)
    if settings.mode == "interpolate":
        raise UsageError(NO_SOURCE, Remedy("name_video"))
    return SourceClip(repeat_picture(conditioning.concat[:, :, 0], settings.frames), mask)


@torch.inference_mode()
def sample(
    model: Model,
    conditioning: Conditioning,
    settings: Settings,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    *,
    source: SourceClip | None = None,
    network_wrappers: Sequence[NetworkWrapper] = (),
    denoise_wrappers: Sequence[DenoiseWrapper] = (),
) -> Tensor:
    """Latents ``[b, 4, t, h, w]`` float32 of the conditioned clips; ``callback`` is called at every step and may raise.

    ``source`` is the clip to start from if ``denoise`` is below 1, and the one that is kept where it has a mask.
    Wrappers are applied in order, each to the result of the previous one; those of the network see one window at a time
    of a long clip (:attr:`~.model.protocols.Context.frames`). Raises DynamiCrafterError after the first step whose
    result is not finite.
    """
    network = model.unet
    for wrap_network in network_wrappers:
        network = wrap_network(network)
    windowed = needs_windows(settings)
    if windowed:
        network = over_windows(settings)(network)
    channels, height, width = latent_shape(model.variant, settings)

    def draw() -> Tensor:
        noise = draw_noise(generators, (channels, sampled_frames(settings), height, width), model.device)
        return reschedule(noise, generators) if windowed else noise

    noise = draw()
    concat = conditioning.concat
    if settings.image_noise:
        concat = with_image_noise(concat, settings.image_noise * draw()[:, :, :1])
    filtered = None
    if settings.alg_ratio < 1:
        smooth = replace(conditioning, concat=low_pass(concat, settings.alg_ratio))
        filtered = evaluator(network, smooth, model.dtype)
    return run(
        settings,
        model.variant.diffusion,
        evaluator(network, replace(conditioning, concat=concat), model.dtype),
        draw,
        noise=noise,
        source=source,
        layers=weak_layers(settings, model.unet),
        filtered=filtered,
        callback=finite_steps(model.dtype, callback),
        denoise_wrappers=denoise_wrappers,
    )


@torch.inference_mode()
def decode(
    model: Model,
    latents: Tensor,
    pictures: KeyPictures | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Frames ``[b, 3, t, H, W]`` around [-1, 1], unclamped, on the CPU in float32.

    ``pictures`` are for decoders that use them. ``callback`` is called with the frames done and their total, and may
    raise. Raises DynamiCrafterError if the frames are not finite, which would make them black.
    """
    clips = decode_each(model, latents, pictures, callback)
    return torch.stack([torch.cat(list(parts)).transpose(0, 1) for parts in clips])


@torch.inference_mode()
def decode_each(
    model: Model,
    latents: Tensor,
    pictures: KeyPictures | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Iterator[Iterator[Tensor]]:
    """:func:`decode` as it goes: for each clip, an iterator over its frames ``[n, 3, H, W]``, to be read in order."""
    batch, _, frames = latents.shape[:3]
    for clip in range(batch):
        shown = None
        if pictures is not None:
            last = pictures.first if pictures.last is None else pictures.last
            shown = torch.stack([pictures.first[clip], last[clip]])
        yield _decode_clip(model, latents[clip], shown, clip * frames, batch * frames, callback)


@torch.inference_mode()
def _decode_clip(
    model: Model,
    latents: Tensor,
    shown: Tensor | None,
    done: int,
    total: int,
    callback: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """Frames of latents ``[4, t, h, w]``; ``done`` of the ``total`` frames are those of the clips before."""
    latents = rearrange(latents, "c t h w -> t c h w").to(model.device, model.dtype)
    if shown is not None:
        shown = shown.to(model.device, model.dtype)
    for frames in finite_frames(model.vae, latents, shown, model.placement):
        done += len(frames)
        if callback is not None:
            callback(done, total)
        yield frames


def finite_frames(
    vae: FrameDecoder, latents: Tensor, shown: Tensor | None, placement: Placement | None
) -> Iterator[Tensor]:
    """Frames ``[n, 3, H, W]``, float32 on the CPU, of latents and images as a decoder takes them.

    From the first ones that overflow float16, an autoencoder of PyTorch decodes in float32 instead, so that a sampled
    clip is not lost; ``placement`` then releases the device. Raises DynamiCrafterError for frames that are not finite.
    """
    done = 0
    for part in vae.frames(latents, shown):
        frames = part.float().cpu()
        if isinstance(vae, Autoencoder) and overflows(frames, latents.dtype):
            if placement is not None:
                placement.leave()
            wide, images = vae.in_float32(latents.device), None if shown is None else shown.float()
            yield from finite_frames(wide, latents[done:].float(), images, None)
            return
        require_finite(frames, "autoencoder", latents.dtype)
        done += len(frames)
        yield frames


def to_frames(video: Tensor) -> Tensor:
    """Decoded clips ``[b, 3, t, H, W]`` around [-1, 1] as uint8 ``[b, t, H, W, 3]``, truncated as in the original."""
    scaled = (video.clamp(-1, 1) + 1) / 2 * 255
    return rearrange(scaled.to(torch.uint8), "b c t h w -> b t h w c").contiguous()


def generate(
    model: Model,
    pictures: KeyPictures,
    settings: Sequence[Settings],
    progress: Progress | None = None,
    callback: Callback | None = None,
    *,
    control: Control | None = None,
) -> Tensor:
    """A batch of clips, one for each image and its settings, uint8 ``[b, t, H, W, 3]``.

    The last frame of a loop, which repeats the first, is dropped so that it loops without a pause. All clips follow the
    hints of ``control``. Raises UsageError for settings that cannot share a batch.
    """
    with closing(generate_each(model, pictures, settings, progress, callback, control=control)) as clips:
        return torch.stack([torch.cat(list(parts)) for parts in clips])


def generate_each(
    model: Model,
    pictures: KeyPictures,
    settings: Sequence[Settings],
    progress: Progress | None = None,
    callback: Callback | None = None,
    *,
    control: Control | None = None,
) -> Generator[Iterator[Tensor]]:
    """:func:`generate` as it goes: for each clip, an iterator over its frames, uint8 ``[n, H, W, 3]``.

    The latents of all clips are sampled when the first iterator is requested. A clip's frames are decoded while they
    are read, and must be read before the next clip is requested. Close the generator, because an error in decoding
    reaches the reader of the frames alone: until then, the networks stay on the device.
    """
    common = settings[0]
    if not all(may_share_a_batch(common, each) for each in settings):
        raise UsageError(
            "the clips of a batch may differ in seed, prompt, negative prompt and fs only, but other settings differ; "
            "use separate batches"
        )
    if control is not None:
        check_control(common, isinstance(model.unet, VideoUNet))
        control.hints.check(sampled_frames(common))
    if pictures.clip is not None or pictures.mask is not None or common.denoise < 1:
        check_one_part(common)

    def report(stage: Stage, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    def stepped(step: Step) -> None:
        if callback is not None:
            callback(step)
        report("sample", step.index + 1, step.total)

    try:
        generators = make_generators(model, settings)
        if is_in_pieces(common):
            for index, (chosen, generator) in enumerate(zip(settings, generators, strict=True)):
                parts = _in_pieces(model, _images_of(pictures, index), chosen, generator, report, callback)
                yield _in_8_bits(parts, clip_length(chosen))
            return
        report("encode", 0, 1)
        conditioning = encode(model, pictures, settings, generators)
        report("encode", 1, 1)
        source = source_of(model, pictures, conditioning, common)
        report("sample", 0, len(calls_of(common)))
        wrappers = [] if control is None else [controlled(control, common)]
        latents = sample(
            model, conditioning, common, generators, stepped, source=source, network_wrappers=wrappers
        )
        if control is not None:
            control.net.leave()
        if common.length_method == "pick":
            latents = latents[:, :, evenly(common.frames)]
        clips = decode_each(model, latents, pictures, lambda done, total: report("decode", done, total))
        for index, (parts, picture) in enumerate(zip(clips, pictures.first, strict=True)):
            frames = _in_8_bits(faithful(parts, picture.cpu(), common), clip_length(common))
            yield _unmasked_kept(frames, pictures, index)
    finally:
        if model.placement is not None:
            model.placement.leave()
        if control is not None:
            control.net.leave()


def _images_of(pictures: KeyPictures, index: int) -> list[Tensor]:
    """All images of one clip of a batch, ``[3, H, W]`` each on the CPU, in order."""
    between = () if pictures.between is None else pictures.between[index]
    last = () if pictures.last is None else (pictures.last[index],)
    return [image.cpu() for image in (pictures.first[index], *between, *last)]


@torch.inference_mode()
def _in_pieces(
    model: Model,
    images: list[Tensor],
    settings: Settings,
    generator: torch.Generator,
    report: Progress,
    callback: Callback | None,
) -> Iterator[Tensor]:
    """Frames ``[n, 3, H, W]`` of a clip of several pieces, generated one after the other."""
    seen: list[Tensor] = []
    """Tokens of the first image, once it has been seen."""

    def generate_piece(piece: Stretch) -> Tensor:
        index, total, chosen = piece.index, piece.total, piece.settings
        pictures = KeyPictures(*(picture[None] for picture in piece.pictures))

        def stepped(step: Step) -> None:
            if callback is not None:
                callback(step)
            report("sample", index * step.total + step.index + 1, total * step.total)

        report("encode", index, total)
        conditioning = encode(model, pictures, [chosen], [generator])
        if not seen:
            seen.append(conditioning.full.image)
        if piece.anchored:
            text, negative = conditioning.full.text, conditioning.unconditional.text
            conditioning = replace(
                conditioning, full=Context(text, seen[0]), image_only=Context(negative, seen[0])
            )
        report("encode", index + 1, total)
        latents = sample(model, conditioning, chosen, [generator], stepped)
        count = chosen.frames
        (parts,) = decode_each(
            model, latents, pictures, lambda done, _: report("decode", index * count + done, total * count)
        )
        return torch.cat(list(parts))

    yield from in_pieces(generate_piece, images, settings)


def _in_8_bits(parts: Iterator[Tensor], length: int) -> Iterator[Tensor]:
    """The first ``length`` frames; all are decoded, because decoders may need that to finish."""
    for part in parts:
        frames = to_frames(part.transpose(0, 1)[None])[0, :length]
        length -= len(frames)
        if len(frames):
            yield frames


def _unmasked_kept(parts: Iterator[Tensor], pictures: KeyPictures, index: int) -> Iterator[Tensor]:
    """Frames of clip ``index`` with the source's own pixels where the mask is 0, blended where it is below 1."""
    if pictures.mask is None:
        return parts
    kept = pictures.first[index, :, None] if pictures.clip is None else pictures.clip[index]
    return blended(parts, ((kept.cpu() + 1) * 127.5).round().movedim(0, -1), pictures.mask[index, 0].cpu())


def blended(parts: Iterator[Tensor], kept: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Frames, uint8 ``[n, H, W, 3]``, with those of ``kept``, ``[1 or t, H, W, 3]`` from 0 to 255, where ``mask``
    ``[H, W]`` is 0."""
    done = 0
    for frames in parts:
        old = kept if len(kept) == 1 else kept[done : done + len(frames)]
        done += len(frames)
        weight = mask[:, :, None]
        yield (weight * frames + (1 - weight) * old).round().to(torch.uint8)


def latent_shape(variant: Variant, settings: Settings) -> tuple[int, int, int]:
    """Channels, height and width of one frame's latents."""
    return (
        variant.vae.latent_channels,
        settings.height // LATENT_FACTOR,
        settings.width // LATENT_FACTOR,
    )
