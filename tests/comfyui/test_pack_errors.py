"""Bad inputs of the pack's nodes in a real server: what is refused, when, and in which words; and what is not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import (
    BUILT_IN,
    Prompt,
    animate,
    conditioned,
    decoded,
    latents_of,
    node,
    sampled,
    saved_latent,
    upload_pictures,
    with_ksampler,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from comfyui_client import Client
    from comfyui_server import Server


@pytest.fixture
def ready(client: Client) -> Client:
    """A client whose server has the pictures."""
    upload_pictures(client)
    return client


@pytest.fixture(scope="module")
def checkpoints(pack_server: Server) -> Path:
    """The server's folder of checkpoints, with files that cannot be used and small ones that differ."""
    import torch
    from safetensors.torch import save_file

    from dynamicrafter.model.configs import ResamplerConfig
    from dynamicrafter.model.variants import SMALL
    from dynamicrafter.weights.random_model import write_random_checkpoint

    folder = pack_server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    stable = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({stable: torch.zeros(320, 768)}, folder / "sd15.safetensors")
    lora = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file(
        {f"{lora}.lora_up.weight": torch.zeros(4, 4), f"{lora}.lora_down.weight": torch.zeros(4, 4)},
        folder / "lora.safetensors",
    )
    save_file({"first_stage_model.decoder.conv_in.weight": torch.zeros(4)}, folder / "vae.safetensors")
    (folder / "broken.safetensors").write_bytes(b"no weights at all")
    write_random_checkpoint(folder / "pruned.safetensors", towers=False)
    narrow = replace(
        SMALL,
        name="narrow",
        modes=("animate",),
        text=replace(SMALL.text, width=32),
        vision=replace(SMALL.vision, width=32),
        unet=replace(SMALL.unet, context_dim=32),
        resampler=ResamplerConfig(
            dim=32, depth=1, head_channels=16, heads=2, input_dim=32, output_dim=32, ff_mult=1
        ),
    )
    write_random_checkpoint(folder / "narrow.safetensors", narrow)
    return folder


def other_loader(checkpoint: str, variant: str = "auto") -> dict[str, Any]:
    """A second loader node."""
    return node("DynamiCrafterCheckpointLoader", checkpoint=checkpoint, variant=variant, weight_dtype="auto")


def fails(client: Client, prompt: Prompt, culprit: str, message: str) -> None:
    """The prompt is queued and ends in an error of node ``culprit`` before anything is sampled or decoded."""
    run = client.run(prompt)
    assert run.status == "error"
    assert run.error["node_id"] == culprit, run.error["exception_message"]
    assert re.search(message, run.error["exception_message"]), run.error["exception_message"]
    assert run.error["exception_type"] in ("ValueError", "RuntimeError")
    assert not [value for value, _ in run.progress(culprit) if value]


def fails_early(client: Client, prompt: Prompt, culprit: str, message: str) -> None:
    """Like :func:`fails`, before a checkpoint is loaded: in a precision in which no test has loaded one."""
    unloaded = {name: {**entry, "inputs": dict(entry["inputs"])} for name, entry in prompt.items()}
    if "loader" in unloaded:
        unloaded["loader"]["inputs"]["weight_dtype"] = "fp8_e5m2"
    run = client.run(unloaded)
    assert run.status == "error"
    assert run.error["node_id"] == culprit, run.error["exception_message"]
    assert re.search(message, run.error["exception_message"]), run.error["exception_message"]
    assert run.error["exception_type"] == "ValueError"
    assert not {"loader", "animate.0.0.1"} & {*run.executed, *run.cached}


def windowed(client: Client, kind: str, sampling: Callable[..., Prompt], length: int, dim: int = 0) -> Prompt:
    """A prompt of four frames with a node of core's Context Windows, as far as this version has these inputs."""
    known = client.object_info()[kind]["input"]
    choices = {
        "context_length": length,
        "context_overlap": 1,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": dim,
        "freenoise": False,
        "cond_retain_index_list": "",
        "split_conds_to_windows": False,
        "latent_retain_index_list": "",
        "retain_first_frame": False,
        "causal_window_fix": False,
    }
    names = {**known["required"], **known.get("optional", {})}
    inputs = {name: value for name, value in choices.items() if name in names}
    prompt = saved_latent(sampling(conditioned(), model=["windows", 0]))
    return {**prompt, "windows": node(kind, model=["loader", 0], **inputs)}


def refused(client: Client, prompt: Prompt) -> str:
    """What the server says when it does not even queue the prompt."""
    from comfyui_client import RequestRefused

    with pytest.raises(RequestRefused, match="HTTP 400") as refusal:
        client.queue(prompt)
    return refusal.value.messages()


class TestCheckpoints:
    def test_one_that_is_not_there_is_refused(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned()))
        prompt["loader"]["inputs"]["checkpoint"] = "gone.safetensors"
        assert "checkpoint: 'gone.safetensors' not in" in refused(ready, prompt)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "sd15",
                r"sd15\.safetensors is not a DynamiCrafter checkpoint but Stable Diffusion 1\.5; the README",
            ),
            ("lora", "is not a DynamiCrafter checkpoint but a LoRA, which extends a model"),
            ("vae", "is not a DynamiCrafter checkpoint but only an autoencoder"),
            ("broken", r"broken\.safetensors"),
        ],
    )
    @pytest.mark.usefixtures("checkpoints")
    def test_another_kind_of_file_is_named(self, ready: Client, name: str, message: str) -> None:
        prompt = saved_latent(sampled(conditioned()))
        prompt["loader"] = other_loader(f"{name}.safetensors")
        fails(ready, prompt, "loader", message)

    def test_another_variant_than_the_file_is_named(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned()))
        prompt["loader"] = other_loader(BUILT_IN, "512_v1")
        fails(ready, prompt, "loader", "was detected as small, not 512_v1; set the variant input to auto")

    @pytest.mark.usefixtures("checkpoints")
    def test_a_pruned_one_says_which_encoder_to_connect(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned()))
        prompt["loader"] = other_loader("pruned.safetensors")
        fails(ready, prompt, "cond", "no image encoder in this checkpoint; connect a core CLIPVisionLoader")
        prompt["towers"] = other_loader(BUILT_IN)
        prompt["cond"]["inputs"]["clip_vision"] = ["towers", 2]
        fails(ready, prompt, "cond", "no text for positive; connect")
        prompt["cond"]["inputs"]["clip"] = ["towers", 1]
        assert ready.run(prompt).status == "success"
        # A socket that gives nothing is as good as none, also when the text comes from elsewhere.
        prompt["text"] = node("CLIPTextEncode", clip=["towers", 1], text="fog")
        prompt["cond"]["inputs"].update(clip=["loader", 1], positive=["text", 0], negative=["text", 0])
        assert ready.run(prompt).status == "success"

    @pytest.mark.usefixtures("checkpoints")
    def test_a_pruned_one_in_the_one_node_start_takes_encoders_from_elsewhere(self, ready: Client) -> None:
        prompt = animate(checkpoint="pruned.safetensors")
        prompt["towers"] = other_loader(BUILT_IN)
        fails_early(ready, prompt, "animate", "no text encoder in this checkpoint; connect a core CLIPLoader")
        prompt["animate"]["inputs"]["clip"] = ["towers", 1]
        fails_early(ready, prompt, "animate", "connect a core CLIPVisionLoader with CLIP-ViT-H-14")
        prompt["animate"]["inputs"]["clip_vision"] = ["towers", 2]
        assert ready.run(prompt).status == "success"


class TestEncoders:
    @pytest.mark.usefixtures("checkpoints")
    def test_a_text_encoder_of_another_width_is_named(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned(clip=["narrow", 1])))
        prompt["narrow"] = other_loader("narrow.safetensors")
        fails(
            ready,
            prompt,
            "cond",
            "positive comes from a text encoder of width 32, but this model needs width 64",
        )

    @pytest.mark.usefixtures("checkpoints")
    def test_so_is_that_of_text_from_elsewhere(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned(negative=["text", 0])))
        prompt["narrow"] = other_loader("narrow.safetensors")
        prompt["text"] = node("CLIPTextEncode", clip=["narrow", 1], text="fog")
        fails(
            ready,
            prompt,
            "cond",
            "negative comes from a text encoder of width 32, but this model needs width 64",
        )

    @pytest.mark.usefixtures("checkpoints")
    def test_an_image_encoder_of_another_width_is_named(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned(clip_vision=["narrow", 2])))
        prompt["narrow"] = other_loader("narrow.safetensors")
        fails(
            ready,
            prompt,
            "cond",
            "clip_vision is an encoder of width 32, but this model needs .* of width 64",
        )

    def test_text_from_core_nodes_is_what_our_prompts_are(self, ready: Client) -> None:
        own = latents_of(ready, ready.run(saved_latent(sampled(conditioned(negative_prompt="fog")))))
        prompt = conditioned(clip=None, positive=["text", 0], negative=["fog", 0])
        prompt["text"] = node("CLIPTextEncode", clip=["loader", 1], text="a boat")
        prompt["fog"] = node("CLIPTextEncode", clip=["loader", 1], text="fog")
        assert latents_of(ready, ready.run(saved_latent(sampled(prompt)))).equal(own)

    @pytest.mark.usefixtures("checkpoints")
    def test_a_model_that_was_not_trained_to_interpolate_says_so(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned("DynamiCrafterInterpolation")))
        prompt["loader"] = other_loader("narrow.safetensors")
        fails(
            ready,
            prompt,
            "cond",
            "narrow was trained to animate, not to interpolate; the README lists the models",
        )


class TestFeaturesOfTheHost:
    """What core offers and the network does not take is told, with core's sampler and with ours."""

    @pytest.fixture(params=[sampled, with_ksampler], ids=["ours", "core"])
    def sampling(self, request: pytest.FixtureRequest) -> Callable[..., Prompt]:
        return request.param

    @pytest.fixture
    def control_net(self, pack_server: Server) -> str:
        """A small T2I adapter, which core loads as one; the layout is core's, the weights are zero."""
        import torch
        from safetensors.torch import save_file

        folder = pack_server.base / "models" / "controlnet"
        folder.mkdir(parents=True, exist_ok=True)
        widths = (32, 64, 128, 128)
        shapes: dict[str, tuple[int, ...]] = {"conv_in": (widths[0], 192, 3, 3)}
        for block in range(8):
            width, before = widths[block // 2], widths[max(0, block // 2 - (block % 2 == 0))]
            if width != before:
                shapes[f"body.{block}.in_conv"] = (width, before, 1, 1)
            shapes[f"body.{block}.block1"] = (width, width, 3, 3)
            shapes[f"body.{block}.block2"] = (width, width, 1, 1)
        weights = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
        weights |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
        save_file(weights, folder / "adapter.safetensors")
        return "adapter.safetensors"

    def test_a_control_net(self, ready: Client, sampling: Callable[..., Prompt], control_net: str) -> None:
        prompt = saved_latent(sampling(conditioned(), positive=["hint", 0]))
        prompt["net"] = node("ControlNetLoader", control_net_name=control_net)
        prompt["hint"] = node(
            "ControlNetApply",
            conditioning=["cond", 0],
            control_net=["net", 0],
            image=["image", 0],
            strength=1.0,
        )
        fails(
            ready, prompt, "sampler", "does not support T2IAdapter; use a ControlNet for Stable Diffusion 2.1"
        )

    @pytest.mark.parametrize(
        ("kind", "choices", "message"),
        [
            # Ours does not run what changes the guidance; core's sampler does.
            (
                "PerturbedAttentionGuidance",
                {"scale": 3.0},
                r"does not support what a node has added to the model .*; remove",
            ),
            (
                "FreeU",
                {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
                r"does not support patches of its layers \(output_block_patch\) yet; remove the node",
            ),
        ],
    )
    def test_patches_of_layers(
        self,
        ready: Client,
        sampling: Callable[..., Prompt],
        kind: str,
        choices: dict[str, float],
        message: str,
    ) -> None:
        prompt = saved_latent(sampling(conditioned(), model=["patched", 0]))
        prompt["patched"] = node(kind, model=["loader", 0], **choices)
        if (kind, sampling) == ("PerturbedAttentionGuidance", with_ksampler):
            assert ready.run(prompt).status == "success"
        else:
            fails(ready, prompt, "sampler", message)

    @pytest.mark.parametrize(("dim", "length"), [(1, 2), (3, 7)])
    def test_windows_over_another_dimension(
        self, ready: Client, sampling: Callable[..., Prompt], dim: int, length: int
    ) -> None:
        message = (
            f"Context Windows splits dimension {dim} of the latent, which is 4 x 4 x 8 x 8, into windows of {length}, "
            "but its frames are dimension 0; set dim to 0"
        )
        fails(ready, windowed(ready, "ContextWindowsManual", sampling, length, dim), "sampler", message)

    def test_windows_without_an_image(self, ready: Client, sampling: Callable[..., Prompt]) -> None:
        prompt = windowed(ready, "ContextWindowsManual", sampling, 2)
        looping = {**prompt["cond"], "class_type": "DynamiCrafterLooping"}
        message = (
            "splits a clip of 4 frames into windows of 2, of which those between the images .* have no image"
        )
        fails(ready, {**prompt, "cond": looping}, "sampler", message)

    def test_windows_of_a_clip(self, ready: Client, sampling: Callable[..., Prompt]) -> None:
        for length in (2, 4):
            assert ready.run(windowed(ready, "ContextWindowsManual", sampling, length)).status == "success"

    def test_windows_for_another_model(self, ready: Client, sampling: Callable[..., Prompt]) -> None:
        message = "Context Windows splits dimension 2 of the latent, .* set dim to 0"
        fails(ready, windowed(ready, "WanContextWindowsManual", sampling, 16), "sampler", message)

    def test_a_noise_mask_of_other_frames(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned(), latent=["masked", 0]))
        prompt["one"] = node("SolidMask", value=1.0, width=64, height=64)
        prompt["two"] = node("MaskToImage", mask=["one", 0])
        prompt["three"] = node("RepeatImageBatch", image=["two", 0], amount=3)
        prompt["mask"] = node("ImageToMask", image=["three", 0], channel="red")
        prompt["masked"] = node("SetLatentNoiseMask", samples=["cond", 3], mask=["mask", 0])
        fails(
            ready,
            prompt,
            "sampler",
            "the noise mask has 3 frames, but the clip has 4; use one mask, or one for",
        )

    def test_a_mask_of_another_size(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned()))
        prompt["mask"] = node("SolidMask", value=1.0, width=32, height=64)
        prompt["cond"]["inputs"]["mask"] = ["mask", 0]
        fails(
            ready,
            prompt,
            "cond",
            r"the mask is 1 x 64 x 32, but must be one of the image's size .*; paint it on",
        )

    def test_a_guidance_schedule_that_is_none(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned(), techniques=["more", 0]))
        prompt["more"] = node("DynamiCrafterTechniques", cfg_steps="often")
        fails(
            ready,
            prompt,
            "more",
            "cfg_steps must be 1 to 64 numbers from 0 to 4, separated by commas, but 'often'",
        )


class TestPictures:
    def test_a_batch_is_refused(self, ready: Client) -> None:
        for kind, name in (
            ("DynamiCrafterImageConditioning", "image"),
            ("DynamiCrafterInterpolation", "last_image"),
            ("DynamiCrafterLooping", "image"),
        ):
            prompt = saved_latent(sampled(conditioned(kind)))
            prompt["three"] = node("RepeatImageBatch", image=["image", 0], amount=3)
            prompt["cond"]["inputs"][name] = ["three", 0]
            fails(ready, prompt, "cond", f"{name} must be a single image, but it is a batch of 3; select one")

    def test_a_last_picture_of_another_size_is_fitted_and_looked_at(self, ready: Client) -> None:
        def between(width: int, height: int, colour: int) -> Any:
            prompt = conditioned("DynamiCrafterInterpolation", last_image=["plain", 0])
            prompt["plain"] = node("EmptyImage", width=width, height=height, batch_size=1, color=colour)
            return latents_of(ready, ready.run(saved_latent(sampled(prompt))))

        red, same, blue = between(100, 300, 0xFF0000), between(64, 64, 0xFF0000), between(100, 300, 0x0000FF)
        assert red.equal(same)
        assert not red.equal(blue)

    def test_a_picture_with_transparency_is_laid_over_white(self, ready: Client) -> None:
        prompt = conditioned(image=["joined", 0])
        prompt["mask"] = node("SolidMask", value=0.5, width=64, height=64)
        prompt["plain"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x00FF00)
        prompt["joined"] = node("JoinImageWithAlpha", image=["plain", 0], alpha=["mask", 0])
        assert ready.run(saved_latent(sampled(prompt))).status == "success"

    def test_loop_and_last_picture_exclude_each_other(self, ready: Client) -> None:
        prompt = animate(loop=True, last_image=["image", 0])
        fails(ready, prompt, "animate", "loop and last_image cannot be combined")


CONDITIONING = ["DynamiCrafterImageConditioning", "DynamiCrafterInterpolation", "DynamiCrafterLooping"]


class TestSizes:
    """One mistake is one error, told before a checkpoint is loaded."""

    @pytest.mark.parametrize(
        ("width", "height", "message"),
        [
            (
                100,
                64,
                "width must be a multiple of 64 from 64 to 4096, or 0 .*, but 100 .*; the nearest valid value is 128",
            ),
            (64, 10, "height must be a multiple of 64 .*, but 10 was given; the nearest valid value is 64"),
        ],
    )
    @pytest.mark.parametrize("kind", CONDITIONING)
    def test_a_wrong_size_is_refused_before_anything_is_loaded(
        self, ready: Client, kind: str, width: int, height: int, message: str
    ) -> None:
        fails_early(
            ready, saved_latent(sampled(conditioned(kind, width=width, height=height))), "cond", message
        )

    @pytest.mark.parametrize("kind", CONDITIONING)
    @pytest.mark.parametrize(
        ("width", "height", "cells"), [(128, 0, (10, 16)), (0, 64, (8, 13)), (0, 128, (16, 26))]
    )
    def test_a_missing_side_follows_the_pictures_shape(
        self, ready: Client, kind: str, width: int, height: int, cells: tuple[int, int]
    ) -> None:
        """The picture is 512x320; sizes are multiples of 64, so that 8 cells are next to 10 and 16 to 13 and 26."""
        made = latents_of(
            ready, ready.run(saved_latent(sampled(conditioned(kind, width=width, height=height))))
        )
        nearest = tuple(round(side / 8) * 8 for side in cells)
        assert tuple(made.shape[2:]) == nearest

    def test_a_linked_size_is_checked_when_it_is_known(self, ready: Client) -> None:
        prompt = saved_latent(sampled(conditioned(width=["number", 0], height=64)))
        prompt["number"] = node("PrimitiveInt", value=100)
        fails_early(ready, prompt, "cond", "width must be a multiple of 64 .*, but 100 was given")
        prompt["number"] = node("PrimitiveInt", value=128)
        assert tuple(latents_of(ready, ready.run(prompt)).shape) == (4, 4, 8, 16)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("frames", 0), ("frames", 5000), ("motion", 1.5), ("fs", -1), ("width", -64), ("height", 8192)],
    )
    def test_the_hosts_own_checks_hold_and_say_it_once(self, ready: Client, name: str, value: float) -> None:
        said = refused(ready, saved_latent(sampled(conditioned(**{name: value})))).splitlines()
        assert [line for line in said if f": {name}" in line] == said[:1]
        assert len(said) == 2  # The second line is about the prompt as a whole.

    @pytest.mark.parametrize("kind", CONDITIONING)
    def test_a_missing_text_encoder_is_told_before_anything_is_loaded(self, ready: Client, kind: str) -> None:
        prompt = saved_latent(sampled(conditioned(kind, clip=None)))
        fails_early(
            ready, prompt, "cond", "no text for positive; connect the loader's CLIP and enter a prompt"
        )
        prompt["text"] = node("CLIPTextEncode", clip=["loader", 1], text="fog")
        prompt["cond"]["inputs"]["positive"] = ["text", 0]
        fails_early(ready, prompt, "cond", "no text for negative; connect")
        prompt["cond"]["inputs"]["negative"] = ["text", 0]
        assert ready.run(prompt).status == "success"

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("cfg", -0.5, "cfg must be 0 to 100, or -1 for the model's default, but -0.5 was given"),
            ("image_cfg", -0.1, "image_cfg must be 0 to 100, or -1 for the value of cfg, but -0.1 was given"),
            ("eta", -0.05, "eta must be 0 to 1, or -1 for the model's default, but -0.05 was given"),
            ("guidance_rescale", -0.5, "guidance_rescale must be 0 to 1, or -1 .*, but -0.5 was given"),
        ],
    )
    def test_numbers_of_the_sampler_are_checked_before_anything_is_loaded(
        self, ready: Client, name: str, value: float, message: str
    ) -> None:
        fails_early(ready, saved_latent(sampled(conditioned(), **{name: value})), "sampler", message)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("cfg", 101.0, "Value 101.0 bigger than max of 100.*: cfg"),
            ("steps", -1, "Value -1 smaller than min of 0: steps"),
        ],
    )
    def test_their_ranges_are_the_hosts(self, ready: Client, name: str, value: float, message: str) -> None:
        assert re.search(message, refused(ready, saved_latent(sampled(conditioned(), **{name: value}))))

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("cfg", -0.5, "cfg must be 0 to 100, or -1 for"),
            ("motion", -0.5, "motion must be 0 to 1, or -1 for"),
            ("width", 100, "width must be a multiple of 64 .*, but 100 was given"),
        ],
    )
    def test_so_are_those_of_the_one_node_start(
        self, ready: Client, name: str, value: float, message: str
    ) -> None:
        fails_early(ready, animate(**{name: value}), "animate", message)

    @pytest.mark.parametrize("kind", CONDITIONING)
    def test_so_is_motion_of_the_conditioning(self, ready: Client, kind: str) -> None:
        message = "motion must be 0 to 1, or -1 for the model's default, but -0.5 was given"
        fails_early(ready, saved_latent(sampled(conditioned(kind, motion=-0.5))), "cond", message)

    @pytest.mark.parametrize(
        ("name", "kind", "value", "message"),
        [
            ("cfg", "PrimitiveFloat", -0.5, "cfg must be 0 to 100, or -1 for the model's default"),
            ("steps", "PrimitiveInt", -3, "steps must be 1 to 1000, or 0 for the model's default, but -3"),
            ("steps", "PrimitiveInt", 1001, "steps must be 1 to 1000, or 0 .*, but 1001 was given"),
        ],
    )
    def test_linked_numbers_are_checked_when_they_are_known(
        self, ready: Client, name: str, kind: str, value: float, message: str
    ) -> None:
        prompt = saved_latent(sampled(conditioned(), **{name: ["number", 0]}))
        prompt["number"] = node(kind, value=value)
        fails(ready, prompt, "sampler", message)

    def test_a_picture_the_pack_has_not_is_refused(self, ready: Client) -> None:
        prompt = conditioned()
        prompt["image"] = node("DynamiCrafterSamplePicture", picture="blue_moon")
        assert "picture: 'blue_moon' not in" in refused(ready, saved_latent(sampled(prompt)))

    @pytest.mark.parametrize(
        ("kind", "least"), [("DynamiCrafterInterpolation", 2), ("DynamiCrafterLooping", 3)]
    )
    def test_too_few_frames_for_the_kind_of_clip(self, ready: Client, kind: str, least: int) -> None:
        prompt = saved_latent(sampled(conditioned(kind, frames=least - 1)))
        fails(ready, prompt, "cond", f"frames must be at least {least} to .*, but {least - 1} was given")

    @pytest.mark.parametrize("frames", [1, 15, 17, 100])
    def test_any_length_works(self, ready: Client, frames: int) -> None:
        prompt = decoded(sampled(conditioned(frames=frames), steps=1, cfg=1.0))
        prompt["shapes"] = node("GetImageSize", image=["decode", 0])
        prompt["many"] = node("PreviewAny", source=["shapes", 2])
        run = ready.run(prompt)
        assert run.status == "success", run.error
        assert run.outputs["many"]["text"] == [str(frames)]


class TestLatents:
    @pytest.mark.parametrize(
        ("kind", "choices", "shape"),
        [
            ("EmptySD3LatentImage", {}, "1 x 16 x 8 x 8"),
            ("EmptyHunyuanLatentVideo", {"length": 5}, "1 x 16 x 2 x 8 x 8"),
        ],
    )
    def test_those_of_another_model_are_refused(
        self, ready: Client, kind: str, choices: dict[str, Any], shape: str
    ) -> None:
        empty = node(kind, width=64, height=64, batch_size=1, **choices)
        message = f"the latent has the shape {shape}, but must have frames x 4 x height x width"
        prompt = {**decoded(sampled(conditioned())), "empty": empty}
        prompt["decode"]["inputs"]["latent"] = ["empty", 0]
        fails(ready, prompt, "decode", message)
        prompt = {**saved_latent(sampled(conditioned(), latent=["empty", 0])), "empty": empty}
        fails(ready, prompt, "sampler", message)

    @pytest.mark.parametrize("make", [sampled, with_ksampler])
    def test_one_of_another_length_or_size_is_refused(self, ready: Client, make: Any) -> None:
        socket = "latent" if make is sampled else "latent_image"
        prompt = saved_latent(make(conditioned(), **{socket: ["empty", 0]}))
        prompt["empty"] = node("EmptyLatentImage", width=128, height=64, batch_size=5)
        message = (
            "the latent is 128x64 with 5 frames, but the images were conditioned for 64x64 with 4 frames"
        )
        fails(ready, prompt, "sampler", message)

    @pytest.mark.parametrize("socket", ["positive", "negative"])
    @pytest.mark.parametrize("make", [sampled, with_ksampler])
    def test_conditioning_without_a_picture_is_refused(self, ready: Client, make: Any, socket: str) -> None:
        prompt = saved_latent(make(conditioned(), **{socket: ["text", 0]}))
        prompt["text"] = node("CLIPTextEncode", clip=["loader", 1], text="a boat")
        fails(ready, prompt, "sampler", "image.*; connect .* of DynamiCrafter Image Conditioning")
