"""torch.compile of the network's blocks: the same numbers, no break in a graph, no second compilation, one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import relative_difference
from safetensors.torch import save_file
from torch import Tensor

from dynamicrafter import api, pipeline
from dynamicrafter.api import ModelFiles, find_place, load
from dynamicrafter.cli.plan import RunPlan
from dynamicrafter.errors import UsageError
from dynamicrafter.forecast import Stopwatch, speed_of
from dynamicrafter.model import compilation
from dynamicrafter.model.compilation import check_compile, compile_blocks
from dynamicrafter.model.configs import Compile
from dynamicrafter.model.layers import ResBlock
from dynamicrafter.model.operations import PLAIN
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import SMALL
from dynamicrafter.pipeline import KeyPictures, TorchModel, encode, make_generators, sample
from dynamicrafter.settings import make_settings
from dynamicrafter.weights.random_model import write_random_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ONE_LEVEL = replace(
    SMALL,
    name="one level",
    preset=replace(SMALL.preset, frames=2),
    unet=replace(SMALL.unet, channel_mult=(1,), attention_factors=(1,)),
)
KINDS = 5
"""Of blocks: two of residual blocks by their widths, the first transformer, those of space and those of time."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "one_level.safetensors"
    write_random_checkpoint(path, ONE_LEVEL)
    return path


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was compiled before, and counted, is forgotten."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    """Graphs are run as they were traced, so that no compiler is needed."""
    monkeypatch.setattr(
        api, "compile_blocks", lambda network, mode: compile_blocks(network, mode, backend="eager")
    )
    monkeypatch.setattr(compilation, "_compiler_problem", lambda device: None)


def counted() -> tuple[int, int]:
    """Graphs that were compiled, and breaks between them."""
    found = torch._dynamo.utils.counters
    return found["stats"]["unique_graphs"], sum(found["graph_break"].values())


def latents(model: TorchModel, seed: int = 1, **choices: Any) -> Tensor:
    """Sampled latents of a clip of 64x64 pixels."""
    chosen = {"steps": 3, "cfg": 2.0, "seed": seed, "prompt": f"a boat, {seed}", **choices}
    settings = make_settings(model.variant, "animate", **chosen)
    generators = make_generators(model, [settings])
    picture = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    conditioning = encode(model, KeyPictures(picture), [settings], generators)
    return sample(model, conditioning, settings, generators)


@pytest.mark.usefixtures("traced")
def test_a_kind_of_block_is_compiled_once_for_all_steps_clips_and_branches(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other, as those of larger clips.
    monkeypatch.setattr(pipeline, "branches_at_once", lambda cells, branches: 1)
    plain, compiled = load(weights, device="cpu"), load(weights, device="cpu", compile="default")
    torch.testing.assert_close(latents(compiled), latents(plain), rtol=0, atol=1e-6)
    assert counted() == (KINDS, 0)
    latents(compiled, seed=2, steps=4, cfg=3.0, eta=0.0)
    assert counted() == (KINDS, 0)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("how", [{"weights": "int8"}, {"memory": "low"}])
def test_blocks_are_compiled_however_their_weights_are_kept(
    weights: Path, how: dict[str, Any], tmp_path: Path
) -> None:
    files = ModelFiles(weights, loras=(adapter(tmp_path / "lora.safetensors"),))
    plain, compiled = load(files, device="cpu", **how), load(files, device="cpu", compile="default", **how)
    given = inputs(1, 2, 8, ONE_LEVEL.unet.context_dim)
    with torch.inference_mode():
        expected = plain.unet(*given)
        for _ in range(2):
            torch.testing.assert_close(compiled.unet(*given), expected, rtol=0, atol=1e-6)
            if compiled.placement is not None:
                compiled.placement.leave()
    assert counted() == (KINDS, 0)


def adapter(path: Path) -> api.Lora:
    """A LoRA of the first residual block."""
    stem = "diffusion_model.input_blocks.1.0.emb_layers.1"
    down, up = torch.ones(2, 128), torch.full((32, 2), 0.05)
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, path)
    return api.Lora(path)


def inputs(batch: int, frames: int, side: int, width: int) -> tuple[Tensor, Tensor, Context, Tensor]:
    """Arguments of one evaluation of the network."""
    context = Context(torch.ones(batch, 77, width), torch.ones(batch, 1, 16, width))
    x = torch.linspace(-1, 1, batch * 8 * frames * side * side).view(batch, 8, frames, side, side)
    return x, torch.full((batch,), 500), context, torch.full((batch,), 8)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_compiled_block_computes_the_same() -> None:
    """One block, because the compiler takes seconds for each kernel."""
    problem = compilation._compiler_problem(CPU)
    if problem is not None:
        pytest.skip(f"torch.compile cannot generate code for the CPU here ({problem})")
    block = torch.nn.ModuleList([ResBlock(16, 16, 32, 4, PLAIN)]).requires_grad_(False)
    x, embedding = torch.linspace(-1, 1, 2 * 16 * 64).view(2, 16, 8, 8), torch.linspace(-1, 1, 64).view(2, 32)
    plain = block[0](x, embedding, 2)
    compile_blocks(block, "default")
    before = counted()
    for _ in range(2):
        assert relative_difference(block[0](x, embedding, 2), plain) < 1e-5
    assert counted() == (before[0] + 1, before[1])


@pytest.mark.usefixtures("fresh")
def test_every_block_of_the_network_is_compiled_and_keeps_its_names() -> None:
    network = VideoUNet(ONE_LEVEL.unet)
    names = list(network.state_dict())
    compile_blocks(network, "default", backend="eager")
    blocks = [module for module in network.modules() if module._compiled_call_impl is not None]
    assert len(blocks) == 14
    assert list(network.state_dict()) == names


def test_nothing_is_compiled_by_default(weights: Path) -> None:
    model = load(weights, device="cpu")
    assert all(module._compiled_call_impl is None for module in model.unet.modules())


@pytest.mark.usefixtures("fresh")
def test_cuda_graphs_use_their_memory_again_with_each_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(len(begun)))
    modes: tuple[tuple[Compile, int], ...] = (("default", 0), ("reduce-overhead", 1))
    for mode, times in modes:
        network = torch.nn.Identity()
        compile_blocks(network, mode)
        network(torch.ones(1))
        assert len(begun) == times


@pytest.mark.parametrize(
    ("mode", "memory", "device", "message"),
    [
        ("fast", "auto", "cpu", "compile must be off, default, reduce-overhead, not 'fast'"),
        (
            "default",
            "min",
            "cpu",
            "layers that are streamed .memory min. cannot be compiled, but compile default was",
        ),
        (
            "reduce-overhead",
            "auto",
            "cpu",
            "records CUDA graphs, which cpu does not have; use compile default",
        ),
        (
            "reduce-overhead",
            "low",
            "cuda",
            "but with memory low they leave it; use memory high, or compile default",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(mode: Any, memory: Any, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_compile(mode, memory, torch.device(device))


def test_openvino_compiles_its_own() -> None:
    message = "openvino keeps weights and memory its own way and compiles its own, but .* compile default were given"
    pytest.importorskip("openvino")
    with pytest.raises(UsageError, match=message):
        find_place(ModelFiles(Path("absent")), backend="openvino", compile="default")


def test_streaming_that_was_chosen_for_want_of_memory_is_refused_before_the_weights_are_read(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_compiler_problem", lambda device: None)
    monkeypatch.setattr("dynamicrafter.weights.footprint.free_bytes", lambda device: 0)
    monkeypatch.setattr(api, "load_components", None)
    with pytest.raises(UsageError, match="layers that are streamed .memory min. cannot be compiled"):
        load(weights, device="cpu", compile="default")


def test_a_missing_compiler_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("No working C++ compiler found: g++\n\nSet TORCHDYNAMO_VERBOSE=1 for more")

        return call

    compilation._compiler_problem.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    message = (
        r"^torch.compile cannot generate code for cpu \(RuntimeError: No working C\+\+ compiler found: g\+\+\); "
        r"install a C\+\+ compiler, such as g\+\+, clang\+\+ or cl, or use compile off$"
    )
    try:
        with pytest.raises(UsageError, match=message):
            check_compile("default", "auto", CPU)
    finally:
        compilation._compiler_problem.cache_clear()


def test_the_speed_of_compiled_blocks_is_remembered_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    settings = make_settings(SMALL, "animate")
    Stopwatch().remember([settings], SMALL, CPU, torch.float32, compile="default")
    assert speed_of(SMALL, CPU, torch.float32, compile="default") is not None
    assert speed_of(SMALL, CPU, torch.float32) is None


def test_a_dry_run_says_that_blocks_are_compiled() -> None:
    model = {"variant": "tiny", "files": []}
    for mode, told in (("off", ""), ("default", ", compiled (default)")):
        plan = RunPlan([], model, "cpu", "float32", "full", "high", mode, 1, 1, None)
        assert f"computed on: cpu in float32{told}" in list(plan.lines())
