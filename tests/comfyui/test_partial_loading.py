"""Where weights lie and what happens when memory runs short, without a GPU: memory_in_host.py looks, this judges.

A device that stores nothing stands for the GPU, and every operator on tensors of two devices is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pack_graphs import REPOSITORY, conditioned, decoded, latents_of, sampled, saved_latent, upload_pictures

from dynamicrafter.model.memory import unet_bytes, vae_decode_bytes, vae_encode_bytes
from dynamicrafter.model.variants import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfyui_client import Client
    from comfyui_host import Host
    from comfyui_server import Server

NETWORKS = ["plain model", "plain resampler", "plain vae", "plain clip", "plain clip_vision"]
NETWORKS += ["special model", "special vae"]
"""Checkpoint and network; the special ones have the scales of 256 and ToonCrafter's decoder."""
LONE = {
    "plain resampler": ["latents"],
    "plain clip": ["logit_scale"],
    "plain clip_vision": ["class_embedding"],
    "special model": ["alpha"],
    "special vae": ["mix_factor"],
}
"""Parameters of modules that have others below them, which the host leaves where they are."""


@pytest.fixture(scope="module")
def findings(comfyui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from comfyui_host import run_in_host

    script, folder = Path(__file__).with_name("memory_in_host.py"), tmp_path_factory.mktemp("memory")
    run_in_host(comfyui_host, script, str(REPOSITORY), str(folder), timeout=900)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.fixture
def found(findings: dict[str, Any], comfyui_host: Host) -> Callable[[str], Any]:
    """A function from a name to what was found; fails with the traceback where looking failed.

    Skips where the host lacks what was to be looked at.
    """

    def find(name: str) -> Any:
        result = findings[name]
        assert not isinstance(result, str), result
        if isinstance(result, dict) and "lacking" in result:
            pytest.skip(f"needs {result['lacking']}, which ComfyUI {comfyui_host.version} lacks")
        return result

    return find


class TestPartialLoading:
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("how", ["nothing", "some"])
    def test_it_runs_on_the_device_wherever_its_weights_are(
        self, found: Callable[[str], Any], how: str, network: str
    ) -> None:
        assert found(f"{how} {network}")["device"] == "meta"

    @pytest.mark.parametrize("network", NETWORKS)
    def test_everything_may_stay_behind(self, found: Callable[[str], Any], network: str) -> None:
        assert found(f"nothing {network}")["places"]["far"] == 0

    @pytest.mark.parametrize("network", [name for name in NETWORKS if name != "plain clip"])
    def test_some_may_stay_behind(self, found: Callable[[str], Any], network: str) -> None:
        """The small text tower is one large layer and little else: it goes whole or not at all."""
        places = found(f"some {network}")["places"]
        assert min(places.values()) > 0, places

    @pytest.mark.parametrize("network", NETWORKS)
    def test_every_layer_with_weights_is_the_hosts(self, found: Callable[[str], Any], network: str) -> None:
        result = found(f"nothing {network}")
        assert result["not the host's"] == []
        assert result["lone"] == LONE.get(network, [])
        assert all(name.startswith("model_sampling.") for name in result["buffers"])

    @pytest.mark.parametrize("network", NETWORKS)
    def test_streaming_every_layer_changes_no_number(self, found: Callable[[str], Any], network: str) -> None:
        assert found(f"cast {network}") == 0

    def test_the_hosts_states_decide_what_is_loaded(self, found: Callable[[str], Any]) -> None:
        states = found("states")
        for state, (near, far, device) in states.items():
            assert device == "meta"
            if state.startswith("NO_VRAM"):
                assert far == 0, state
            elif state.startswith("HIGH_VRAM") or state.endswith("plenty"):
                assert near == 0, state
            else:
                assert near > 0 and far > 0, state
        assert {state.split()[0] for state in states} == {
            "NO_VRAM",
            "LOW_VRAM",
            "NORMAL_VRAM",
            "HIGH_VRAM",
        }


class TestStreaming:
    """The host's newer patcher, which keeps the file's tensors and streams them as memory allows."""

    @pytest.mark.parametrize("checkpoint", ["plain", "special"])
    def test_every_network_is_streamed_with_every_weight(
        self, found: Callable[[str], Any], checkpoint: str
    ) -> None:
        result = found(f"dynamic {checkpoint}")
        assert len(result["dynamic"]) == 5 and all(result["dynamic"].values())
        assert not any(result["missing"].values()), result["missing"]

    @pytest.mark.parametrize("checkpoint", ["plain", "special"])
    def test_numbers_are_those_of_the_older_patcher(
        self, found: Callable[[str], Any], checkpoint: str
    ) -> None:
        errors = found(f"dynamic {checkpoint}")["errors"]
        assert {"model", "resampler", "vae", "clip", "clip_vision", "clip of frames"} <= set(errors)
        assert max(errors.values()) <= 1e-6, errors

    @pytest.mark.parametrize("checkpoint", ["plain", "special"])
    def test_the_host_gets_a_copy_that_is_not_streamed(
        self, found: Callable[[str], Any], checkpoint: str
    ) -> None:
        copies = found(f"dynamic {checkpoint}")["plain copies"]
        assert copies == dict.fromkeys(("model", "vae", "clip", "clip_vision"), [False, False])


class TestCopies:
    @pytest.mark.parametrize(("copies", "device"), [("copies", "cpu"), ("copies elsewhere", "meta")])
    @pytest.mark.parametrize("part", ["model", "vae", "clip", "clip_vision"])
    def test_the_host_makes_any_network_again(
        self, found: Callable[[str], Any], part: str, copies: str, device: str
    ) -> None:
        assert found(copies)[part] == {"shares": False, "same": True, "device": device, "still works": 0}


class TestDtypes:
    @pytest.mark.parametrize(
        ("kind", "stored", "most"), [("int8", "int8", 0.06), ("fp8_scaled", "float8_e4m3fn", 0.3)]
    )
    def test_weights_in_8_bits(
        self, found: Callable[[str], Any], kind: str, stored: str, most: float
    ) -> None:
        result = found(kind)
        assert result["stored"] == ["torch.float32", f"torch.{stored}"]
        assert 0 < result["error"] < most and 0 < result["restored"] < most
        assert result["file"] < 1e-5 and result["streamed"] < 1e-5
        assert (result["places"], result["device"], result["finite"]) == (["cpu", "meta"], "meta", True)

    @pytest.mark.parametrize("kind", ["int8", "fp8_scaled"])
    def test_a_lora_on_weights_in_8_bits(self, found: Callable[[str], Any], kind: str) -> None:
        """Rounded again where it is added once, so that there are two errors like the one without it."""
        result = found(kind)["lora"]
        assert result["changes"] > 0.1
        assert result["whole"]["decibels"] > result["without"] - 3
        assert result["whole"]["decibels"] < result["unloaded"] < result["streamed"]["decibels"] + 0.1
        assert result["streamed"]["decibels"] > result["without"] - 0.5
        assert (result["whole"]["changed"], result["streamed"]["changed"]) == (True, False)
        for way in ("whole", "streamed"):
            assert result[way]["restored"] and result[way]["nothing changed"]
            assert (result[way]["after"], result[way]["nothing"]) == (0, 0)
        assert result["unloaded restored"] and result["returned"]
        for refused in ("hook", "saved"):
            assert result[refused].startswith(
                f"ValueError: a LoRA on weights in {kind} must apply to all steps"
            )

    @pytest.mark.parametrize(("kept", "most"), [("fp8_e4m3fn", 0.3), ("fp8_e5m2", 0.5), ("bfloat16", 0.03)])
    def test_weights_kept_small_give_close_numbers(
        self, found: Callable[[str], Any], kept: str, most: float
    ) -> None:
        """A random network is the worst case: the real ones' rounding errors do not add up like this."""
        result = found("fp8")[kept]
        assert result["kept"] == [f"torch.{kept.replace('fp8', 'float8')}"]
        assert result["computes"] == "torch.float32"
        assert 0 < result["error"] < most

    @pytest.mark.parametrize(
        ("flag", "dtype"),
        [
            ("fp32_unet", "float32"),
            ("fp16_unet", "float16"),
            ("bf16_unet", "bfloat16"),
            ("fp8_e4m3fn_unet", "float8_e4m3fn"),
            ("force_fp32", "float32"),
            ("", "float32"),
        ],
    )
    def test_auto_follows_the_start_flags(self, found: Callable[[str], Any], flag: str, dtype: str) -> None:
        assert found("flags")[flag] == [f"torch.{dtype}"] * 2


def test_channels_last_is_for_layers_over_space(found: Callable[[str], Any]) -> None:
    result = found("channels last")
    assert result["turned"]
    assert result["over time"] > 0
    assert result["error"] < 1e-5


class TestInTurn:
    def test_no_two_networks_are_loaded_for_one_step(self, found: Callable[[str], Any]) -> None:
        names = [names for names, _ in found("in turn")]
        assert all(len(together) == 1 for together in names)
        order = list(dict.fromkeys(name for (name,) in names))
        assert order == [
            "SD1ClipModel",
            "CLIPVisionModelProjection",
            "Resampler",
            "HostAutoencoder",
            "HostModel",
        ]
        assert names[-1] == ["HostAutoencoder"]

    def test_the_host_is_asked_for_what_was_counted(self, found: Callable[[str], Any]) -> None:
        asked = [memory for (name,), memory in found("in turn") if name.startswith("Host")]
        assert asked == [
            vae_encode_bytes(SMALL.vae, 64 * 64, torch.float32),
            # Both branches of four frames at once; the CPU's attention is not fused.
            unet_bytes(SMALL.unet, 2 * 4 * 8 * 8, torch.float32, fused=False),
            vae_decode_bytes(SMALL.vae, 1, 64 * 64, torch.float32),
        ]

    def test_room_is_made_at_the_cost_of_others(self, found: Callable[[str], Any]) -> None:
        before, after = found("room")
        assert len(before) == 5
        assert after == ["HostModel"]


class TestOutOfMemory:
    def test_branches_go_apart_and_give_the_same(self, found: Callable[[str], Any]) -> None:
        result = found("oom once")
        # Both branches of four frames, then each alone for the rest of the run.
        assert result["calls"] == [8, 4, 4, 4, 4]
        assert result["apart"] < 1e-4
        assert result["again"] == 0

    def test_the_sampler_says_what_was_needed_and_what_to_change(self, found: Callable[[str], Any]) -> None:
        result = found("oom always")
        assert result["calls"] == [8, 4]
        assert re.fullmatch(
            r"RuntimeError: out of memory: one evaluation at 64x64 with 4 frames needs about \d+\.\d GB in addition "
            r"to the weights, but only \d+\.\d GB are free; use a smaller size or fewer frames, or start ComfyUI with "
            r"--novram",
            result["message"],
        )
        assert result["again"] == 0

    def test_frames_are_decoded_one_by_one_then_in_tiles(self, found: Callable[[str], Any]) -> None:
        result = found("oom decode")
        assert result["one by one"]["calls"] == [4] + 6 * [1]
        assert result["one by one"]["error"] < 1e-4
        assert result["tiles"]["calls"][:3] == [4, 1, 1]
        assert result["tiles"]["error"] < 1e-2

    def test_a_clip_of_tooncrafter_is_tried_again(self, found: Callable[[str], Any]) -> None:
        assert found("oom decode")["clip once"] == {"error": 0, "calls": [6, 6]}

    def test_a_clip_of_tooncrafter_is_decoded_in_tiles_at_last(self, found: Callable[[str], Any]) -> None:
        result = found("oom decode")["clip tiles"]
        assert result["calls"] == [2, 2, 2]
        assert 0 < result["error"] < 0.1
        assert result["again"] == 0

    def test_a_picture_is_encoded_at_the_second_try(self, found: Callable[[str], Any]) -> None:
        assert found("oom encode")["once"] == {"error": 0, "calls": [1, 1]}

    @pytest.mark.parametrize(
        ("where", "case", "words"),
        [
            ("oom decode", "never", "decoding one frame of 64x64 needs about"),
            (
                "oom decode",
                "clip never",
                "decoding 6 frames of 64x64, even in tiles of all frames, needs about",
            ),
            ("oom encode", "never", "encoding an image of 64x64 needs about"),
        ],
    )
    def test_the_autoencoder_says_what_was_needed_and_what_to_change(
        self, found: Callable[[str], Any], where: str, case: str, words: str
    ) -> None:
        message = found(where)[case]["message"]
        assert message.startswith("RuntimeError: out of memory: ") and words in message
        needed, there, changes = re.split(r", but only |; ", message)
        assert needed.endswith("GB in addition to the weights") and there.endswith("GB are free")
        assert len(re.split(r", (?:or )?| or ", changes)) >= 3


class TestServer:
    def test_unloading_on_demand_and_running_again(self, client: Client) -> None:
        upload_pictures(client)
        prompt = saved_latent(sampled(conditioned(frames=2)))
        first = latents_of(client, client.run(prompt))
        again = client.run_anew(prompt)
        # Nothing was left to take from the cache: the checkpoint was read again.
        assert {"loader", "cond", "sampler"} <= set(again.executed)
        assert torch.equal(latents_of(client, again), first)

    @pytest.mark.parametrize(
        "flags",
        [
            ("--use-split-cross-attention", "--disable-smart-memory", "--bf16-unet", "--force-channels-last"),
            ("--use-pytorch-cross-attention", "--cache-none", "--bf16-vae", "--fp32-text-enc"),
        ],
        ids=lambda flags: " ".join(flags),
    )
    def test_a_clip_with_other_start_flags(
        self, start_server: Callable[..., Server], tmp_path: Path, flags: tuple[str, ...]
    ) -> None:
        from comfyui_server import copy_pack

        server = start_server(copy_pack(REPOSITORY, tmp_path / "pack"), flags)
        with server.client() as client:
            upload_pictures(client)
            run = client.run(decoded(sampled(conditioned(frames=2))))
        server.stop()
        assert run.status == "success", run.error
        assert run.files()
