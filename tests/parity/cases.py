"""How each kind of golden is repeated with our modules; every function returns named (ours, theirs, tolerance)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from comparison import EXACT, Comparison, Comparisons
from einops import rearrange
from golden import Golden
from torch import Tensor, nn

from dynamicrafter.diffusion.config import DiffusionConfig
from dynamicrafter.diffusion.denoiser import make_denoiser
from dynamicrafter.diffusion.guidance import make_guidance
from dynamicrafter.diffusion.samplers import Step, ddim_constants, sample_ddim
from dynamicrafter.diffusion.schedule import make_plan, make_schedule
from dynamicrafter.media.pictures import as_picture, centre_crop_or_pad, normalise, resize_exact
from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.conditioning import Conditioning
from dynamicrafter.model.configs import (
    TEXT_TOKENS,
    ResamplerConfig,
    TextConfig,
    UNetConfig,
    VaeConfig,
    VisionConfig,
)
from dynamicrafter.model.encoders import (
    CLIPImageEncoder,
    CLIPTextEncoder,
    clip_pixels,
    tokenize,
)
from dynamicrafter.model.layers import sinusoidal_embedding
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.protocols import Context, Posterior
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import V256, V512, V1024, Variant
from dynamicrafter.model.video_decoder import VideoAutoencoder
from dynamicrafter.pipeline import KeyPictures, Model, decode, encode, evaluator, make_generators, sample
from dynamicrafter.settings import Settings

MODULE = 5e-6
"""A module's tolerance; wrong norm epsilons show from 6e-6 on."""
LOOP = 5e-5
"""A sampling loop's or a whole pipeline's tolerance."""


Network = TypeVar("Network", bound=nn.Module)
REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


# Configurations as the sidecars write them


def unet_config(values: dict) -> UNetConfig:
    return UNetConfig(
        in_channels=values["in_channels"],
        out_channels=values["out_channels"],
        model_channels=values["model_channels"],
        channel_mult=tuple(values["channel_mult"]),
        num_res_blocks=values["num_res_blocks"],
        attention_factors=tuple(sorted(values["attention_resolutions"])),
        num_head_channels=values["num_head_channels"],
        context_dim=values["context_dim"],
        learned_image_scale=values.get("image_cross_attention_scale_learnable", False),
    )


def vae_config(values: dict, video_decoder: bool = False) -> VaeConfig:
    return VaeConfig(
        channels=values["ch"],
        channel_mult=tuple(values["ch_mult"]),
        num_res_blocks=values["num_res_blocks"],
        latent_channels=values["z_channels"],
        video_decoder=video_decoder,
    )


def resampler_config(values: dict) -> ResamplerConfig:
    return ResamplerConfig(
        dim=values["dim"],
        depth=values["depth"],
        head_channels=values["dim_head"],
        heads=values["heads"],
        queries_per_frame=values["num_queries"],
        frames=values["video_length"],
        input_dim=values["embedding_dim"],
        output_dim=values["output_dim"],
        ff_mult=values["ff_mult"],
    )


def tower_configs(values: dict) -> tuple[TextConfig, VisionConfig]:
    text, vision = values["text_cfg"], values["vision_cfg"]
    return (
        TextConfig(
            width=text["width"],
            layers=text["layers"] - 1,
            heads=text["heads"],
            vocabulary=text["vocab_size"],
        ),
        VisionConfig(
            width=vision["width"],
            layers=vision["layers"],
            heads=vision["width"] // vision["head_width"],
            patch=vision["patch_size"],
            image_size=vision["image_size"],
        ),
    )


def loaded(module: Network, weights: dict[str, Tensor]) -> Network:
    module.load_state_dict(weights, strict=True)
    return module.train(False)


def rounded(network: Network, dtype: torch.dtype) -> Network:
    """A copy in reduced precision; the network itself keeps the weights that were compared."""
    return copy.deepcopy(network).to(dtype)


def loaded_towers(config: dict, weights: dict[str, Tensor]) -> tuple[CLIPTextEncoder, CLIPImageEncoder]:
    """Both towers out of a whole CLIP model; what never runs (last text block, projections) is left out."""
    text_config, vision_config = tower_configs(config)
    text = CLIPTextEncoder(text_config, torch.float32, "cpu")
    vision = CLIPImageEncoder(vision_config, torch.float32, "cpu")
    visual = {key[len("visual.") :]: value for key, value in weights.items() if key.startswith("visual.")}
    return (
        loaded(text, {key: weights[key] for key in text.state_dict()}),
        loaded(vision, {key: visual[key] for key in vision.state_dict()}),
    )


def split_context(tokens: Tensor, frames: int) -> Context:
    """The original's joined context as ours: image tokens are per frame where their number says so."""
    text, image = tokens[:, :TEXT_TOKENS], tokens[:, TEXT_TOKENS:]
    if image.shape[1] == 16 * frames:
        return Context(text, rearrange(image, "b (t n) c -> b t n c", t=frames))
    return Context(text, image[:, None])


# Modules


def sinusoids(case: Golden) -> Comparisons:
    for key, theirs in case.tensors.items():
        source, _, dim = key.partition("_dim")
        if dim:
            values = case.tensors["timesteps" if source == "t" else source]
            # A frequency that is one unit in the last place off moves the angle by that much times the value; PyTorch's
            # exp differs by it between processors (MKL chooses its code by the model).
            tolerance = max(MODULE, values.max().item() * 2**-24)
            yield Comparison(key, sinusoidal_embedding(values, int(dim)), theirs, tolerance)


def unet(case: Golden) -> Comparisons:
    network = loaded(VideoUNet(unet_config(case.info["config"])), case.weights)
    for name in case.info["cases"]:
        x, t, context, y = (case.tensors[f"{name}.{k}"] for k in ("x", "timesteps", "context", "y"))
        default = torch.full_like(t, case.info["config"]["default_fs"])
        fs = case.tensors.get(f"{name}.fs", default)
        split = split_context(context, x.shape[2])
        yield Comparison(name, network(x, t, split, fs), y, MODULE)
        for label, dtype in REDUCED.items():
            reduced = rounded(network, dtype)
            low = Context(split.text.to(dtype), split.image.to(dtype))
            yield Comparison(f"{name} {label}", reduced(x.to(dtype), t, low, fs).float(), y, None)


def resampler(case: Golden) -> Comparisons:
    network = loaded(Resampler(resampler_config(case.info["config"])), case.weights)
    yield Comparison("tokens", network(case.tensors["x"]), case.tensors["y"], MODULE)
    for label, dtype in REDUCED.items():
        ours = rounded(network, dtype)(case.tensors["x"].to(dtype)).float()
        yield Comparison(f"tokens {label}", ours, case.tensors["y"], None)


def vae(case: Golden) -> Comparisons:
    config = vae_config(case.info["ddconfig"])
    network = loaded(Autoencoder(config), case.weights)
    assert isinstance(network, Autoencoder)
    t = case.tensors
    posterior = network.encode(t["image"])
    sampled = posterior.sample(t["sample_noise"])
    yield Comparison("mode", posterior.mean, t["mode"], MODULE)
    yield Comparison("logvar", posterior.logvar, t["logvar_clamped"], MODULE)
    yield Comparison("sample", sampled, t["sample"], MODULE)
    yield Comparison(
        "scaled sample", network.latents(t["image"], t["sample_noise"]), t["scaled_sample"], MODULE
    )
    yield Comparison("decoded", network.decode(t["z_in"] * config.scale_factor), t["decoded"], MODULE)
    yield Comparison(
        "decoded from scaled", network.decode(t["scaled_latent_in"]), t["decoded_from_scaled"], MODULE
    )
    for label, dtype in REDUCED.items():
        ours = rounded(network, dtype).decode(t["scaled_latent_in"].to(dtype)).float()
        yield Comparison(f"decoded {label}", ours, t["decoded_from_scaled"], None)


def toon_vae(case: Golden) -> Comparisons:
    config = vae_config(case.info["ddconfig"], video_decoder=True)
    network = loaded(VideoAutoencoder(config), case.weights)
    assert isinstance(network, VideoAutoencoder)
    t = case.tensors
    frames = t["clip"].shape[0]
    posterior = network.encode(t["clip"])
    whole = Posterior(t["moments"].chunk(2, dim=1)[0], t["moments"].chunk(2, dim=1)[1].clamp(-30, 20))
    yield Comparison("mean", posterior.mean, whole.mean, MODULE)
    yield Comparison("logvar", posterior.logvar, whole.logvar, MODULE)
    references = network.references(t["clip"][:1], t["clip"][-1:])
    for index, ours in enumerate(references):
        yield Comparison(f"reference {index}", ours, t[f"ref{index}"], MODULE)
    z = t["z_in"] * config.scale_factor
    yield Comparison("decoded", network.decode_clip(z, frames, references), t["decoded"], MODULE)
    yield Comparison(
        "decoded alone", network.decode_clip(z, frames, None), t["decoded_without_reference"], MODULE
    )


def clip_towers(case: Golden) -> Comparisons:
    text, vision = loaded_towers(case.info["config"], case.weights)
    t = case.tensors
    tokens = tokenize(case.info["prompts"])
    yield Comparison("token ids", tokens, t["tokens"], EXACT)
    yield Comparison("text", text.encode(tokens), t["text_penultimate_lnfinal"], MODULE)
    picture = rearrange((t["picture_u8"].float() / 255 - 0.5) * 2, "h w c -> 1 c h w")
    pixels = clip_pixels(picture)
    yield Comparison("pixels", pixels, t["preprocessed_direct_in"], MODULE)
    yield Comparison("image", vision.encode(pixels), t["image_tokens"], MODULE)
    grey = clip_pixels(torch.zeros(1, 3, 40, 72))
    yield Comparison("grey image", vision.encode(grey), t["image_tokens_of_zeros"], MODULE)
    for label, dtype in REDUCED.items():
        ours = rounded(vision, dtype).encode(pixels).float()
        yield Comparison(f"image {label}", ours, t["image_tokens"], None)


def token_ids(case: Golden) -> Comparisons:
    theirs = torch.tensor(case.info["tokens"])
    yield Comparison("token ids", tokenize(case.info["prompts"]), theirs, EXACT)


def clip_preprocessing(case: Golden) -> Comparisons:
    for key, value in case.tensors.items():
        if key.startswith("u8_"):
            picture = rearrange((value.float() / 255 - 0.5) * 2, "h w c -> 1 c h w")
            yield Comparison(key[3:], clip_pixels(picture)[0], case.tensors[f"clip224_{key[3:]}"], MODULE)


def resize_crop(case: Golden) -> Comparisons:
    """The command line script's resize and centre crop, put together from our primitives.

    The demo's variant of the same (``gradio_*``, on floats) is not a path we have; its distance is only reported.
    """
    for key, value in case.tensors.items():
        if key.startswith("u8_"):
            name = key[3:]
            height, width = map(int, name.split("_to_")[1].split("x"))
            source = as_picture(value)
            short, long = min(source.size), max(source.size)
            resized_long = min(height, width) * long // short
            size = (min(height, width), resized_long)
            resized = resize_exact(source, *(size if source.width <= source.height else size[::-1]))
            ours = normalise(centre_crop_or_pad(resized, width, height))
            yield Comparison(name, ours, case.tensors[f"cli_{name}"], EXACT)
            yield Comparison(f"{name} demo", ours, case.tensors[f"gradio_{name}"], None)


# Schedule and sampling


def schedule(case: Golden) -> Comparisons:
    made = make_schedule(diffusion_config(case.info["config"]))
    for name in ("betas", "alphas_cumprod", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"):
        yield Comparison(name, getattr(made, name), case.tensors[name], EXACT)
    if made.scale is not None:
        yield Comparison("scale_arr", made.scale, case.tensors["scale_arr"], EXACT)
    for name in case.info["ddim"]:
        spacing, steps, rest = name.split(".", 2)
        chosen = make_plan(made, spacing, int(steps), float(rest.removeprefix("eta")))  # pyright: ignore
        plan, t = ddim_constants(chosen), case.tensors
        yield Comparison(f"{name} timesteps", torch.tensor(chosen.timesteps), t[f"{name}.timesteps"], EXACT)
        yield Comparison(f"{name} sigmas", plan.sigmas, t[f"{name}.sigmas"], 1e-7)
        yield Comparison(f"{name} alphas", plan.alphas, t[f"{name}.alphas"], EXACT)
        yield Comparison(f"{name} alphas_prev", plan.alphas_prev, t[f"{name}.alphas_prev"], 1e-7)


def diffusion_config(values: dict) -> DiffusionConfig:
    return DiffusionConfig(
        prediction=values["parameterization"],
        zero_snr=values["rescale_betas_zero_snr"],
        base_scale=values["base_scale"] if values.get("use_dynamic_rescale") else None,
    )


def ddim_loop(case: Golden) -> Comparisons:
    info, t = case.info, case.tensors
    weights = case.neighbour(info["unet_weights"])
    network = loaded(VideoUNet(unet_config(weights.info["config"])), weights.weights)
    frames = t["x_T"].shape[2]
    image = split_context(torch.cat([t["text"], t["image_tokens"]], dim=1), frames).image
    text_uncond = t.get("text_uncond", t["text"])
    grey = image
    if "image_tokens_uncond" in t:
        grey = split_context(torch.cat([text_uncond, t["image_tokens_uncond"]], dim=1), frames).image
    conditioning = Conditioning(
        full=Context(t["text"], image),
        unconditional=Context(text_uncond, grey),
        image_only=Context(text_uncond, image),
        concat=t["c_concat"],
        fs=torch.tensor(info["fs"]),
    )
    cfg = info["unconditional_guidance_scale"]
    multi = info["evaluations_per_step"] == 3
    image_cfg = (info.get("cfg_img") or cfg) if multi else None
    guidance = make_guidance(cfg, image_cfg, info["guidance_rescale"])
    made = make_schedule(diffusion_config(info["diffusion"]))
    plan = make_plan(made, info["timestep_spacing"], info["steps_requested"], info["eta"])
    steps: list[Step] = []
    noise = iter(t["noise"])
    denoise = make_denoiser(evaluator(network, conditioning), made, guidance)
    final = sample_ddim(denoise, plan, t["x_T"], lambda: next(noise), steps.append)
    yield Comparison("x", torch.stack([s.x for s in steps]), t["x_steps"], LOOP)
    yield Comparison("x0", torch.stack([s.x0 for s in steps]), t["pred_x0_steps"], LOOP)
    yield Comparison("final", final, t["final"], LOOP)
    timesteps = torch.tensor([s.timestep for s in steps])
    yield Comparison("timesteps", timesteps, torch.tensor(info["timesteps_in_order"]), EXACT)


def pipeline(case: Golden) -> Comparisons:
    """From prompt and picture to frames with nothing but the seed; also the draws themselves are compared."""
    info, t = case.info, case.tensors
    model = pipeline_model(case)
    multi = info.get("multiple_cond_cfg", False)
    settings = Settings(
        mode={"i2v": "animate", "interp": "interpolate", "loop": "loop"}[info["mode"]],  # pyright: ignore
        width=t["picture1_u8"].shape[1],
        height=t["picture1_u8"].shape[0],
        frames=info["frames"],
        fs=info["fs"],
        steps=info["steps"],
        cfg=info["cfg"],
        image_cfg=(info.get("cfg_img") or info["cfg"]) if multi else None,
        eta=info["eta"],
        guidance_rescale=info["guidance_rescale"],
        spacing=info["timestep_spacing"],
        seed=info["torch_seed"],
        fps=8,
        fit="crop",
        prompt=info["prompt"],
    )
    drawn = torch.Generator().manual_seed(settings.seed)
    ours = [torch.randn(shape, generator=drawn) for shape in info["draw_shapes"]]
    theirs = [*t["vae_noise"], t["x_T"], *t["step_noise"]]
    yield Comparison(
        "draws", torch.cat([x.flatten() for x in ours]), torch.cat([x.flatten() for x in theirs]), EXACT
    )
    last = picture(t["picture2_u8"]) if "picture2_u8" in t else None
    pictures = KeyPictures(picture(t["picture1_u8"]), last)
    generators = make_generators(model, [settings])
    latents = sample(model, encode(model, pictures, [settings], generators), settings, generators)
    yield Comparison("latents", latents, t["final_latent"], LOOP)
    yield Comparison("video", decode(model, latents), t["video"], LOOP)


def pipeline_model(case: Golden) -> Model:
    """The small model of the whole-pipeline goldens, put together from its weight files."""
    base = {"256_v1": V256, "512_v1": V512, "1024_v1": V1024}[case.info["variant"]]
    parts, clip = case.neighbour("e2e_parts"), case.neighbour("e2e_clip")
    unet_case = case.neighbour(case.info["unet_weights"])
    text_config, vision_config = tower_configs(clip.info["config"])
    variant: Variant = replace(
        base,
        unet=unet_config(unet_case.info["config"]),
        vae=vae_config(parts.info["vae_ddconfig"]),
        resampler=resampler_config(parts.info["resampler"]),
        text=text_config,
        vision=vision_config,
    )
    text, vision = loaded_towers(clip.info["config"], section(clip, "clip."))
    return Model(
        variant=variant,
        unet=loaded(VideoUNet(variant.unet, Operations()), unet_case.weights),  # pyright: ignore
        vae=loaded(Autoencoder(variant.vae), section(parts, "first_stage_model.")),  # pyright: ignore
        resampler=loaded(Resampler(variant.resampler), section(parts, "image_proj_model.")),  # pyright: ignore
        text=text,
        vision=vision,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def section(case: Golden, prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v.float() for k, v in case.tensors.items() if k.startswith(prefix)}


def picture(u8: Tensor) -> Tensor:
    return rearrange((u8.float() / 255 - 0.5) * 2, "h w c -> 1 c h w")


def weights_only(case: Golden) -> Comparisons:
    """Weights that other cases use; they are checked there."""
    assert case.tensors, f"{case.name} holds no weights"
    yield from ()


KINDS: dict[str, Callable[[Golden], Comparisons]] = {
    "sinusoidal embedding": sinusoids,
    "reference UNet forward": unet,
    "reference image token resampler": resampler,
    "reference KL autoencoder": vae,
    "ToonCrafter first stage": toon_vae,
    "open_clip CLIP": clip_towers,
    "token ids": token_ids,
    "image embedder preprocessing": clip_preprocessing,
    "frame resize+crop": resize_crop,
    "reference diffusion buffers": schedule,
    "reference DDIM loop": ddim_loop,
    "reference command-line pipeline": pipeline,
    "UNet weights": weights_only,
    "CLIP weights": weights_only,
    "VAE and resampler weights": weights_only,
}
"""The beginning of a sidecar's ``what`` and the function that repeats it."""
