"""What nodes make of variants and parameters inside a real host, for test_variant_by_use.py.

Usage: ``python variant_in_host.py REPOSITORY FILE``; writes one JSON object into the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def told(loader: Any, variants: Any, fits: list[str], mode: str) -> str:
    """What is answered for a file that fits these variants, or the error."""
    loader.checkpoint_path = Path
    loader.open_weights = lambda path: SimpleNamespace(path=path, entries={})
    loader.detect = lambda file: tuple(variants[name] for name in fits)
    try:
        return loader.variant_for("file.safetensors", mode)
    except ValueError as problem:
        return f"error: {problem}"


def own_values(module: Any, variant: Any, **given: float) -> dict[str, Any]:
    """What the sampler runs with when all is left to the model but what is ``given``."""
    left = {"steps": 0, "cfg": -1.0, "image_cfg": -1.0, "eta": -1.0, "guidance_rescale": -1.0}
    settings = module.settings_of(variant, variant.modes[0], spacing="auto", seed=1, **{**left, **given})
    names = (*left, "spacing")
    return {name: getattr(settings, name) for name in names}


def new_parameter(values: Any, variant: Any) -> dict[str, Any]:
    """Inputs and settings once the table and the settings have a parameter more."""
    table = importlib.import_module("pack.dynamicrafter.parameters")
    settings = importlib.import_module("pack.dynamicrafter.settings")
    sampler = importlib.import_module("pack.nodes.sampler").DynamiCrafterSampler
    bases = (settings.Settings,)
    settings.Settings = make_dataclass("Settings", [("film_grain", float, 0.0)], bases=bases, frozen=True)
    table.PARAMETERS["film_grain"] = table.Parameter(
        "film_grain", float, "sampling", "Grain", "how grainy", default=0.5, low=0, high=9, step=0.1
    )
    shown = {found.id: found for found in sampler.define_schema().inputs}["film_grain"]
    made = values.settings_of(variant, variant.modes[0], film_grain=2.5)
    return {"input": shown.as_dict(), "set": made.film_grain, "wrong": values.problem_of(film_grain=10.0)}


def encoders(folder: Path, present: tuple[str, ...]) -> list[Any]:
    """Where the encoders of a checkpoint with these networks come from, before and after the released file is there."""
    import comfy.clip_vision
    import comfy.sd
    import folder_paths

    loading = importlib.import_module("pack.nodes.host.loading")
    files = importlib.import_module("pack.nodes.host.files")
    loading.components_in = lambda path, variant: (SimpleNamespace(name="512_v1"), present)
    loading.load_part = lambda part, path, *_: f"{part} of {path.name}"
    comfy.sd.load_clip = lambda paths, **_: f"text of {Path(paths[0]).name}"
    comfy.clip_vision.load = lambda path: f"vision of {Path(path).name}"
    checkpoint = folder / "pruned.safetensors"
    checkpoint.touch()
    files.checkpoint_path = lambda name: checkpoint
    files.register_folders()
    folder_paths.add_model_folder_path("text_encoders", str(folder))
    told: list[Any] = []
    for name in ("nothing.safetensors", "open_clip_model.safetensors"):
        (folder / name).touch()
        folder_paths.filename_list_cache.clear()
        parts = loading.load_checkpoint(checkpoint, None, "auto")
        told.append([parts.clip, parts.clip_vision, files.fingerprint("pruned")])
    return told


def advice(kind: str) -> str:
    """What a graph is told for a remedy."""
    errors, words = (
        importlib.import_module(f"pack.{name}") for name in ("dynamicrafter.errors", "nodes.words")
    )
    try:
        with words.in_words_of_the_graph():
            raise errors.CheckpointError("it is not so", errors.Remedy(kind, ("text",)))
    except ValueError as problem:
        return str(problem)


def suggested(folder: Path) -> dict[str, Any]:
    """What Suggest offers and says when the built-in models have exports, which are known by their manifests."""
    import numpy as np
    import torch
    from PIL import Image

    api, manifest, detect = (
        importlib.import_module(f"pack.dynamicrafter.{name}")
        for name in ("api", "backends.openvino.manifest", "weights.detect")
    )
    os.environ["DYNAMICRAFTER_HOME"] = str(folder)
    for number, name in enumerate(("tiny", "random")):
        files = api.find_model(name)
        export = folder / "openvino" / str(number)
        export.mkdir(parents=True)
        for graph in manifest.DYNAMICRAFTER.files:
            (export / graph).touch()
        source = manifest.Source("weights", files.weights.name, "")
        described = detect.variant_metadata(api.variant_of(files))
        made = manifest.Manifest(name, (source,), described, "fp16", "", "", ())
        manifest.write_manifest(export, made, manifest.DYNAMICRAFTER)
    importlib.import_module("pack.nodes.host.files").register_folders()
    node = importlib.import_module("pack.nodes.director").DynamiCrafterSuggest
    (checkpoint,) = (one for one in node.define_schema().inputs if one.id == "checkpoint")
    shown = Image.open(Path(sys.modules["pack"].__path__[0]) / "pictures" / "red_circle.png").convert("RGB")
    image = torch.from_numpy(np.array(shown)).float()[None] / 255
    said: dict[str, Any] = {"offered": [name for name in checkpoint.options if name.endswith("(OpenVINO)")]}
    for name in said["offered"]:
        try:
            said[name] = node.execute(image, name, 1).args[0]
        except ValueError as problem:
            said[name] = str(problem)
    return said


if __name__ == "__main__":
    import comfy.options

    root, result = Path(sys.argv[1]), Path(sys.argv[2])
    # The host reads the command line; here it is to use the CPU, which every machine has.
    sys.argv[1:] = ["--cpu"]
    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location(
        "pack", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = pack
    spec.loader.exec_module(pack)
    node = importlib.import_module("pack.nodes.loader")
    known = importlib.import_module("pack.dynamicrafter.model.variants").VARIANTS
    values = importlib.import_module("pack.nodes.choices")
    family = ["512_v1", "512_interp_v1", "cil_512"]
    pruned = ["512_v1", "1024_v1", "512_interp_v1", "cil_512", "cil_1024"]
    result.write_text(
        json.dumps(
            {
                "512 animate": told(node, known, family, "animate"),
                "512 interpolate": told(node, known, family, "interpolate"),
                "512 loop": told(node, known, family, "loop"),
                "pruned loop": told(node, known, pruned, "loop"),
                "pruned animate": told(node, known, pruned, "animate"),
                "alone": told(node, known, ["small"], "loop"),
                "1024 loop": told(node, known, ["1024_v1", "cil_1024"], "loop"),
                "nothing": told(node, known, [], "loop"),
                "own values": {name: own_values(values, variant) for name, variant in known.items()},
                "given values": own_values(
                    values, known["512_v1"], steps=7, cfg=0.0, image_cfg=2.0, eta=0.0, guidance_rescale=0.0
                ),
                "advice": {kind: advice(kind) for kind in importlib.import_module("pack.nodes.words").WORDS},
                "new parameter": new_parameter(values, known["512_v1"]),
                "suggested": suggested(result.parent),
                "encoders of pruned": encoders(result.parent, ("unet", "vae", "resampler")),
                "encoders of full": encoders(result.parent, ("unet", "vae", "resampler", "text", "vision")),
            }
        ),
        encoding="utf-8",
    )
