"""The same numbers: core's Euler and our DDIM, the graph and the command, the nodes and the original's goldens."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from comfyui_host import Host

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PROCESSES = ("v 0.7", "v 0.3", "eps None")
"""Parameterisation and base scale: 512 and its kin, 1024, 256."""
GOLDENS = ("e2e_i2v_256", "e2e_i2v_512", "e2e_i2v_1024_multicond", "e2e_interp_512", "e2e_loop_512")
LOOP = 5e-5
"""Tolerance of whole pipelines, as in the parity tests."""

TOGETHER = ("sampling", "clips", "borders", "lengths", "exports")
"""Groups that are measured in one process; another one is measured in its own."""

Measured = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def measured(comfyui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A function from a group and a name to what was measured in the host; each process is started once."""
    from comfyui_host import run_in_host

    working = tmp_path_factory.mktemp("numbers")
    processes: dict[tuple[str, ...], dict[str, Any]] = {}

    def measure(group: str, name: str) -> Any:
        groups = TOGETHER if group in TOGETHER else (group,)
        if groups not in processes:
            script = HERE / "numbers_in_host.py"
            run_in_host(comfyui_host, script, str(REPOSITORY), str(working), *groups, timeout=900)
            processes[groups] = json.loads((working / "found.json").read_text(encoding="utf-8"))
        found = processes[groups][name]
        assert not isinstance(found, str), f"{name} failed in the host:\n{found}"
        return found

    return measure


class TestCoreSamplers:
    @pytest.mark.parametrize("process", PROCESSES)
    def test_simple_visits_the_trailing_timesteps(self, measured: Measured, process: str) -> None:
        same = measured("sampling", f"timesteps {process}")
        assert len(same) == 11
        assert all(same.values()), same

    @pytest.mark.parametrize("steps", [5, 50])
    @pytest.mark.parametrize("process", PROCESSES)
    def test_euler_is_our_ddim_without_fresh_noise(
        self, measured: Measured, process: str, steps: int
    ) -> None:
        error = measured("sampling", f"euler {process}")[str(steps)]
        # Without pure noise at the top nothing stands in for an infinite sigma.
        assert error < (1e-5 if process == "eps None" else 1e-4)


class TestSameClip:
    @pytest.mark.parametrize(
        "mode",
        ["animate", "interpolate", "loop", "two scales", "no guidance"]
        + ["heun", "unipc", "dpmpp_2m_sde", "interval"],
    )
    def test_the_graph_makes_what_the_package_makes(self, measured: Measured, mode: str) -> None:
        found = measured("clips", f"command {mode}")
        assert found["latents"] < 1e-4
        assert found["levels"] <= 1
        assert found["frames"] == (3 if mode == "loop" else 4)

    @pytest.mark.parametrize("name", GOLDENS)
    def test_goldens_pass_through_the_nodes(self, measured: Measured, name: str) -> None:
        found = measured("clips", f"golden {name}")
        assert found["latents"] < LOOP
        assert found["frames"] < LOOP


class TestBorders:
    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("model", "model is not a DynamiCrafter model; connect the MODEL output"),
            (
                "siglip",
                "clip_vision is another kind of model, but this model needs a CLIP encoder of width 64",
            ),
            ("no image encoder", "no image encoder in this checkpoint; connect a core CLIPVisionLoader"),
            ("no vae", "no VAE in this checkpoint; connect a core VAELoader"),
            ("vae", "this VAE has latents with 16 channels and 3 dimensions"),
        ],
    )
    def test_objects_of_another_kind_are_refused(self, measured: Measured, kind: str, message: str) -> None:
        assert message in measured("borders", "foreign objects")[kind]

    def test_output_that_is_not_finite_is_told_by_its_part(self, measured: Measured) -> None:
        said = measured("borders", "not finite")
        assert said["network"] == (
            "the denoising network's output is not finite in float32 at step 1 of 3, timestep 999; set a lower cfg, or "
            "select a checkpoint that is not damaged"
        )
        assert said["latents"].startswith("the latents are not finite; sample them again")
        assert said["vae"].startswith(
            "the VAE's output is not finite in float32; start ComfyUI with --bf16-vae"
        )

    def test_frames_that_overflow_float16_are_decoded_again_in_float32(self, measured: Measured) -> None:
        found = measured("borders", "overflow")
        assert found["apart"] == 0 and 0 < found["largest"] < 100

    def test_a_preview_plays_the_clip_at_its_speed(self, measured: Measured) -> None:
        """On a busy machine frames are left out, never shown late or twice; a new estimate goes on where it was."""
        found = measured("borders", "previews")
        frames, at = found["frames"], found["at"]
        first = [frame for frame in frames if frame < 10]
        assert frames == first + [frame for frame in frames if frame >= 10]
        assert {frame % 10 for frame in frames} == {0, 1, 2}
        assert 8 <= len(frames) <= 22
        places = [round((time - at[0]) * 20) for time in at]
        late = sum(frame % 10 != place % 3 for frame, place in zip(frames, places, strict=True))
        assert late <= len(frames) // 4
        assert all(one != other for one, other in zip(frames, frames[1:], strict=False))

    def test_a_cancellation_that_a_preview_notices_is_kept_for_the_sampler(self, measured: Measured) -> None:
        assert measured("borders", "previews")["cancelled"] == [True]

    def test_slow_previews_leave_out_estimates(self, measured: Measured) -> None:
        assert measured("borders", "previews")["decoded"] == [3, 3, 6]


def test_a_compiled_network_is_compiled_once_and_computes_the_same(measured: Measured) -> None:
    found = measured("compilation", "compiled")
    assert found["error"] < 1e-4
    assert found["graphs"] == 1


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_the_network_runs_in_openvino(measured: Measured) -> None:
    found = measured("exports", "exported")
    assert found["listed"]
    # The export's weights are those of the checkpoint, which are exact in half precision.
    assert found["exact"] < 1e-3 and found["core"] < 1e-3
    assert (
        "runs in OpenVINO, which has its weights fixed, so a LoRA cannot be added; remove the LoRA node"
        in found["refused"]
    )


class TestLengths:
    @pytest.mark.parametrize(
        ("name", "frames"),
        [("continue", 17), ("windows", 20), ("loop", 20), ("pick", 3), ("keyframes", 6), ("source", 3)],
    )
    def test_the_node_generates_what_the_command_does(
        self, measured: Measured, name: str, frames: int
    ) -> None:
        found = measured("lengths", name)
        assert found["frames"] == frames
        assert found["levels"] <= 1
        # Where a mask blends two clips, the command rounds, and the node leaves that to whoever saves.
        assert found["differing"] < (0.5 if name == "source" else 0.001)

    def test_core_windows_give_each_window_its_own_tokens_and_16_frames(self, measured: Measured) -> None:
        found = measured("lengths", "core windows")
        assert found["by hand"] < LOOP
        assert found["anchored"] < LOOP, "a frame before the window reached the network"
        assert found["one window"] == 0
        assert found["differs"] > 0.01, "windows change nothing, so that the others prove nothing"
        assert found["core sampler"] < LOOP

    def test_core_windows_are_told_the_step(self, measured: Measured) -> None:
        assert measured("lengths", "core windows")["steps"] == 1
