"""The training loop: it learns, goes on to the bit where it was stopped, and loses nothing when it cannot write."""

from __future__ import annotations

import csv
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.training import trainer
from dynamicrafter.training.muon import Muon, orthogonalise
from dynamicrafter.training.processes import heeding_termination
from dynamicrafter.training.run_log import Report
from dynamicrafter.training.trainer import STATE, Batch, Stopped, Trainer, TrainerConfig, step_seed

pytest.importorskip("accelerate", reason="training needs accelerate")


class Line(nn.Module):
    """Learns y = W x from noise-free samples."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(16, 16)
        self.truth = torch.randn(16, 16, generator=generator)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(16, 16, generator=generator))
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) - x @ self.truth.T).square().mean()


@pytest.mark.parametrize(("precision", "expected"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_validation_computes_in_the_precision_of_the_steps(
    tmp_path: Path, precision: str, expected: torch.dtype
) -> None:
    found: set[torch.dtype] = set()

    def measured(module: nn.Module) -> dict[str, float]:
        found.add(module.get_submodule("layer")(torch.ones(1, 16)).dtype)
        return {}

    train(tmp_path, replace(CONFIG, precision=precision), validate=measured)
    assert found == {expected}


def draw(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(8, 16, generator=generator)}


CONFIG = TrainerConfig(
    steps=12, learning_rate=0.02, warm_up=2, decay="cosine", ema=0.9, log_every=4, save_every=4
)


def train(folder: Path, config: TrainerConfig = CONFIG, **options) -> Line:
    module = Line()
    Trainer(module, draw, config, folder, **options).run()
    return module


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_training_lowers_the_loss(tmp_path: Path, method) -> None:
    heard: list[Report] = []
    config = replace(CONFIG, method=method, steps=150, learning_rate=0.1, ema=0.0, log_every=10)
    train(tmp_path, config, report=heard.append)
    assert heard[-1].loss < 0.3 * heard[0].loss
    assert heard[-1].step == 150


def test_random_numbers_of_the_network_depend_on_seed_step_and_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of dropout, for example, which come from the global generators."""
    drawn: list[float] = []

    class Noisy(Line):
        def forward(self, x: Tensor) -> Tensor:
            # A batch is drawn with the seed of its own step, so must not have the same numbers.
            drawn.append(float(torch.randn(8, 16)[0, 0]))
            assert drawn[-1] != float(x[0, 0])
            return super().forward(x)

    def run(name: str, steps: int = 3, **choices: int) -> list[float]:
        drawn.clear()
        torch.manual_seed(len(name))
        config = replace(CONFIG, steps=steps, accumulate=2, save_every=12, **choices)
        Trainer(Noisy(), draw, config, tmp_path / name).run()
        # The last one is that of the check before saving.
        return drawn[:-1]

    first = run("a")
    assert len(set(first)) == 6
    assert run("other") == first
    assert run("parts", 1) + run("parts", 3) == first
    assert not set(run("seed", seed=1)) & set(first)
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "process_index", 1)
    assert not set(run("process")) & set(first)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, method) -> None:
    config = replace(CONFIG, method=method, accumulate=2)
    whole = train(tmp_path / "whole", config)

    class Stop(Exception):
        pass

    def stop(report: Report) -> None:
        if report.step == 8:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path / "parts", config, report=stop)
    parts = train(tmp_path / "parts", config)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name])
    states = [trainer.load_state(tmp_path / name / STATE) for name in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 12
    assert torch.equal(states[0]["module"]["layer.weight"], states[1]["module"]["layer.weight"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = train(tmp_path)
    written = (tmp_path / STATE).stat().st_mtime_ns
    again = train(tmp_path)
    assert torch.equal(first.layer.weight, again.layer.weight)
    assert (tmp_path / STATE).stat().st_mtime_ns == written


def test_the_running_mean_is_what_comes_out(tmp_path: Path) -> None:
    with_mean = train(tmp_path / "a")
    state = trainer.load_state(tmp_path / "a" / STATE)
    assert torch.equal(with_mean.layer.weight, state["mean"]["layer.weight"])
    assert not torch.equal(with_mean.layer.weight, state["module"]["layer.weight"])


def test_accumulated_batches_count_as_one_large_one(tmp_path: Path) -> None:
    """Two batches of a step have the gradient of their mean."""
    rows = [
        torch.randn(8, 16, generator=torch.Generator().manual_seed(step_seed(0, 0, micro)))
        for micro in (0, 1)
    ]
    config = TrainerConfig(steps=1, learning_rate=0.01, accumulate=2, max_grad_norm=0.0, weight_decay=0.0)
    two = train(tmp_path / "two", config)
    one = Line()
    Trainer(one, lambda _: {"x": torch.cat(rows)}, replace(config, accumulate=1), tmp_path / "one").run()
    assert torch.allclose(two.layer.weight, one.layer.weight, atol=1e-6)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    module = Line()
    module.layer.bias.requires_grad_(False)
    before = module.layer.bias.clone()
    Trainer(module, draw, CONFIG, tmp_path).run()
    assert torch.equal(module.layer.bias, before)


def test_the_log_has_a_line_for_each_stretch(tmp_path: Path) -> None:
    train(tmp_path, validate=lambda module: {"figure": 1.5})
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "4", "8", "12"]
    assert {row["measured"] for row in rows} == {"figure=1.5"}
    assert [bool(row["loss"]) for row in rows] == [False, True, True, True]


def test_the_validation_loss_has_a_column_of_its_own(tmp_path: Path) -> None:
    heard: list[Report] = []
    train(
        tmp_path,
        validate=lambda module: {"held_out": float(module.layer.weight[0, 0]), "figure": 2},
        report=heard.append,
    )
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["held_out"]) for row in rows] == [
        pytest.approx(line.extra["held_out"], rel=1e-4) for line in heard
    ]
    assert len({row["held_out"] for row in rows}) == 4
    assert float(rows[0]["held_out"]) == pytest.approx(Line().layer.weight[0, 0].item(), rel=1e-4)
    assert {row["measured"] for row in rows} == {"figure=2"}


def test_a_log_with_the_columns_of_an_earlier_version_goes_on_in_them(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss,learning_rate,seconds,measured\n", encoding="utf-8")
    train(tmp_path, validate=lambda module: {"held_out": 1.5})
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "4", "8", "12"]
    assert {row["measured"] for row in rows} == {"held_out=1.5"}


def test_the_first_measurement_changes_no_step(tmp_path: Path) -> None:
    class Noisy(Line):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.randn_like(x))

    def measure(module: nn.Module) -> dict[str, float]:
        return {"figure": float(torch.rand(()))}

    ended = []
    for name, validate in (("with", measure), ("without", None)):
        torch.manual_seed(5)
        module = Noisy()
        config = replace(CONFIG, save_every=12)
        Trainer(module, draw, config, tmp_path / name, validate=validate).run()
        ended.append(module.layer.weight)
    assert torch.equal(*ended)


def test_a_failed_write_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    before = (tmp_path / STATE).read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UsageError,
        match=r"could not be written \(No space left on device\); the previous one is unchanged; free",
    ):
        train(tmp_path)
    assert (tmp_path / STATE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", STATE]


def test_a_killed_write_leaves_the_state_before(tmp_path: Path) -> None:
    """What a killed process leaves is a part file, which is not read."""
    train(tmp_path, replace(CONFIG, steps=4))
    (tmp_path / f"{STATE}.99.part").write_bytes(b"half")
    assert train(tmp_path).layer.weight.isfinite().all()


def test_a_broken_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"not a state")
    with pytest.raises(
        CheckpointError, match="is not a complete training state; delete it to start from scratch"
    ):
        train(tmp_path)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    other = nn.Module()
    other.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(CheckpointError, match="a run that trained other weights"):
        Trainer(other, draw, CONFIG, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the loss is nan at step 0; lower the learning rate"):
        Trainer(Line(), lambda _: {"x": torch.full((2, 16), torch.nan)}, CONFIG, tmp_path).run()


def test_weights_without_a_finite_loss_are_not_saved(tmp_path: Path) -> None:
    """The first step itself is fine; what it leaves is not."""
    train(tmp_path, replace(CONFIG, steps=4))
    before = (tmp_path / STATE).read_bytes()
    wild = replace(CONFIG, learning_rate=1e30, save_every=1)
    with pytest.raises(
        UsageError, match=r"the loss is (inf|nan) after step 5, and these weights were not saved;"
    ):
        train(tmp_path, wild)
    assert (tmp_path / STATE).read_bytes() == before
    assert train(tmp_path).layer.weight.isfinite().all()


def test_looking_at_the_weights_draws_no_numbers_from_the_run(tmp_path: Path) -> None:
    class Noisy(Line):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.randn_like(x))

    ended = []
    for save_every in (1, 12):
        torch.manual_seed(5)
        module = Noisy()
        (tmp_path / str(save_every)).mkdir()
        Trainer(module, draw, replace(CONFIG, save_every=save_every), tmp_path / str(save_every)).run()
        ended.append(module.layer.weight)
    assert torch.equal(*ended)


def test_a_mean_that_is_switched_off_does_not_come_out(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    module = train(tmp_path, replace(CONFIG, ema=0.0))
    state = trainer.load_state(tmp_path / STATE)
    assert state["mean"] == {}
    assert torch.equal(module.layer.weight, state["module"]["layer.weight"])


def test_settings_of_the_optimiser_may_change(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    train(tmp_path, replace(CONFIG, betas=(0.5, 0.9), weight_decay=0.5))
    (group,) = trainer.load_state(tmp_path / STATE)["optimizer"]["param_groups"]
    assert (tuple(group["betas"]), group["weight_decay"]) == ((0.5, 0.9), 0.5)


def test_what_a_run_is_may_not_change(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4), identity={"rank": 4})
    with pytest.raises(
        CheckpointError, match="belongs to a run with rank 4, not 8; use another folder for this run"
    ):
        train(tmp_path, identity={"rank": 8})
    with pytest.raises(CheckpointError, match="belongs to a run with method adamw, not muon"):
        train(tmp_path, replace(CONFIG, method="muon"), identity={"rank": 4})


def test_weights_of_other_sizes_are_another_run(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, steps=4))
    other = Line()
    other.layer = nn.Linear(16, 8)
    with pytest.raises(CheckpointError, match="a run that trained other weights"):
        Trainer(other, draw, CONFIG, tmp_path)


@pytest.mark.parametrize("held", [{"latents": torch.ones(2)}, [1, 2]])
def test_a_file_that_holds_something_else_is_no_state(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / STATE)
    with pytest.raises(
        CheckpointError, match="is not a complete training state; delete it to start from scratch"
    ):
        train(tmp_path)


def test_half_precision_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="fp16 needs a GPU, but training runs on cpu; set precision to bf16 or no"
    ):
        train(tmp_path, replace(CONFIG, precision="fp16"))


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    module = Line().requires_grad_(False)
    with pytest.raises(UsageError, match="there is nothing to train"):
        Trainer(module, draw, CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "must be at least 1"),
        ("ema", 1.0, "ema must be 0"),
        ("learning_rate", 0.0, "learning_rate must be above 0"),
    ],
)
def test_bad_settings_are_named(field: str, value: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(CONFIG, **{field: value})


def test_training_without_accelerate_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(UsageError, match=r"pip install 'dynamicrafter-studio\[train\]'"):
        train(tmp_path)


def test_learning_rates() -> None:
    config = TrainerConfig(steps=12, learning_rate=1.0, warm_up=2, decay="linear")
    assert [config.rate(step) for step in (0, 1, 2, 7, 11)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.1])
    cosine = replace(config, decay="cosine")
    assert cosine.rate(7) == pytest.approx(0.5)
    assert replace(config, decay="constant").rate(11) == 1.0


def test_seeds_differ_for_step_batch_and_process() -> None:
    seeds = {step_seed(1, s, m, p) for s in range(50) for m in range(3) for p in range(4)}
    assert len(seeds) == 600
    # A generator on the CPU uses 32 bits of its seed.
    low = {step_seed(seed, step) % 2**32 for seed in range(3) for step in range(5000)}
    assert len(low) == 15_000
    first, later = (
        torch.rand(2, generator=torch.Generator().manual_seed(step_seed(0, s))) for s in (1, 1025)
    )
    assert not torch.equal(first, later)


def test_orthogonal_steps_keep_directions_and_even_out_strengths() -> None:
    matrix = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    made = orthogonalise(matrix)
    values = torch.linalg.svdvals(made)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    assert torch.allclose(orthogonalise(matrix.mT), made.mT, atol=0.05)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert float((made - u @ v).abs().mean() / (u @ v).abs().mean()) < 0.4


def test_vectors_get_adam() -> None:
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    mine = Muon([ours], lr=0.1, betas=(0.9, 0.99))
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for _ in range(3):
        for parameter, optimizer in ((ours, mine), (theirs, adam)):
            parameter.grad = 2 * parameter.detach() * torch.arange(1.0, 6.0)
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_termination_saves_the_state_and_the_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", CONFIG)

    def ask(step: int, _: int) -> None:
        if step == 5:
            # What the signal calls; the signal itself could end the process that runs the tests.
            heeded = signal.getsignal(signal.SIGTERM)
            assert callable(heeded)
            heeded(signal.SIGTERM, None)

    with heeding_termination(), pytest.raises(Stopped, match="stopped at step 6 of 12"):
        train(tmp_path / "stopped", CONFIG, progress=ask)
    assert torch.load(tmp_path / "stopped" / STATE, weights_only=True)["step"] == 6
    resumed = train(tmp_path / "stopped", CONFIG)
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
