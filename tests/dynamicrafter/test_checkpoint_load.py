"""From a file in any layout to networks with exactly its numbers, or to a sentence that says what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import PREFIXES, features, hugging_face, open_clip_model, outputs, save, small
from torch import Tensor, nn

from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.model.operations import LayerClasses, Operations
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights.detect import variant_metadata
from dynamicrafter.weights.load import Components, load_components
from dynamicrafter.weights.networks import COMPONENTS, Component

CORE: tuple[Component, ...] = ("unet", "vae", "resampler")


def networks(loaded: Components) -> dict[Component, nn.Module]:
    found = {name: getattr(loaded, name) for name in COMPONENTS}
    return {name: network for name, network in found.items() if network is not None}


def assert_holds(loaded: Components, tensors: dict[str, Tensor]) -> None:
    """Every parameter has the value of the file, cast to the dtype of the model."""
    for component, network in networks(loaded).items():
        for name, parameter in network.state_dict().items():
            wanted = tensors[PREFIXES[component] + name].to(loaded.dtype)
            assert torch.equal(parameter, wanted), f"{component}: {name}"


def test_a_loaded_model_is_ready_to_run(tmp_path: Path) -> None:
    path = save(tmp_path / "small.safetensors", small())
    loaded = load_components(path)
    assert_holds(loaded, small())
    assert loaded.variant == SMALL
    assert (loaded.path, loaded.device, loaded.dtype) == (path, torch.device("cpu"), torch.float32)
    for network in networks(loaded).values():
        assert not any(module.training for module in network.modules())
        for parameter in (*network.parameters(), *network.buffers()):
            assert parameter.device.type == "cpu"
            assert not parameter.requires_grad
    assert all(torch.isfinite(result).all() for result in outputs(loaded))


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float8_e4m3fn, torch.bfloat16),
        (torch.float8_e5m2, torch.float16),
    ],
)
def test_every_stored_precision_is_cast(tmp_path: Path, stored: torch.dtype, dtype: torch.dtype) -> None:
    tensors = small(*CORE, dtype=stored)
    loaded = load_components(save(tmp_path / "small.safetensors", tensors), towers=False, dtype=dtype)
    assert_holds(loaded, tensors)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_host_may_keep_weights_in_fp8(tmp_path: Path, dtype: torch.dtype) -> None:
    loaded = load_components(save(tmp_path / "a.safetensors", small(*CORE)), towers=False, dtype=dtype)
    parameter = next(loaded.unet.parameters())
    assert parameter.dtype == dtype


def lightning(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save({"state_dict": tensors, "epoch": 3, "global_step": 7}, path)


def plain(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, path)


def deepspeed(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save({"module": {f"_forward_module.{name}": tensor for name, tensor in tensors.items()}}, path)


def before_zip(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)


def views_of_one_storage(path: Path, tensors: dict[str, Tensor]) -> None:
    """Columns of one matrix: neither contiguous nor in storages of their own."""
    apart = {name: torch.stack([tensor, tensor], dim=-1)[..., 0] for name, tensor in tensors.items()}
    torch.save({"state_dict": apart}, path)


@pytest.mark.parametrize("write", [lightning, plain, deepspeed, before_zip, views_of_one_storage])
def test_every_pickled_layout_is_read(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "model.ckpt"
    write(path, small(*CORE))
    assert_holds(load_components(path, towers=False), small())


def test_pickles_are_read_in_every_precision(tmp_path: Path) -> None:
    stored = {torch.float16: "f", torch.bfloat16: "b", torch.float8_e4m3fn: "8"}
    for dtype, name in stored.items():
        lightning(tmp_path / name, small(*CORE, dtype=dtype))
        assert_holds(load_components(tmp_path / name, towers=False), small(*CORE, dtype=dtype))


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(small(*CORE), tmp_path / "model.ckpt")
    plain(tmp_path / "model.safetensors", small(*CORE))
    for path in tmp_path.iterdir():
        assert_holds(load_components(path, towers=False), small())


def test_the_256_name_of_the_frame_rate_layers_is_known(tmp_path: Path) -> None:
    renamed = {k.replace("fps_embedding", "framestride_embed"): v for k, v in small(*CORE).items()}
    assert_holds(load_components(save(tmp_path / "a.safetensors", renamed), towers=False), small())


def test_buffers_and_leftovers_are_known_and_left_alone(tmp_path: Path) -> None:
    known = {
        "betas": torch.zeros(1000),
        "scale_arr": torch.full((1400,), 0.7),
        "embedder.model.positional_embedding": torch.zeros(1),
        "embedder.model.token_embedding.weight": torch.zeros(1),
        "embedder.model.ln_final.bias": torch.zeros(1),
        "cond_stage_model.model.text_projection": torch.zeros(1),
        "cond_stage_model.model.logit_scale": torch.full((), torch.nan),
        "cond_stage_model.model.transformer.resblocks.2.ln_1.weight": torch.zeros(1),
    }
    assert_holds(load_components(save(tmp_path / "a.safetensors", {**small(), **known})), small())


def towers_together(folder: Path) -> tuple[Path, Path]:
    path = save(folder / "open_clip_model.safetensors", open_clip_model())
    return path, path


def towers_in_hugging_face_naming(folder: Path) -> tuple[Path, Path]:
    ids = torch.arange(77)[None]
    text = {**hugging_face("text"), "text_model.embeddings.position_ids": ids}
    vision = {**hugging_face("vision"), "visual_projection.weight": torch.zeros(64, 64)}
    vision["vision_model.post_layernorm.weight"] = torch.zeros(64)
    (folder / "text_encoder").mkdir()
    save(folder / "text_encoder" / "model.safetensors", text)
    return folder / "text_encoder", save(folder / "vision.safetensors", vision)


def whole_hugging_face_model(folder: Path) -> tuple[Path, Path]:
    both = {**hugging_face("text"), **hugging_face("vision"), "logit_scale": torch.zeros(())}
    both["text_model.encoder.layers.2.self_attn.q_proj.weight"] = torch.zeros(64, 64)
    torch.save(both, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin", folder / "pytorch_model.bin"


def another_checkpoint(folder: Path) -> tuple[Path, Path]:
    path = save(folder / "full.safetensors", small())
    return path, path


@pytest.fixture(scope="module")
def whole_features(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """What the towers of a whole checkpoint give."""
    return features(load_components(save(tmp_path_factory.mktemp("whole") / "a.safetensors", small())))


@pytest.mark.parametrize(
    "make", [towers_together, towers_in_hugging_face_naming, whole_hugging_face_model, another_checkpoint]
)
def test_towers_from_elsewhere_give_the_same_features(
    tmp_path: Path, whole_features: tuple[Tensor, Tensor], make: Any
) -> None:
    text, vision = make(tmp_path)
    pruned = save(tmp_path / "pruned.safetensors", small(*CORE))
    loaded = load_components(pruned, text_encoder=text, image_encoder=vision)
    assert_holds(loaded, small())
    for ours, theirs in zip(features(loaded), whole_features, strict=True):
        assert torch.equal(ours, theirs)


def test_a_given_tower_comes_before_the_one_inside(tmp_path: Path) -> None:
    inside = {**small(), "cond_stage_model.model.ln_final.bias": torch.full((64,), 5.0)}
    path = save(tmp_path / "a.safetensors", inside)
    given = load_components(path, text_encoder=save(tmp_path / "b.safetensors", open_clip_model()))
    assert_holds(given, small())


def test_towers_can_be_left_out(tmp_path: Path) -> None:
    loaded = load_components(save(tmp_path / "a.safetensors", small()), towers=False)
    assert (loaded.text, loaded.vision) == (None, None)


def test_layers_come_from_the_callers_namespace(tmp_path: Path) -> None:
    class Ours(nn.Linear):
        pass

    namespace = cast(LayerClasses, type("Layers", (), {**vars(nn), "Linear": Ours}))
    path = save(tmp_path / "a.safetensors", small(*CORE))
    loaded = load_components(path, towers=False, operations=Operations(layers=namespace))
    linear = [m for m in loaded.unet.modules() if isinstance(m, nn.Linear)]
    assert linear and all(type(m) is Ours for m in linear)
    assert_holds(loaded, small())


def test_progress_counts_every_byte_and_can_stop_the_work(tmp_path: Path) -> None:
    tensors = small(*CORE)
    path = save(tmp_path / "a.safetensors", tensors)
    seen: list[tuple[int, int]] = []
    load_components(path, towers=False, progress=lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        load_components(path, towers=False, progress=stop)
    assert torch.get_num_threads() == threads


def refuse(path: Path, match: str, **choices: Any) -> None:
    with pytest.raises(CheckpointError, match=match):
        load_components(path, **choices)


def test_missing_towers_are_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small(*CORE))
    refuse(
        path,
        r"lacks the CLIP text encoder and the CLIP image encoder; pass text_encoder=\.\.\. and pass image_",
    )
    refuse(
        path, r"pass image_encoder=\.\.\.$", text_encoder=save(tmp_path / "t.safetensors", open_clip_model())
    )
    without_text = save(tmp_path / "b.safetensors", small(*CORE, "vision"))
    refuse(
        without_text,
        r"28 tensors are missing .* pruned and lacks the CLIP text encoder; pass text_encoder=\.\.\.$",
    )


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = small()
    del tensors["model.diffusion_model.out.2.bias"]
    path = save(tmp_path / "a.safetensors", tensors)
    refuse(
        path,
        r"a\.safetensors does not contain exactly small: 1 tensors are missing "
        r"\(model\.diffusion_model\.out\.2\.bias\); it is damaged or too much was pruned",
    )


def test_a_missing_network_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small("unet"))
    refuse(path, "it does not contain the autoencoder, image token resampler: use the complete", towers=False)


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    for key in ("model.diffusion_model.extra.weight", "control.weight", "cond_stage_model.transformer.x"):
        path = save(tmp_path / "a.safetensors", {**small(), key: torch.zeros(1)})
        refuse(path, rf"1 are unexpected \({key}\); it was merged with something else")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {**small(), "image_proj_model.norm_out.bias": torch.zeros(3)})
    refuse(path, r"1 do not fit \(image_proj_model.norm_out.bias is \[3\] instead of \[64\]\)")


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    key = "image_proj_model.norm_out.bias"
    path = save(tmp_path / "a.safetensors", {**small(), key: torch.zeros(64, dtype=torch.int8)})
    refuse(path, "is stored as int8 instead of floating-point numbers.*quantised")


def test_scaled_fp8_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {**small(), "scaled_fp8": torch.zeros(2)})
    refuse(path, "scaled fp8, which is not supported")


def test_a_tower_of_another_size_is_refused(tmp_path: Path) -> None:
    model = {**open_clip_model(), "positional_embedding": torch.zeros(77, 32)}
    tower = save(tmp_path / "t.safetensors", model)
    path = save(tmp_path / "a.safetensors", small())
    refuse(
        path,
        "t.safetensors does not contain exactly the CLIP text encoder of small.*different CLIP model",
        text_encoder=tower,
    )


def test_a_tower_twice_in_one_file_is_refused(tmp_path: Path) -> None:
    both = {**open_clip_model(), **{name: tensor.clone() for name, tensor in hugging_face("text").items()}}
    tower = save(tmp_path / "t.safetensors", both)
    refuse(save(tmp_path / "a.safetensors", small()), r"are unexpected \(text_model\.", text_encoder=tower)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_found(tmp_path: Path, value: float) -> None:
    tensors = small(*CORE)
    spoilt = tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"].clone()
    spoilt[1, 2, 0, 1] = value
    tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"] = spoilt
    path = save(tmp_path / "a.safetensors", tensors)
    refuse(path, r"middle_block\.0\.in_layers\.2\.weight in .* NaN or infinite", towers=False)


def test_values_too_large_for_the_dtype_are_told_from_broken_ones(tmp_path: Path) -> None:
    tensors = {**small(*CORE), "image_proj_model.norm_out.bias": torch.full((64,), 1e5)}
    path = save(tmp_path / "a.safetensors", tensors)
    refuse(path, "up to 1e.05, too large for float16; use bfloat16", towers=False, dtype=torch.float16)
    load_components(path, towers=False, dtype=torch.bfloat16)


def test_the_variant_asked_for_must_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small())
    refuse(path, "was detected as small, not 1024_v1", variant="1024_v1")
    with pytest.raises(UsageError, match="there is no variant '1024x'; did you mean '1024_v1'"):
        load_components(path, variant="1024x")
    assert load_components(path, variant="Small").variant == SMALL


def test_a_variant_of_ones_own_is_read_from_the_metadata(tmp_path: Path) -> None:
    mine = replace(SMALL, name="mine", diffusion=replace(SMALL.diffusion, prediction="eps"))
    save_file(small(), tmp_path / "a.safetensors", variant_metadata(mine))
    assert load_components(tmp_path / "a.safetensors").variant == mine
    assert load_components(tmp_path / "a.safetensors", variant="mine").variant == mine


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dynamicrafter.format": "99"}, "written in layout '99' but this version reads '1'"),
        ({"dynamicrafter.variant": "{"}, "has an invalid description of its variant"),
        (
            {"dynamicrafter.variant": "{}"},
            r"the variant of .* must contain name, purpose, modes, preset; it is damaged",
        ),
        (
            {"dynamicrafter.variant": "[1]"},
            r"the variant of .* must be an object, not \[1\]; it is damaged",
        ),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path: Path, changes: dict[str, str], match: str) -> None:
    save_file(small(), tmp_path / "a.safetensors", {**variant_metadata(SMALL), **changes})
    refuse(tmp_path / "a.safetensors", match)
