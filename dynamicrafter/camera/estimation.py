"""Depth maps estimated from images by models of transformers (extra ``depth``).

Model files are untrusted: weights are read from safetensors files only, no code of a model's folder runs, and nothing
is downloaded, whatever a configuration refers to.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError, UsageError
from .choices import DepthKind

_NEVER_RUN = ".fusion_stage.layers.0.residual_layer1."
"""Weights that DPT's first fusion layer has but never uses; released files lack them."""
_METRIC = {"depth_pro", "glpn", "zoedepth"}
"""Architectures whose maps are distances in metres, whatever their weights."""


def estimate_depth(pixels: Tensor, model: str, kind: DepthKind) -> Tensor:
    """The depth map of an image, float32 ``[h, w]`` on the CPU, as the model outputs it at the size of the image.

    ``pixels`` is uint8 RGB ``[h, w, 3]``. ``model`` is a folder as ``save_pretrained`` writes it, or the name of a
    repository in the cache of the Hugging Face hub. It is run on the CPU, in float32. ``kind`` is what its values are
    to be taken for.

    Raises UsageError if transformers or the model is not there, and for a ``kind`` that its configuration contradicts;
    CheckpointError if the folder does not contain a complete model for depth estimation.
    """
    if find_spec("transformers") is None:
        raise UsageError(
            "estimating depth needs the transformers package; install it with pip install "
            "'dynamicrafter-studio[depth]', or use a depth map"
        )
    folder = _folder_of(model)
    with _offline_and_silent():
        try:
            return _estimated(pixels, folder, model, kind)
        except (CheckpointError, UsageError):
            raise
        # Every kind of exception, as the files can contain anything.
        except Exception as problem:
            reason = " ".join(str(problem).split(". ")[0].split()).rstrip(".")
            raise CheckpointError(
                f"the depth model {model} cannot be used ({reason}); it must have config.json, "
                "preprocessor_config.json and safetensors files"
            ) from problem


def _folder_of(model: str) -> Path:
    """The folder with the files of ``model``; raises UsageError if there is none."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        found = cast(Any, try_to_load_from_cache)(model, "config.json")
    except ValueError:  # Not the form of a repository's name.
        found = None
    if not isinstance(found, str):
        raise UsageError(
            f"the depth model {model} is neither a folder nor in the cache of the Hugging Face hub; correct the path, "
            f"or download the model with 'hf download NAME'"
        )
    return Path(found).parent


def _estimated(pixels: Tensor, folder: Path, model: str, kind: DepthKind) -> Tensor:
    """As :func:`estimate_depth`, by the model in ``folder``; may raise anything for a damaged one."""
    import transformers
    from PIL import Image

    library = cast(Any, transformers)
    local = {"local_files_only": True, "trust_remote_code": False}
    config = library.AutoConfig.from_pretrained(folder, **local)
    if type(config) not in library.MODEL_FOR_DEPTH_ESTIMATION_MAPPING:
        raise CheckpointError(
            f"a model for depth estimation is needed, but {model} is one of type {config.model_type}; use another "
            "model, such as Depth Anything"
        )
    _check_kind(config, model, kind)
    processor = library.AutoImageProcessor.from_pretrained(folder, **local)
    network, loaded = library.AutoModelForDepthEstimation.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **local,
    )
    missing = sorted(name for name in loaded["missing_keys"] if _NEVER_RUN not in name)
    if missing:
        raise CheckpointError(
            f"the depth model {model} is incomplete: {len(missing)} of its tensors are missing, such as {missing[0]}; "
            "download it again"
        )
    with torch.inference_mode():
        outputs = network(**processor(images=Image.fromarray(pixels.numpy()), return_tensors="pt"))
        # By position: the sizes that the maps are brought to have another name for ZoeDepth.
        (found,) = processor.post_process_depth_estimation(outputs, [tuple(pixels.shape[:2])])
    return found["predicted_depth"].float().contiguous()


def _check_kind(config: Any, model: str, kind: DepthKind) -> None:
    """Raise UsageError if the configuration of ``model`` says that its maps are of another kind."""
    said = {"relative": "disparity", "metric": "metric"}.get(getattr(config, "depth_estimation_type", ""))
    real = "metric" if config.model_type in _METRIC else said
    if real not in (None, kind):
        raise UsageError(
            f"the depth model {model} makes maps of kind {real}, but {kind} was given; choose {real} as the depth_kind"
        )


@contextmanager
def _offline_and_silent() -> Generator[None]:
    """No network access and no output of transformers within the context, whatever the process has set."""
    from huggingface_hub import constants
    from transformers.utils import logging as untyped

    logging = cast(Any, untyped)
    hub = cast(Any, constants)
    offline, verbosity, bars = hub.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled()
    # A backbone may be named by its repository, which transformers would ask the hub for.
    hub.HF_HUB_OFFLINE = True
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
