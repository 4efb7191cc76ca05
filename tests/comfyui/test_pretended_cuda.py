"""Mix-ups of devices, found without a GPU: cuda_in_host.py runs the pack on a pretended one, this judges.

By one command: ``python -m pytest tests/comfyui/test_pretended_cuda.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pretended_device import CUDA, PretendedCuda
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from comfyui_host import Host

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
WHOLE = ("animate", "loop", "interpolate", "gpu only", "streamed")
"""Graphs; the one that interpolates has the scales of 256 and ToonCrafter's decoder."""


@pytest.fixture(scope="module")
def found(comfyui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A function from a name to what was found; fails with the traceback where looking failed.

    Skips where the host lacks what was to be looked at.
    """
    from comfyui_host import run_in_host

    folder = tmp_path_factory.mktemp("cuda")
    run_in_host(comfyui_host, HERE / "cuda_in_host.py", str(REPOSITORY), str(folder), timeout=900)
    findings = json.loads((folder / "found.json").read_text(encoding="utf-8"))

    def find(name: str) -> Any:
        result = findings[name]
        assert not str(result).startswith("failed: "), result
        if "lacking" in result:
            pytest.skip(f"needs {result['lacking']}, which ComfyUI {comfyui_host.version} lacks")
        return result

    return find


class TestPack:
    @pytest.mark.parametrize("graph", WHOLE)
    def test_numbers_are_those_of_the_cpu(self, found: Callable[[str], Any], graph: str) -> None:
        errors = found(graph)["errors"]
        assert {"latent of ddim", "latent of core euler", "frames, latent of ddim", "text"} <= set(errors)
        assert max(errors.values()) < 1e-5, errors

    @pytest.mark.parametrize("graph", WHOLE)
    def test_results_are_where_the_host_keeps_them(self, found: Callable[[str], Any], graph: str) -> None:
        devices = found(graph)["devices"]
        assert devices.pop("steps") == "cpu"
        assert set(devices.values()) == {"cuda" if graph == "gpu only" else "cpu"}, devices

    @pytest.mark.parametrize("graph", WHOLE)
    def test_the_network_ran_on_the_gpu(self, found: Callable[[str], Any], graph: str) -> None:
        assert found(graph)["places"] == (["cpu", "cuda"] if graph == "streamed" else ["cuda"])

    def test_a_network_built_on_the_gpu_is_known_to_the_host(self, found: Callable[[str], Any]) -> None:
        """Otherwise it could not be unloaded before it is sampled for the first time."""
        assert found("built there") == {"known": ["HostModel"], "devices": ["cuda"]}

    def test_a_sample_picture_is_where_the_host_keeps_images(self, found: Callable[[str], Any]) -> None:
        assert found("picture") == ["cpu", "cuda"]

    def test_a_built_in_model_judges_an_image_there(self, found: Callable[[str], Any]) -> None:
        assert "becomes a blur" in found("note")

    def test_results_have_the_dtype_that_the_host_was_told(self, found: Callable[[str], Any]) -> None:
        assert found("half") == 3 * ["torch.float16"]

    def test_a_tensor_left_behind_would_be_found(self, found: Callable[[str], Any]) -> None:
        assert "got tensors on two devices: " in found("mistake")


def number(device: torch.device) -> Tensor:
    return torch.tensor(2.0, device=device)


def vector(device: torch.device) -> Tensor:
    return torch.ones(4, device=device)


def matrix(device: torch.device) -> Tensor:
    return torch.ones(4, 4, device=device)


CPU = torch.device("cpu")
ALLOWED: dict[str, Callable[[], Any]] = {
    "sum of one device": lambda: vector(CUDA) + vector(CUDA),
    "number times vector": lambda: number(CPU) * vector(CUDA),
    "moved": lambda: vector(CPU).to(CUDA) + vector(CUDA),
    "moved back": lambda: vector(CUDA).cpu() + vector(CPU),
    "like another": lambda: vector(CPU).to(vector(CUDA)) + vector(CUDA),
}
OF_A_CUDA_BUILD: dict[str, Callable[[], Any]] = {
    "copied": lambda: vector(CUDA).copy_(vector(CPU)),
    "index of the CPU": lambda: vector(CUDA)[torch.tensor([0, 2])],
    "assigned": lambda: vector(CUDA).__setitem__(slice(0, 2), vector(CPU)[:2]),
    "number assigned": lambda: vector(CUDA).__setitem__(torch.tensor([0]), 3.0),
}
"""Allowed as well; PyTorch's own pretended tensors need a PyTorch built for CUDA for these."""
REFUSED: dict[str, Callable[[], Any]] = {
    "sum": lambda: vector(CUDA) + vector(CPU),
    "vector times number": lambda: vector(CPU) * number(CUDA),
    "added in place": lambda: vector(CPU).add_(vector(CUDA)),
    "cat": lambda: torch.cat([vector(CUDA), vector(CPU)]),
    "where": lambda: torch.where(vector(CUDA) > 0, vector(CUDA), vector(CPU)),
    "matrix product": lambda: matrix(CUDA) @ matrix(CPU),
    "linear": lambda: torch.nn.functional.linear(matrix(CUDA), matrix(CPU)),
    "numpy": lambda: vector(CUDA).numpy(),
}


class TestDevice:
    @pytest.mark.parametrize("name", [*ALLOWED, *OF_A_CUDA_BUILD])
    def test_it_allows_what_a_gpu_allows(self, name: str) -> None:
        with PretendedCuda():
            {**ALLOWED, **OF_A_CUDA_BUILD}[name]()

    @pytest.mark.parametrize("name", REFUSED)
    def test_it_refuses_what_a_gpu_refuses(self, name: str) -> None:
        with PretendedCuda(), pytest.raises((RuntimeError, TypeError), match="two devices|numpy"):
            REFUSED[name]()

    @pytest.mark.parametrize("name", [*ALLOWED, *OF_A_CUDA_BUILD, *REFUSED])
    def test_pytorchs_own_pretended_tensors_judge_the_same(self, name: str) -> None:
        if name in OF_A_CUDA_BUILD and torch.version.cuda is None:
            pytest.skip(
                "needs a PyTorch built for CUDA, whose pretended tensors can be indexed and written to"
            )
        with FakeTensorMode():
            if name in REFUSED:
                with pytest.raises((RuntimeError, TypeError)):
                    REFUSED[name]()
            else:
                {**ALLOWED, **OF_A_CUDA_BUILD}[name]()

    def test_it_refuses_an_index_of_the_gpu_for_a_tensor_of_the_cpu(self) -> None:
        """PyTorch's own pretended tensors let this pass."""
        with PretendedCuda(), pytest.raises(RuntimeError, match="indices on cuda:0 for a tensor on cpu"):
            vector(CPU)[torch.tensor([0, 2], device=CUDA)]

    def test_a_mix_up_is_said_with_shapes_and_devices(self) -> None:
        expected = r"two devices: \(4,\) on cuda:0, \(4,\) on cpu"
        with PretendedCuda(), pytest.raises(RuntimeError, match=expected):
            vector(CUDA) + vector(CPU)

    def test_a_generator_of_another_device_is_refused(self) -> None:
        with PretendedCuda(), pytest.raises(RuntimeError, match="on cuda:0 got a generator of cpu"):
            torch.randn(2, device=CUDA, generator=torch.Generator())

    def test_it_computes(self) -> None:
        with PretendedCuda(), torch.inference_mode():
            module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
            picture = torch.rand(1, 3, 8, 8)
            usual = module(picture)
            there = module.to(CUDA)(picture.to(CUDA))
            assert there.device == CUDA
            assert torch.equal(there.cpu(), usual)
            assert torch.equal(module.to("cpu")(picture), usual)

    def test_memory_of_two_devices_is_not_shared(self) -> None:
        with PretendedCuda():
            here = torch.ones(2)
            there = here.to(CUDA)
            back = there.to("cpu")
            there.add_(1)
            assert (here.tolist(), there.tolist(), back.tolist()) == ([1, 1], [2, 2], [1, 1])

    def test_views_share_theirs(self) -> None:
        with PretendedCuda():
            there = torch.zeros(4, device=CUDA)
            there[:2].add_(1)
            assert there.tolist() == [1, 1, 0, 0]
