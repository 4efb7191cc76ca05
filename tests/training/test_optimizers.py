"""Optimizers by name: which there are, what they are given, and that their runs go on where they stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_run import Layer, draw
from torch import nn

from dynamicrafter.errors import UsageError
from dynamicrafter.training.muon import Muon
from dynamicrafter.training.optimizers import make_optimizer, optimizer_class
from dynamicrafter.training.trainer import STATE, Trainer, TrainerConfig, load_state

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

COMMON = {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.2}
PACKAGES = {"bitsandbytes.AdamW8bit": {}, "bitsandbytes.Lion": {}, "prodigyopt.Prodigy": {"d_coef": 2.0}}


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(4, 4))]


def trained(folder: Path, config: TrainerConfig) -> Layer:
    torch.manual_seed(0)
    layer = Layer(4, 4)
    Trainer(layer, draw, config, folder).run()
    return layer


def test_names() -> None:
    assert optimizer_class("adamw") is torch.optim.AdamW
    assert optimizer_class("muon") is Muon
    assert optimizer_class("Adafactor") is torch.optim.Adafactor


def test_an_optimizer_is_given_the_settings_that_it_has() -> None:
    (group,) = make_optimizer("SGD", weights(), COMMON, {"momentum": 0.7}).param_groups
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.1, 0.2, 0.7)
    assert "betas" not in group
    (group,) = make_optimizer("adamw", weights(), COMMON, {"amsgrad": True}).param_groups
    assert (group["betas"], group["amsgrad"]) == ((0.5, 0.9), True)


@pytest.mark.parametrize(
    "name", ["adam", "Optimizer", "LBFGS", "SparseAdam", "lr_scheduler", "os.path", "a.b.c", ""]
)
def test_what_is_no_optimizer_is_told_before_anything_is_read(name: str) -> None:
    with pytest.raises(
        UsageError, match=f"there is no optimizer '{name}' to train with; use adamw, muon, a class"
    ):
        TrainerConfig(method=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speed": 1}, r"the optimizer SGD rejects its arguments \(.*'speed'\); correct method_arguments"),
        ({"momentum": -1}, r"the optimizer SGD rejects its arguments \(.*-1\); correct method_arguments"),
        ({"lr": 1}, "method_arguments contains lr, which the setting learning_rate is for; use that one"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_optimizer("SGD", weights(), COMMON, arguments)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = name.partition(".")[0]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.optim", None)
    with pytest.raises(
        UsageError, match=f"needs the {package} package; install it with pip install {package}, or"
    ):
        optimizer_class(name)


def test_an_optimizer_of_a_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", SimpleNamespace(Prodigy=torch.optim.RAdam))
    assert optimizer_class("prodigyopt.Prodigy") is torch.optim.RAdam


@pytest.mark.parametrize("name", ["SGD", "Adafactor", "RMSprop", *PACKAGES])
@pytest.mark.filterwarnings("default")
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    """With any optimizer, whatever the shapes of its state."""
    pytest.importorskip(name.partition(".")[0] if "." in name else "torch")
    arguments = {"momentum": 0.9} if name == "SGD" else PACKAGES.get(name, {})
    config = TrainerConfig(
        steps=6, method=name, method_arguments=arguments, learning_rate=0.01, save_every=2, log_every=1
    )
    whole = trained(tmp_path / "whole", config)
    trained(tmp_path / "parts", replace(config, steps=2))
    parts = trained(tmp_path / "parts", config)
    assert torch.equal(whole.weight, parts.weight)
    torch.manual_seed(0)
    assert not torch.equal(whole.weight, Layer(4, 4).weight)
    states = [load_state(tmp_path / part / STATE)["optimizer"]["state"] for part in ("whole", "parts")]
    assert states[0] and states[0].keys() == states[1].keys()


def test_arguments_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    config = TrainerConfig(steps=1, method="SGD", method_arguments={"momentum": 0.9})
    trained(tmp_path, config)
    trained(tmp_path, replace(config, steps=2, method_arguments={"momentum": 0.5}))
    (group,) = load_state(tmp_path / STATE)["optimizer"]["param_groups"]
    assert group["momentum"] == 0.5
