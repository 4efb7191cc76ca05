"""How the goldens of AnimateAnyone are repeated with our modules, as cases.py does for DynamiCrafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from comparison import EXACT, Comparison, Comparisons
from einops import rearrange
from golden import Golden
from PIL import Image
from torch import Tensor, nn

from dynamicrafter.animate_anyone.attention import MotionModule, SpatialBlock, temporal_positions
from dynamicrafter.animate_anyone.config import EmbedderConfig, PairConfig, PersonConfig, PoseGuiderConfig
from dynamicrafter.animate_anyone.drawing import draw
from dynamicrafter.animate_anyone.embedder import ImageEmbedder, embedder_pixels
from dynamicrafter.animate_anyone.keypoints import Person, person_of_coco
from dynamicrafter.animate_anyone.layout import Part, locate_person
from dynamicrafter.animate_anyone.pipeline import (
    DIFFUSION,
    PersonConditioning,
    PersonModel,
    features_of,
    interpolated,
    person_frames,
    resized,
    sample_person,
)
from dynamicrafter.animate_anyone.pose_guider import PoseGuider
from dynamicrafter.animate_anyone.unet import DenoisingUNet, ReferenceUNet
from dynamicrafter.diffusion.denoiser import translate
from dynamicrafter.diffusion.samplers import Step, ddim_constants, ddim_step
from dynamicrafter.diffusion.schedule import make_schedule, make_strided_plan
from dynamicrafter.diffusion.windows import wrapping_windows
from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.configs import VaeConfig
from dynamicrafter.model.operations import PLAIN

LAYER = 2e-6
NETWORK = 1e-5
PIPELINE = 5e-5
ROUNDED = 1e-4
"""A pipeline whose bank the original rounds to half precision; a rounding may go the other way."""
SCHEDULE = 4e-6
"""Betas are differences to 1 of ratios of float32 numbers, so one unit in the last place of a root shows as this."""


def filled(network: nn.Module, part: Part, weights: dict[str, Tensor], config: PersonConfig) -> Any:
    """A network with a golden's weights, each of which must have a place."""
    held = network.state_dict()
    left = set(held)
    for key, values in weights.items():
        place = locate_person(part, key, config)
        assert place is not None, f"{key} is unknown"
        if place.component is None:
            continue
        target = held[place.name].view(-1)
        length = target.numel() // place.parts
        assert values.numel() == length, f"{key} has {values.numel()} values instead of {length}"
        target[place.part * length : (place.part + 1) * length] = values.reshape(-1)
        left.discard(place.name)
    assert not left, f"no weights for {sorted(left)[:3]}"
    return network.train(False)


def pair_config(values: dict[str, Any]) -> PairConfig:
    return PairConfig(
        widths=tuple(values["block_out_channels"]),
        blocks=values["layers_per_block"],
        heads=values["attention_head_dim"],
        context_dim=values["cross_attention_dim"],
        norm_groups=values["norm_num_groups"],
    )


def pose_config(values: dict[str, Any]) -> PoseGuiderConfig:
    return PoseGuiderConfig(tuple(values["block_out_channels"]), values["conditioning_embedding_channels"])


def vae_config(values: dict[str, Any]) -> VaeConfig:
    first = values["block_out_channels"][0]
    return VaeConfig(
        channels=first,
        channel_mult=tuple(width // first for width in values["block_out_channels"]),
        num_res_blocks=values["layers_per_block"],
        norm_groups=values["norm_num_groups"],
    )


def embedder_config(values: dict[str, Any]) -> EmbedderConfig:
    return EmbedderConfig(
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        inner=values["intermediate_size"],
        patch=values["patch_size"],
        image_size=values["image_size"],
        out_dim=values["projection_dim"],
    )


def pair(case: Golden, letter: str) -> tuple[ReferenceUNet, DenoisingUNet]:
    seen = case.neighbour(f"aa_unet_{letter}_reference_weights")
    made = case.neighbour(f"aa_unet_{letter}_denoising_weights")
    config = pair_config(made.info["config"])
    return (
        filled(ReferenceUNet(config), "reference", stored(seen), PersonConfig(pair=config)),
        filled(DenoisingUNet(config), "denoising", stored(made), PersonConfig(pair=config)),
    )


def stored(case: Golden) -> dict[str, Tensor]:
    """The tensors of a golden that is nothing but weights."""
    return {key: values.float() for key, values in case.tensors.items()}


def small_vae(case: Golden) -> Autoencoder:
    found = case.neighbour("aa_vae")
    config = vae_config(found.info["config"])
    return filled(Autoencoder(config), "vae", found.weights, PersonConfig(vae=config))


def small_embedder(case: Golden) -> ImageEmbedder:
    found = case.neighbour("aa_clip")
    config = embedder_config(found.info["config"])
    return filled(ImageEmbedder(config), "embedder", found.weights, PersonConfig(embedder=config))


def picture(values: Tensor) -> Image.Image:
    return Image.fromarray(values.numpy())


# Modules


def block(case: Golden) -> Comparisons:
    t, info = case.tensors, case.info
    made: list[SpatialBlock] = []
    for side in ("writer", "reader"):
        weights = {key.removeprefix(f"{side}."): v for key, v in case.weights.items() if key.startswith(side)}
        network = SpatialBlock(info["dim"], info["heads"], info["cross_attention_dim"], PLAIN)
        # The names of a block within a network tell which of its tensors have no effect.
        path = "down_blocks.0.attentions.0.transformer_blocks.0."
        holder = nn.ModuleDict({"block": network})
        for key, values in weights.items():
            place = locate_person("denoising", path + key, PersonConfig())
            if place is not None and place.component is not None:
                holder.state_dict()[f"block.{key}"].copy_(values)
        made.append(network)
    writer, reader = made
    out, bank = writer(t["writer_hidden"], t["writer_context"])
    yield Comparison("writer", out, t["writer_out"], LAYER)
    yield Comparison("bank", bank, t["writer_bank"], LAYER)
    frames = info["frames"]
    hidden, context = t["reader_hidden"], t["reader_context"][::frames]

    def read(features: Tensor) -> Tensor:
        return reader(hidden[frames:], context[1:], reader.project(features[1:]))[0]

    plain = reader(hidden[:frames], context[:1])[0]
    bank = t["writer_bank"]
    yield Comparison("guided", torch.cat([plain, read(bank)]), t["reader_out_cfg"], LAYER)
    yield Comparison("not guided", read(bank), t["reader_out_nocfg"], LAYER)
    half = torch.cat([plain, read(bank.half().float())])
    yield Comparison("half bank", half, t["reader_out_cfg_bank_fp16"], LAYER)
    yield Comparison("no bank", reader(hidden, context)[0], t["reader_out_nobank"], LAYER)


def motion_module(case: Golden) -> Comparisons:
    network = filled(MotionModule(case.info["channels"], PLAIN), "denoising", case.weights, PersonConfig())
    for name in case.info["cases"]:
        x = case.tensors[f"{name}.x"]
        y = network(rearrange(x, "b c f h w -> (b f) c h w"), x.shape[2])
        yield Comparison(
            name, rearrange(y, "(b f) c h w -> b c f h w", f=x.shape[2]), case.tensors[f"{name}.y"], LAYER
        )


def positions(case: Golden) -> Comparisons:
    for name, table in case.tensors.items():
        # Sine and exponential differ in the last place between processors.
        yield Comparison(name, temporal_positions(table.shape[1], table.shape[2])[None], table, LAYER)


def pose_guider(case: Golden) -> Comparisons:
    config = pose_config(case.info)
    network = filled(PoseGuider(config), "pose_guider", case.weights, PersonConfig(pose_guider=config))
    yield Comparison("features", network(case.tensors["x"]), case.tensors["y"], LAYER)


def probe(case: Golden) -> Comparisons:
    """Single layers of the networks of other goldens on small inputs."""
    t = case.tensors
    unet, vae, embedder = pair(case, "b")[1], small_vae(case), small_embedder(case)
    stage = unet.down_blocks[0]
    frames = t["x"].shape[2]
    x = rearrange(t["x"], "b c f h w -> (b f) c h w")

    def clip(values: Tensor) -> Tensor:
        return rearrange(values, "(b f) c h w -> b c f h w", f=frames)

    transformer = stage.attentions[0]
    yield Comparison("res block", clip(stage.resnets[0](x, t["emb"])), t["res_block"], LAYER)
    yield Comparison("spatial", clip(transformer(x, t["context"])[0]), t["spatial_transformer"], LAYER)
    tokens = transformer.transformer_blocks[0](t["tokens"], t["context"])[0]
    yield Comparison("block", tokens, t["transformer_block"], LAYER)
    yield Comparison("motion", clip(stage.motion_modules[0](x, frames)), t["motion_module"], LAYER)
    head = unet.conv_out(nn.functional.silu(unet.conv_norm_out(x)))
    yield Comparison("head", clip(head), t["out_head"], LAYER)
    first = vae.encoder.down[0].get_submodule("block.0")
    yield Comparison("autoencoder's block", first(t["vae_x"]), t["vae_res_block"], LAYER)
    middle = vae.encoder.mid.attn_1(t["vae_mid_x"])
    yield Comparison("autoencoder's attention", middle, t["vae_mid_attention"], LAYER)
    last = vae.decoder.conv_out(nn.functional.silu(vae.decoder.norm_out(t["vae_decoder_head_x"])))
    yield Comparison("autoencoder's head", last, t["vae_decoder_head"], LAYER)
    layer = embedder.transformer.resblocks[0](t["clip_x"])
    yield Comparison("embedder's layer", layer, t["clip_layer"], LAYER)
    yield Comparison("embedder's norm", embedder.ln_pre(t["clip_x"]), t["clip_pre_norm"], LAYER)


# Networks


def networks(case: Golden) -> Comparisons:
    letter = case.name.removeprefix("aa_unet_")[0]
    seeing, making = pair(case, letter)
    config = making.config
    still = DenoisingUNet(config, motion=False)
    still.load_state_dict({k: v for k, v in making.state_dict().items() if k in still.state_dict()})
    for name, info in case.info["cases"].items():
        given = {
            key.removeprefix(f"{name}."): v for key, v in case.tensors.items() if key.startswith(f"{name}.")
        }
        guided, bank = info["classifier_free_guidance"], info["bank"]
        context = given["context"]
        features = seeing(given["ref_latent"], context)
        for path, tokens in features.items():
            written = given.get(f"bank.{path}.transformer_blocks.0")
            if written is not None:
                yield Comparison(f"{name} {path}", tokens, written, NETWORK)
        if "16" in bank:
            features = {path: tokens.half().float() for path, tokens in features.items()}
        t = given["timestep"].expand(1)
        for network, wanted in ((making, "y"), (still, "y_without_motion_modules")):
            rows: list[Tensor] = []
            for row in range(given["x"].shape[0]):
                sees = not bank.startswith("none") and not (guided and row == 0)
                reference = (
                    network.project({p: v[row : row + 1] for p, v in features.items()}) if sees else None
                )
                pose = given.get("pose_feature")
                if pose is not None and pose.shape[0] > 1:
                    pose = pose[row : row + 1]
                rows.append(network(given["x"][row : row + 1], t, context[row : row + 1], pose, reference))
            yield Comparison(f"{name} {wanted}", torch.cat(rows), given[wanted], NETWORK)


def autoencoder(case: Golden) -> Comparisons:
    t, vae = case.tensors, small_vae(case)
    posterior = vae.encode(t["image"])
    yield Comparison("mean", posterior.mean, t["mean"], NETWORK)
    yield Comparison("scaled", posterior.mean * vae.config.scale_factor, t["scaled_mean"], NETWORK)
    decoded = vae.decode(t["latent_scaled"])
    yield Comparison("decoded", decoded, t["decoded"], NETWORK)
    yield Comparison("frame", (decoded / 2 + 0.5).clamp(0, 1), t["frame"], NETWORK)


def embeddings(case: Golden) -> Comparisons:
    network = small_embedder(case)
    for name, values in case.tensors.items():
        if name.startswith("u8_"):
            size = name.removeprefix("u8_")
            pixels = embedder_pixels(picture(values))
            if f"pixel_values_{size}" in case.tensors:
                yield Comparison(f"pixels {size}", pixels, case.tensors[f"pixel_values_{size}"], LAYER)
            yield Comparison(size, network(pixels)[:, 0], case.tensors[f"image_embeds_{size}"], NETWORK)


# Everything else


def resizing(case: Golden) -> Comparisons:
    for name, values in case.tensors.items():
        if name.startswith("u8_"):
            label = name.removeprefix("u8_")
            height, width = map(int, label.rpartition("_")[2].split("x"))
            pixels = resized(picture(values), width, height)[None].float() / 255
            yield Comparison(f"pose {label}", pixels, case.tensors[f"pose_{label}"], EXACT)
            yield Comparison(f"reference {label}", pixels * 2 - 1, case.tensors[f"reference_{label}"], LAYER)


def noise_schedule(case: Golden) -> Comparisons:
    t = case.tensors
    schedule = make_schedule(DIFFUSION)
    yield Comparison("betas", schedule.betas, t["betas"], SCHEDULE)
    yield Comparison("abar", schedule.alphas_cumprod, t["alphas_cumprod"], SCHEDULE)
    for count, wanted in case.info["steps"].items():
        plan = make_strided_plan(schedule, int(count), 0.0)
        # At some counts the original's list has an entry below zero.
        kept = [i for i, step in enumerate(wanted["timesteps"]) if step >= 0]
        for name, ours in (("timesteps", plan.timesteps), ("prev", plan.targets)):
            theirs = [max(-1, wanted[name][i]) for i in kept]
            yield Comparison(f"{count} {name}", torch.tensor(ours[::-1]), torch.tensor(theirs), EXACT)
    for name in sorted({key.rpartition(".")[0] for key in t if key.startswith("S")}):
        count, eta, timestep = (
            name[1:].split(".", 1)[0],
            name.split("eta")[1].split(".t")[0],
            int(name.split(".t")[1]),
        )
        plan = make_strided_plan(schedule, int(count), float(eta))
        x = t[f"{name}.x"]
        estimate = translate(t[f"{name}.model_output"], x, schedule, timestep)
        fresh = t.get(f"{name}.noise", torch.zeros_like(x))
        after = ddim_step(
            estimate.x0, estimate.noise, fresh, ddim_constants(plan), plan.timesteps.index(timestep)
        )
        yield Comparison(f"{name} x0", estimate.x0, t[f"{name}.x0"], LAYER)
        yield Comparison(name, after, t[f"{name}.x_prev"], LAYER)


def windows(case: Golden) -> Comparisons:
    for info in case.info["cases"]:
        # The pipeline asks for step 0 only.
        if info["step"] == 0:
            planned = wrapping_windows(
                info["num_frames"], info["context_frames"], info["context_overlap"], info["context_stride"]
            )
            ours = torch.tensor([window.frames for window in planned])
            yield Comparison(str(info["num_frames"]), ours, torch.tensor(info["windows"]), EXACT)


def drawings(case: Golden) -> Comparisons:
    """Compared by the share of pixels that differ; polygons are OpenCV's to 0.2 %."""

    def points(places: list[list[float]]) -> tuple[tuple[float, float] | None, ...]:
        return tuple(None if x < 0 or y < 0 else (x, y) for x, y in places)

    def compare(name: str, ours: Any, theirs: Any) -> Comparison:
        share = float((np.asarray(ours) != np.asarray(theirs)).any(-1).mean())
        return Comparison(name, torch.tensor([1 + share]), torch.ones(1), 0.002)

    nobody = (None,) * 18
    for name, info in case.info["cases"].items():
        joints = info["subset"][0]
        body = tuple(None if i < 0 else (info["body"][int(i)][0], info["body"][int(i)][1]) for i in joints)
        hands, face = tuple(points(hand) for hand in info["hands"]), points(info["face"][0])
        whole = {
            "image": Person(body, hands, face),
            "body_only": Person(body),
            "hands_only": Person(nobody, hands),
            "face_only": Person(nobody, (), face),
        }
        for what, person in whole.items():
            drawn = draw(person, info["H"], info["W"])
            yield compare(f"{name} {what}", drawn, case.tensors[f"{name}.{what}"])
    info = case.info["wholebody"]
    height, width = info["detect_HxW"]
    person = person_of_coco(info["keypoints_pixels_of_detect_size"], info["scores"], width, height)
    with Image.open(case.folder / "aa_pose_draw_wholebody.png") as drawn:
        yield compare("wholebody", draw(person, height, width), drawn)


def pipeline(case: Golden) -> Comparisons:
    info, t = case.info, case.tensors
    guider = case.neighbour("aa_pipe_pose_guider")
    posing = pose_config(guider.info)
    seeing, making = pair(case, "b")
    vae, embedder = small_vae(case), small_embedder(case)
    config = PersonConfig(making.config, posing, embedder.config, vae.config)
    model = PersonModel(
        config,
        seeing,
        making,
        filled(PoseGuider(posing), "pose_guider", guider.weights, config),
        vae,
        embedder,
        torch.device("cpu"),
        torch.float32,
    )
    tolerance = ROUNDED if "original" in case.name else PIPELINE
    width, height = info["width"], info["height"]
    context, features = features_of(model, picture(t["reference_u8"]), width, height)
    yield Comparison("context", context, t["context"][-1:], NETWORK)
    if "16" in info["bank"]:
        features = {path: tokens.half().float() for path, tokens in features.items()}
    poses = torch.stack([resized(picture(pose), width, height) for pose in t["poses_u8"]])
    conditioning = PersonConditioning(context, making.project(features), poses)
    pose = model.pose_guider(poses[:1].float().movedim(0, 1)[None] / 255)
    yield Comparison("pose features", pose[:, :, 0], t["pose_feature_frame0"], NETWORK)
    torch.manual_seed(info["torch_seed"])
    noise = torch.randn(tuple(conditioning.latent_shape))
    yield Comparison("noise", noise, t["x_T"], EXACT)
    fresh: Iterator[Tensor] = iter(t.get("step_noise", torch.zeros((info["steps"], *noise.shape))))
    steps: list[Step] = []
    latents = sample_person(
        model,
        conditioning,
        wrapping_windows(info["frames"], *info["context_frames_overlap"]),
        noise,
        lambda: next(fresh),
        steps=info["steps"],
        cfg=info["guidance_scale"],
        eta=info["eta"],
        callback=steps.append,
    )
    yield Comparison("latents", torch.stack([step.x for step in steps]), t["x_steps"], tolerance)
    if info["interpolation_factor"] > 1:
        latents = interpolated(latents, info["interpolation_factor"])
        yield Comparison("interpolated", latents, t["latents_after_interpolation"], tolerance)
    frames = list(person_frames(model, latents))
    yield Comparison("first frame", frames[0], t["video_first_frame"], tolerance)
    yield Comparison("last frame", frames[-1], t["video_last_frame"], tolerance)


def nothing(case: Golden) -> Comparisons:
    """Weights for other cases, or what only an older class of the original does."""
    return iter(())


PERSON_KINDS: dict[str, Callable[[Golden], Comparisons]] = {
    "one transformer block": block,
    "one motion module": motion_module,
    "position table": positions,
    "pose guider:": pose_guider,
    "pose guider weights": nothing,
    "single layers": probe,
    "reference network features": networks,
    "denoising network weights": nothing,
    "reference network weights": nothing,
    "KL autoencoder in diffusers naming": autoencoder,
    "CLIP image path": embeddings,
    "picture resizing": resizing,
    "noise schedule (float32)": noise_schedule,
    "windows of the original": windows,
    "openpose-style drawing": drawings,
    "whole pipeline, long": pipeline,
    "whole pipeline, older": nothing,
}
"""As ``KINDS`` of cases.py."""
