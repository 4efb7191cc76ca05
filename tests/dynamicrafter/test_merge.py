"""Merging two models gives EDG's pair: the formula, what is drawn, what is refused, and files that make clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_runs import QUICK, Run, complaint
from safetensors.torch import load_file, save_file
from small_checkpoints import save, small
from torch import Tensor

from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.detect import variant_metadata
from dynamicrafter.weights.inspect import inspect
from dynamicrafter.weights.merge import consistent_of, dynamic_of, merge
from dynamicrafter.weights.mixture import Mixture

UNET, BIAS = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.bias"
SCHEDULE = {"betas": torch.linspace(0.001, 0.01, 1000)}


def tuned() -> dict[str, Tensor]:
    """The network as if it had been trained on; autoencoder and encoders as before."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: value + 0.01 * torch.randn(value.shape, generator=generator)
        if "diffusion_model" in name
        else value
        for name, value in small("unet", "vae", "resampler").items()
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its fine-tuned successor, a release of its own, without encoders; not to be changed."""
    folder = tmp_path_factory.mktemp("merge")
    successor = variant_metadata(replace(SMALL, name="successor", purpose="more motion"))
    save_file(tuned(), folder / "tuned.safetensors", successor)
    base = save(folder / "base.safetensors", {**small("unet", "vae", "resampler"), **SCHEDULE})
    return base, folder / "tuned.safetensors"


def merged(
    sources: tuple[Path, Path], folder: Path, **how: object
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    folder.mkdir(exist_ok=True)
    paths = folder / "dynamic.safetensors", folder / "consistent.safetensors"
    assert merge(*sources, *paths, **how) == SMALL  # type: ignore[arg-type]
    return load_file(paths[0]), load_file(paths[1])


@pytest.fixture(scope="module")
def pair(sources: tuple[Path, Path]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The models made of them with the published numbers; not to be changed."""
    return merged(sources, sources[0].parent / "out")


def test_every_value_is_one_of_two_that_the_formula_allows(
    pair: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    """EDG's own form: pre + 0.75 B(0.25 (pre - cil)) and 1.0 cil + 0.25 B(cil - pre), in float64."""
    base, other = small("unet", "vae", "resampler"), tuned()
    dynamic, consistent = pair
    assert dynamic.keys() == consistent.keys() == base.keys()
    shares: list[float] = []
    for name in base:
        pre, cil = base[name].double(), other[name].double()
        for made, without, kept, all_of_it in (
            (dynamic, pre, pre + 0.75 * 0.25 * (pre - cil) / 0.3, pre + 0.75 * 0.25 * (pre - cil)),
            (consistent, cil, 1.0 * cil + 0.25 * (cil - pre) / 0.3, 1.0 * cil + 0.25 * (cil - pre)),
        ):
            found = made[name].double()
            if pre.ndim < 2:
                torch.testing.assert_close(found, all_of_it, atol=1e-6, rtol=1e-6)
                continue
            here = (found - kept).abs() < (found - without).abs()
            torch.testing.assert_close(found, torch.where(here, kept, without), atol=1e-6, rtol=1e-6)
            if "diffusion_model" in name:
                shares += [here.double().mean().item()] if here.numel() > 4000 else []
            else:
                assert torch.equal(made[name], base[name])
    assert len(shares) > 50
    assert all(0.25 < share < 0.35 for share in shares)


def test_the_mean_of_what_is_kept_is_that_of_all_changes() -> None:
    base, other = torch.zeros(1000, 1000), torch.ones(1000, 1000)
    # The standard error of B's mean is sqrt(0.7 / 0.3) / 1000.
    mixture = Mixture(dynamic=1.0, consistent=1.0)
    assert dynamic_of(base, other, mixture, "a").mean().item() == pytest.approx(-1, abs=0.006)
    assert consistent_of(base, other, mixture, "a").mean().item() == pytest.approx(2, abs=0.006)


def test_what_is_kept_depends_on_seed_name_and_side_alone() -> None:
    base, other = torch.zeros(64, 64), torch.ones(64, 64)

    def kept(seed: int, name: str) -> Tensor:
        return dynamic_of(base, other, Mixture(seed=seed), name) != 0

    assert torch.equal(kept(0, "a"), kept(0, "a"))
    for others in (kept(1, "a"), kept(0, "b"), consistent_of(base, other, Mixture(), "a") != 1):
        assert 0.3 < (kept(0, "a") != others).float().mean().item() < 0.54  # 2 * 0.3 * 0.7 if independent


def test_layout_and_format_of_the_sources_change_nothing(
    sources: tuple[Path, Path], pair: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path
) -> None:
    bare = {
        name.replace("model.diffusion_model.", "diffusion_model."): value for name, value in tuned().items()
    }
    torch.save({"state_dict": dict(reversed(bare.items()))}, tmp_path / "tuned.ckpt")
    for found, wanted in zip(merged((sources[0], tmp_path / "tuned.ckpt"), tmp_path), pair, strict=True):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"keep": 0.0}, "keep must be above 0 and at most 1, but 0 was given; 1 keeps all changes"),
        ({"keep": float("nan")}, "keep must be above 0 and at most 1, but nan was given"),
        (
            {"dynamic": float("inf")},
            "the dynamic weight must be a finite number, but inf was given; use 0 to 1",
        ),
        ({"consistent": float("nan")}, "the consistent weight must be a finite number, but nan was given"),
    ],
)
def test_numbers_that_make_no_model_are_refused(numbers: dict[str, float], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Mixture(**numbers)  # type: ignore[arg-type]


def refuse(base: Path, other: Path, folder: Path, match: str, consistent: str = "c.safetensors") -> None:
    """Merging fails with a message and leaves no file behind."""
    target = folder / "out"
    target.mkdir()
    with pytest.raises((CheckpointError, UsageError), match=match):
        merge(base, other, target / "d.safetensors", target / consistent)
    assert list(target.iterdir()) == []


def test_files_that_are_not_alike_are_refused_with_the_first_difference(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = save(tmp_path / "whole.safetensors", small())
    first = "cond_stage_model.model.ln_final.bias is in .*whole.safetensors and not in .*tuned.safetensors"
    refuse(whole, sources[1], tmp_path, f"must have the same tensors, but {first}; prune both or neither")


def test_a_shape_of_another_model_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = save(tmp_path / "wrong.safetensors", {**tuned(), BIAS: torch.zeros(5)})
    refuse(sources[0], wrong, tmp_path, rf"1 do not fit \({BIAS} is \[5\] instead of \[4\]\)")


def test_another_variant_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    from dynamicrafter.api import find_model

    refuse(
        sources[0],
        find_model("tiny").weights,
        tmp_path,
        "only, but .*base.safetensors is small and .* is tiny; use",
    )


def test_layers_in_8_bits_are_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    convert(sources[1], tmp_path / "int8.safetensors", dtype="int8")
    refuse(
        sources[0],
        tmp_path / "int8.safetensors",
        tmp_path,
        "int8.safetensors stores layers in int8, .* use the file",
    )


def test_one_name_for_both_models_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    refuse(
        *sources, tmp_path, "both models would be written to .*d.safetensors; choose another", "d.safetensors"
    )
    with pytest.raises(
        UsageError, match="base.safetensors is also the input file; choose another output name"
    ):
        merge(*sources, tmp_path / "d.safetensors", sources[0])


def test_neither_model_is_written_if_one_cannot_be(sources: tuple[Path, Path], tmp_path: Path) -> None:
    nan = save(tmp_path / "nan.safetensors", {**tuned(), UNET: torch.full_like(tuned()[UNET], torch.nan)})
    refuse(sources[0], nan, tmp_path, f"{UNET} in .*nan.safetensors has NaN or infinite values")


@pytest.mark.parametrize("blocked", ["c.safetensors", "d.safetensors"])
def test_targets_that_cannot_be_written_are_found_before_the_work(
    sources: tuple[Path, Path], tmp_path: Path, blocked: str
) -> None:
    (tmp_path / blocked).mkdir()
    done: list[int] = []
    with pytest.raises(
        CheckpointError, match=rf"{blocked} cannot be written \(Is a directory\); choose another name"
    ):
        merge(
            *sources,
            tmp_path / "d.safetensors",
            tmp_path / "c.safetensors",
            progress=lambda now, _: done.append(now),
        )
    with pytest.raises(
        CheckpointError, match=r"c.safetensors cannot be written \(No such file or directory\)"
    ):
        merge(*sources, tmp_path / "e.safetensors", tmp_path / "away" / "c.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [blocked]
    assert done == []


def test_the_command_writes_models_that_make_clips(
    run: Run, random_weights: Path, sources: tuple[Path, Path], pictures: dict[str, Path]
) -> None:
    words = ("merge", "random", random_weights, "--dynamic", "d.safetensors", "--consistent", "c.safetensors")
    ran = run(*words, "--dtype", "bf16", "--keep", "0.5")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "d.safetensors: small, 0.01 GB\nc.safetensors: small, 0.01 GB\n"
    report = inspect("c.safetensors")
    assert (report.variants, list(report.dtypes)) == (("small",), ["bfloat16"])
    clip = run("animate", pictures["wide"], *QUICK, "--model", "d.safetensors", "-o", "clip.gif")
    assert clip.code == 0, clip.err
    numbers = ("--dynamic-weight", "0", "--consistent-weight", "0.5", "--keep", "1", "--seed", "7")
    told = run("merge", *sources, *words[3:], *numbers, "--json").json
    assert told == {"variant": "small", "dynamic": "d.safetensors", "consistent": "c.safetensors"}
    base, other = small()[UNET], tuned()[UNET]
    assert torch.equal(load_file("d.safetensors")[UNET], base)
    torch.testing.assert_close(load_file("c.safetensors")[UNET], other + 0.5 * (other - base))
    wrong = run(*words, "--dtype", "int8")
    assert "argument --dtype: must be fp32, bf16, fp16 or keep, not 'int8'" in complaint(wrong, 2)
