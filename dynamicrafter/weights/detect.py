"""Detects the variant of a checkpoint from its metadata or its tensors, never from its file name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..bounded_json import parse_json
from ..errors import CheckpointError, Remedy, UsageError
from ..forms import Form, program_version, to_json
from ..model.configs import UNetConfig
from ..model.variants import VARIANTS, Variant, nameless
from .architectures import recognise
from .formats.entries import Entry, WeightsFile, read_tensor
from .layout import locate
from .networks import COMPONENTS, TITLES, expected

VARIANT_KEY = "dynamicrafter.variant"
"""Metadata key in files written by this package: the complete variant as JSON."""
FORMAT_KEY = "dynamicrafter.format"
FORMAT = "1"
"""Version of the layout of files written by this package."""
WRITER_KEY = "dynamicrafter.version"
"""Version of the program that wrote a file."""
_FIRST_WRITER = "0.1.0"
"""The version that did not store its number."""

_SCALE = "scale_arr"
_SCALE_TOLERANCE = 0.1
"""Tolerance for a stored base scale: fp8 rounds 0.7 to 0.75, and the only values in use are 0.3 and 0.7."""

# Of a variant in a file's metadata; several times what the released ones have.
_LARGEST_SIZE = 2**20
_MOST_LAYERS = {"layers": 64, "depth": 64, "num_res_blocks": 8}
_MOST_LEVELS = 8

_FIRST_ATTENTION_HEADS = 8
"""Heads of the first temporal transformer at any width."""


def variant_metadata(variant: Variant) -> dict[str, str]:
    """Metadata from which :func:`detect` reads the variant back."""
    return {
        FORMAT_KEY: FORMAT,
        WRITER_KEY: program_version(),
        VARIANT_KEY: json.dumps(to_json(variant), separators=(",", ":")),
    }


def detect(file: WeightsFile) -> tuple[Variant, ...]:
    """All variants that a file can be, in the order of the catalogue; empty if it is something else.

    Files written by this package name their variant. In others, the learned image scale identifies 256, the
    reference-guided decoder ToonCrafter, and the end value of the dynamic rescale distinguishes 1024 from 512. 512
    cannot be distinguished from its interpolation model, nor 1024 from 512 in files without the noise schedule. Raises
    CheckpointError for invalid metadata.
    """
    if VARIANT_KEY in file.metadata:
        return (read_variant(file.path, file.metadata),)
    names = {place.name: key for key in file.entries if (place := locate(key)) and place.component == "unet"}
    shapes = {name: file.entries[key].shape for name, key in names.items()}
    if not any(name.endswith("attn2.to_k_ip.weight") for name in shapes):
        return ()
    found = _sizes(shapes)
    decoders = {
        "attn_refinement" in key for key in file.entries if key.startswith("first_stage_model.decoder.")
    }
    scale = _base_scale(file)
    return tuple(
        variant
        for variant in VARIANTS.values()
        if _fits(found, variant.unet)
        and (not decoders or variant.vae.video_decoder == any(decoders))
        and (scale is None or _near(scale, variant.diffusion.base_scale))
    )


def choose(fits: Sequence[Variant], asked: str | None, file: WeightsFile) -> Variant:
    """Choose one of the variants that fit a file; ``asked`` is the caller's choice, if any.

    Variants for guide clips alone are chosen by name only, because nothing in a file tells them from the variant that
    they were trained from. Others with equal networks, noise process and defaults (a release and its retrained
    successor) are equivalent, and the first is used. Raises CheckpointError if none fits, if ``asked`` does not fit, or
    if the file is ambiguous and ``asked`` is None; UsageError if there is no variant of that name.
    """
    if not fits:
        raise CheckpointError(
            f"{file.path} is not a DynamiCrafter checkpoint but {recognise(file.entries)}",
            Remedy("choose_model"),
        )
    if asked is not None:
        return _asked(fits, asked, file.path)
    # A file of such a variant alone says so in its metadata.
    fits = tuple(variant for variant in fits if variant.modes != ("views",)) or fits
    different: dict[Variant, Variant] = {}
    for variant in fits:
        different.setdefault(nameless(variant), variant)
    if len(different) == 1:
        return fits[0]
    options = ", ".join(f"{variant.name} ({variant.purpose})" for variant in different.values())
    raise CheckpointError(
        f"{file.path} can be any of {options}, and its weights are ambiguous",
        Remedy("name_variant", tuple(variant.name for variant in different.values())),
    )


def _asked(fits: Sequence[Variant], asked: str, path: Path) -> Variant:
    key = asked.strip().lower().replace("-", "_")
    known = {variant.name: variant for variant in (*VARIANTS.values(), *fits)}
    name = key if key in known else f"{key}_v1"
    if name not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "see the list;"
        raise UsageError(f"there is no variant {asked!r}; {hint} known are {', '.join(known)}")
    for variant in fits:
        if variant.name == name:
            return variant
    raise CheckpointError(
        f"{path} was detected as {' or '.join(variant.name for variant in fits)}, not {name}",
        Remedy("drop_variant"),
    )


def read_variant(path: Path, metadata: Mapping[str, str]) -> Variant:
    """The variant in the metadata of ``path``, from :func:`variant_metadata`; raises CheckpointError if it is none."""
    layout, writer = metadata.get(FORMAT_KEY), metadata.get(WRITER_KEY, _FIRST_WRITER)
    if layout != FORMAT:
        raise CheckpointError(
            f"{path} was written in layout {layout!r} but this version reads {FORMAT!r}; use a newer version"
        )
    try:
        values = parse_json(metadata[VARIANT_KEY])
        _check_sizes(values)
    except ValueError as error:
        raise CheckpointError(
            f"{path} has an invalid description of its variant ({error}); convert it again"
        ) from error
    variant = Form(f"the variant of {path}", CheckpointError, writer).read(Variant, values)
    for component in COMPONENTS:
        if getattr(variant, component) in [getattr(known, component) for known in VARIANTS.values()]:
            continue
        try:
            expected(variant, component)
        except Exception as error:
            # Sizes that do not go together make the layers fail in every way there is.
            raise CheckpointError(
                f"{path} gives sizes of its {TITLES[component]} that cannot be built ({error}); convert it again"
            ) from error
    return variant


def _check_sizes(values: Any, name: str = "") -> None:
    """Raise ValueError for numbers of a variant beyond those of any network, which would take for ever to build."""
    if isinstance(values, dict):
        for key, inner in cast(dict[str, Any], values).items():
            _check_sizes(inner, key)
    elif isinstance(values, list):
        items = cast(list[Any], values)
        if len(items) > _MOST_LEVELS:
            raise ValueError(f"{name} has {len(items)} values, of at most {_MOST_LEVELS}")
        for item in items:
            _check_sizes(item, name)
    elif type(values) is int:
        largest = _MOST_LAYERS.get(name, _LARGEST_SIZE)
        if not 0 <= values <= largest:
            raise ValueError(f"{name} must be 0 to {largest}, but is {values}")


def _base_scale(file: WeightsFile) -> float | None:
    """End value of the dynamic rescale, in files that contain the noise schedule."""
    entry: Entry | None = file.entries.get(_SCALE)
    if entry is None or entry.numel == 0 or len(entry.shape) != 1:
        return None
    return float(read_tensor(file, _SCALE)[-1])


def _near(scale: float, base: float | None) -> bool:
    return base is not None and abs(scale - base) < _SCALE_TOLERANCE


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """Config values that follow from the names and shapes of a denoising network's tensors, as far as present."""
    blocks = [int(found[1]) for name in shapes if (found := re.match(r"input_blocks\.(\d+)\.", name))]
    sizes: dict[str, object] = {
        "blocks": max(blocks, default=-1) + 1,
        "alpha": any(name.endswith("attn2.alpha") for name in shapes),
    }
    first = shapes.get("input_blocks.0.0.weight", ())
    if len(first) == 4:
        sizes["model_channels"], sizes["in_channels"] = first[:2]
    context = next((shape for name, shape in shapes.items() if name.endswith("attn2.to_k_ip.weight")), ())
    if len(context) == 2:
        sizes["context"] = context[1]
    inner = shapes.get("init_attn.0.proj_in.weight", ())
    if inner:
        sizes["head_channels"] = inner[0] / _FIRST_ATTENTION_HEADS
    return sizes


def _fits(found: Mapping[str, object], config: UNetConfig) -> bool:
    levels = len(config.channel_mult)
    wanted: dict[str, object] = {
        "blocks": 1 + levels * config.num_res_blocks + levels - 1,
        "alpha": config.learned_image_scale,
        "model_channels": config.model_channels,
        "in_channels": config.in_channels,
        "context": config.context_dim,
        "head_channels": config.num_head_channels,
    }
    return all(wanted[size] == value for size, value in found.items())
