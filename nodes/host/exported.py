"""The network in OpenVINO as the host's MODEL: all samplers work on it, but its weights cannot be patched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from ...dynamicrafter.api import export_with
from ...dynamicrafter.backends.choice import parse_backend
from ...dynamicrafter.backends.openvino.compiled import check_device
from ...dynamicrafter.backends.openvino.graphs import signature
from ...dynamicrafter.backends.openvino.manifest import read_manifest, variant_in
from ...dynamicrafter.backends.openvino.running import ExportedNetwork, compile_graphs
from ...dynamicrafter.errors import UsageError
from ...dynamicrafter.model.preview import PreviewColours
from ...dynamicrafter.model.protocols import Network
from .model import HostConfig, HostModel, evaluate_frames, refuse_extras

_BACKEND = "openvino:CPU"


class HostExportedNetwork(torch.nn.Module):
    """An exported network with the signature that the host calls, as :class:`~.model.HostUNet`."""

    dtype = torch.float32

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        *,
        image_tokens: Tensor,
        fs: Tensor,
        **_: Any,
    ) -> Tensor:
        """``[(b t), 8, h, w]`` to ``[(b t), 4, h, w]``; raises ValueError for what the network does not support."""
        options = transformer_options or {}
        refuse_extras(control, options)
        return evaluate_frames(self.network, x, timesteps, context, image_tokens, fs, options).to(x.device)


class ExportedPatcher(comfy.model_patcher.ModelPatcher):
    """A patcher for a network without weights of the host's."""

    def add_patches(self, *_: Any, **__: Any) -> Any:
        """Refuse; the host would drop a LoRA whose weights it does not find, with no more than a warning."""
        raise ValueError(
            "this model runs in OpenVINO, which has its weights fixed, so a LoRA cannot be added; remove the LoRA node "
            "and export the model with the LoRA ('dynamicrafter export --lora'), or load it without OpenVINO"
        )


def build_exported_model(path: Path, variant: str, preview: PreviewColours | None) -> Any:
    """A model patcher for the export of a checkpoint, which must be in the weights folder.

    OpenVINO holds the weights, in main memory, and the host cannot unload them. Raises CheckpointError and UsageError
    as :func:`dynamicrafter.api.export_with`.
    """
    device = parse_backend(_BACKEND).device
    check_device(device)
    folder = export_with(path)
    manifest = read_manifest(folder)
    if variant_in(folder, manifest).name != variant:
        other = variant_in(folder, manifest).name
        raise UsageError(f"{folder} is an export of {other}, not of {variant}; export it again")
    chosen = variant_in(folder, manifest)
    compiled = compile_graphs(folder, manifest, {"unet": signature(chosen, "unet")}, device, torch.float32)
    config = HostConfig(chosen, preview)
    config.unet_config["disable_unet_model_creation"] = True
    config.set_inference_dtype(torch.float32, None)
    model = HostModel(config, "cpu")
    model.diffusion_model = HostExportedNetwork(ExportedNetwork(compiled["unet"], chosen.unet.model_channels))
    return ExportedPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
