"""Core's own nodes on our MODEL and VAE: samplers, guiders, patches, LoRA, compilation and decoding."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import (
    Prompt,
    conditioned,
    latents_of,
    node,
    sampled,
    saved_latent,
    upload_pictures,
    with_ksampler,
)

if TYPE_CHECKING:
    from comfyui_client import Client
    from comfyui_server import Server
    from torch import Tensor


@pytest.fixture
def ready(client: Client) -> Client:
    """A client whose server has the pictures."""
    upload_pictures(client)
    return client


def latents(client: Client, prompt: Prompt) -> Tensor:
    """The latents of ``sampler``: finite, of two frames."""
    found = latents_of(client, client.run(saved_latent(prompt)))
    assert tuple(found.shape) == (2, 4, 8, 8)
    assert found.isfinite().all()
    return found


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return ((one - other).abs().max() / other.abs().max()).item()


class TestSamplers:
    @pytest.mark.parametrize("scheduler", ["simple", "normal", "karras"])
    @pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc"])
    def test_ksampler(self, ready: Client, name: str, scheduler: str) -> None:
        prompt = with_ksampler(conditioned(frames=2), steps=3, sampler_name=name, scheduler=scheduler)
        found = latents(ready, prompt)
        # Of pure noise between nothing and far off: the scale of latents, 1 / 0.18215 for unit variance.
        assert 1 < found.std() < 30

    def test_one_ksampler_goes_on_where_another_with_its_own_model_stops(self, ready: Client) -> None:
        def turns(**late: Any) -> Prompt:
            usual = with_ksampler(conditioned(frames=2), steps=4)["sampler"]["inputs"]
            seed = {"noise_seed": usual.pop("seed"), "add_noise": "enable"}
            usual.pop("denoise")
            first = {
                **usual,
                **seed,
                "start_at_step": 0,
                "end_at_step": 2,
                "return_with_leftover_noise": "enable",
            }
            rest = {
                "add_noise": "disable",
                "latent_image": ["early", 0],
                "return_with_leftover_noise": "disable",
            }
            second = {**first, **rest, "start_at_step": 2, "end_at_step": 10000, **late}
            return {
                **conditioned(frames=2),
                "early": node("KSamplerAdvanced", **first),
                "patched": node("PerturbedAttentionGuidance", model=["loader", 0], scale=3.0),
                "sampler": node("KSamplerAdvanced", **second),
            }

        whole = latents(ready, with_ksampler(conditioned(frames=2), steps=4))
        assert difference(latents(ready, turns()), whole) < 1e-5
        assert difference(latents(ready, turns(model=["patched", 0])), whole) > 1e-4

    def test_another_seed_gives_another_clip(self, ready: Client) -> None:
        clips = [latents(ready, with_ksampler(conditioned(frames=2), seed=seed)) for seed in (1, 2)]
        assert difference(*clips) > 0.1

    def test_prompt_and_picture_matter(self, ready: Client) -> None:
        usual = latents(ready, with_ksampler(conditioned(frames=2)))
        worded = latents(ready, with_ksampler(conditioned(frames=2, prompt="a lighthouse in a storm")))
        pictured = conditioned(frames=2)
        pictured["image"]["inputs"]["image"] = "hill_day.png"
        assert difference(worded, usual) > 1e-4
        assert difference(latents(ready, with_ksampler(pictured)), usual) > 1e-2

    def test_core_s_perturbed_attention_guides_by_the_scale_it_is_given(self, ready: Client) -> None:
        found: list[Tensor] = []
        for scale in (0.0, 0.0, 3.0):
            prompt = with_ksampler(conditioned(frames=2), model=["patched", 0])
            prompt["patched"] = node("PerturbedAttentionGuidance", model=["loader", 0], scale=scale)
            found.append(latents(ready, prompt if found else with_ksampler(conditioned(frames=2))))
        assert found[0].equal(found[1])
        assert difference(found[2], found[0]) > 1e-3

    def test_dual_guidance_with_equal_scales_is_plain_guidance(self, ready: Client) -> None:
        def dual(picture_scale: float) -> Prompt:
            return {
                **conditioned(frames=2),
                "noise": node("RandomNoise", noise_seed=1),
                "guider": node(
                    "DualCFGGuider",
                    model=["loader", 0],
                    cond1=["cond", 0],
                    cond2=["cond", 2],
                    negative=["cond", 1],
                    cfg_conds=2.0,
                    cfg_cond2_negative=picture_scale,
                    style="regular",
                ),
                "euler": node("KSamplerSelect", sampler_name="euler"),
                "sigmas": node(
                    "BasicScheduler", model=["loader", 0], scheduler="simple", steps=2, denoise=1.0
                ),
                "sampler": node(
                    "SamplerCustomAdvanced",
                    noise=["noise", 0],
                    guider=["guider", 0],
                    sampler=["euler", 0],
                    sigmas=["sigmas", 0],
                    latent_image=["cond", 3],
                ),
            }

        plain = latents(ready, with_ksampler(conditioned(frames=2)))
        assert difference(latents(ready, dual(2.0)), plain) < 1e-4
        assert difference(latents(ready, dual(4.0)), plain) > 1e-3

    def test_rescale_cfg(self, ready: Client) -> None:
        def rescaled(multiplier: float) -> Prompt:
            prompt = with_ksampler(conditioned(frames=2), model=["patch", 0], cfg=7.5)
            return {**prompt, "patch": node("RescaleCFG", model=["loader", 0], multiplier=multiplier)}

        plain = latents(ready, with_ksampler(conditioned(frames=2), cfg=7.5))
        nothing, much = (difference(latents(ready, rescaled(amount)), plain) for amount in (0.0, 0.7))
        # That node takes the estimate from a difference of numbers as large as sigma, which costs it digits.
        assert nothing < 1e-2
        assert much > 10 * nothing

    def test_conditioning_for_a_part_of_the_steps(self, ready: Client) -> None:
        def part(prompt: Prompt, end: float) -> Prompt:
            early = node("ConditioningSetTimestepRange", conditioning=["cond", 1], start=0.0, end=end)
            prompt["sampler"]["inputs"]["negative"] = ["early", 0]
            return {**prompt, "early": early}

        for make in (sampled, with_ksampler):
            whole = latents(ready, make(conditioned(frames=2), steps=3))
            assert difference(latents(ready, part(make(conditioned(frames=2), steps=3), 1.0)), whole) == 0
            assert difference(latents(ready, part(make(conditioned(frames=2), steps=3), 0.5)), whole) > 1e-3


LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
NAMINGS = {
    "own": f"diffusion_model.{LAYER}",
    "stable diffusion": f"lora_unet_{LAYER.replace('.', '_')}",
    "diffusers": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
}


@pytest.fixture(scope="module")
def loras(pack_server: Server) -> dict[str, str]:
    """Files of one LoRA under the names that different trainers give to the same layer."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((4, 32), (32, 4)))
    names: dict[str, str] = {}
    for naming, layer in NAMINGS.items():
        names[naming] = f"{naming.replace(' ', '_')}.safetensors"
        file = pack_server.base / "models" / "loras" / names[naming]
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, file)
    return names


class TestLora:
    def patched(self, prompt: Prompt, file: str, strength: float) -> Prompt:
        prompt["sampler"]["inputs"]["model"] = ["lora", 0]
        lora = node("LoraLoaderModelOnly", model=["loader", 0], lora_name=file, strength_model=strength)
        return {**prompt, "lora": lora}

    @pytest.mark.parametrize("make", [sampled, with_ksampler])
    def test_its_strength_changes_the_clip(self, ready: Client, loras: dict[str, str], make: Any) -> None:
        plain = latents(ready, make(conditioned(frames=2)))
        found = [
            latents(ready, self.patched(make(conditioned(frames=2)), loras["own"], strength))
            for strength in (0.0, 0.5, 1.0)
        ]
        assert difference(found[0], plain) == 0
        assert difference(found[1], plain) > 1e-4
        assert difference(found[2], found[1]) > 1e-4
        # The patch is of the copy that the LoRA node gave, not of the model itself.
        assert difference(latents(ready, make(conditioned(frames=2), seed=2)), found[2]) > 1e-2
        assert difference(latents(ready, make(conditioned(frames=2), seed=1)), plain) == 0

    def test_every_naming_means_the_same_layer(
        self, ready: Client, loras: dict[str, str], pack_server: Server
    ) -> None:
        said = len(pack_server.log())
        found = {
            naming: latents(ready, self.patched(with_ksampler(conditioned(frames=2)), file, 1.0))
            for naming, file in loras.items()
        }
        assert "lora key not loaded" not in pack_server.log()[said:]
        for naming in ("stable diffusion", "diffusers"):
            assert difference(found[naming], found["own"]) == 0, naming


class TestDecoding:
    def frames(self, client: Client, prompt: Prompt, decode: dict[str, Any]) -> list[bytes]:
        """Pixels of the frames that a decode node makes of ``sampler``."""
        from PIL import Image

        prompt = {
            **prompt,
            "decode": decode,
            "save": node("SaveImage", images=["decode", 0], filename_prefix="decoded/frame"),
        }
        run = client.run(prompt)
        assert run.status == "success", run.error
        found: list[bytes] = []
        for file in run.files():
            with Image.open(io.BytesIO(client.view(file))) as picture:
                assert picture.size == (128, 64)
                found.append(picture.convert("RGB").tobytes())
        return found

    def test_core_decodes_what_ours_does(self, ready: Client) -> None:
        prompt = sampled(conditioned(frames=3, width=128, height=64), steps=1)
        ours = self.frames(
            ready, prompt, node("DynamiCrafterVAEDecode", vae=["loader", 3], latent=["sampler", 0])
        )
        core = self.frames(ready, prompt, node("VAEDecode", vae=["loader", 3], samples=["sampler", 0]))
        assert len(ours) == 3
        assert core == ours

    def test_core_decodes_in_tiles(self, ready: Client) -> None:
        prompt = sampled(conditioned(frames=3, width=128, height=64), steps=1)
        tiles = node(
            "VAEDecodeTiled",
            vae=["loader", 3],
            samples=["sampler", 0],
            tile_size=64,
            overlap=32,
            temporal_size=64,
            temporal_overlap=8,
        )
        assert len(set(self.frames(ready, prompt, tiles))) == 3

    def test_a_loop_of_a_core_sampler_loses_its_last_frame_in_our_decode(self, ready: Client) -> None:
        prompt = with_ksampler(conditioned("DynamiCrafterLooping", frames=4, width=128, height=64), steps=1)
        ours = self.frames(
            ready, prompt, node("DynamiCrafterVAEDecode", vae=["loader", 3], latent=["sampler", 0])
        )
        assert len(ours) == 3
