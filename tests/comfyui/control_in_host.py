"""The host's ControlNets and wrappers on our network, for test_pack_control.py; run as a script of its own.

Usage: ``python control_in_host.py REPOSITORY WORKING_FOLDER GROUP``; writes ``GROUP.json`` into the working folder:
by name what was measured, or the traceback where that failed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from numbers_in_host import Numbers
from probed_host import error
from torch import Tensor

FRAMES = 4
SETTINGS: dict[str, Any] = {"frames": FRAMES, "steps": 3, "seed": 5, "cfg": 3.0}
FULL = {3: "ControlNet for Stable Diffusion 2.1", 1: "sketch encoder"}


def cldm(config: Any, channels: int, **more: Any) -> Any:
    """The host's network with the layout that its loader reads off a file."""
    import comfy.cldm.cldm
    import comfy.ops

    levels = len(config.channel_mult)
    attended = [int(2**level in config.attention_factors) for level in range(levels)]
    given = {
        "image_size": 32,
        "in_channels": 4,
        "model_channels": config.model_channels,
        "hint_channels": channels,
        "num_res_blocks": [config.num_res_blocks] * levels,
        "channel_mult": list(config.channel_mult),
        "transformer_depth": [depth for depth in attended for _ in range(config.num_res_blocks)],
        "transformer_depth_middle": 1,
        "num_head_channels": config.num_head_channels,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "context_dim": config.context_dim,
        "legacy": False,
        "operations": comfy.ops.disable_weight_init,
    }
    return comfy.cldm.cldm.ControlNet(**given, **more)


class Controls(Numbers):
    """Clips of our network with the host's ControlNets."""

    def controls(self) -> None:
        """Everything about ControlNets."""
        for channels in FULL:
            self.measure(f"layout {channels}", self.layout, channels)
        self.prepare()
        for name in ("all steps", "part", "sketch", "chained", "blank", "none"):
            self.measure(name, self.like_the_command, name)
        self.measure("zeroed", self.zeroed)
        self.measure("shown", self.shown)
        self.measure("refused", self.refused)
        self.measure("wrapped", self.wrapped)

    def layout(self, channels: int) -> bool:
        """Whether the host's loader builds the same names and shapes for a file of the full size."""
        import comfy.cldm.cldm
        import comfy.model_detection
        import comfy.ops

        config = self.pack("dynamicrafter.model.configs").UNetConfig()
        ours = self.pack("dynamicrafter.weights.controlnet").control_tensors(config, channels)
        shapes = {name: entry.shape for name, entry in ours.items()}
        file = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        found = comfy.model_detection.model_config_from_unet(file, "", True).unet_config
        given = {name: value for name, value in found.items() if name != "out_channels"}
        built = comfy.cldm.cldm.ControlNet(
            **given, hint_channels=channels, operations=comfy.ops.disable_weight_init, device="meta"
        )
        return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()} == shapes

    def prepare(self) -> None:
        """A checkpoint and two ControlNets, whose sizes suit the host: it always has 32 groups."""
        variants = self.pack("dynamicrafter.model.variants")
        self.variant = replace(variants.SMALL, name="wide", unet=replace(variants.SMALL.unet, norm_groups=32))
        self.path = self.working / "model.safetensors"
        write = self.pack("dynamicrafter.weights.random_model").write_random_checkpoint
        write(self.path, self.variant, dtype=torch.float16)
        self.parts = self.pack("nodes.host.loading").load_checkpoint(self.path, None, "auto")
        network = self.pack("dynamicrafter.model.controlnet").ControlNetwork
        self.tensors: dict[int, dict[str, Tensor]] = {}
        for channels in (1, 3):
            made = network(self.variant.unet, channels).state_dict()
            generator = torch.Generator().manual_seed(channels)
            self.tensors[channels] = {
                name: torch.randn(tensor.shape, generator=generator) * (tensor[0].numel() ** -0.5)
                if tensor.ndim > 1
                else torch.randn(tensor.shape, generator=generator) * 0.3 + name.endswith("weight")
                for name, tensor in made.items()
            }
        self.hints = torch.randint(
            0, 256, (FRAMES, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(9)
        )
        self.picture = self.pack("dynamicrafter.media.pictures").as_picture(
            self.repository / "pictures" / "hill_day.png"
        )

    def net(self, channels: int, change: float = 1.0) -> Any:
        """The host's ControlNet, as its loader makes it."""
        import comfy.controlnet

        model = cldm(self.variant.unet, channels, dtype=torch.float32)
        zero = ("zero_convs.", "middle_block_out.")
        model.load_state_dict(
            {
                name: tensor * change if name.startswith(zero) else tensor
                for name, tensor in self.tensors[channels].items()
            },
            strict=True,
        )
        return comfy.controlnet.ControlNet(model, load_device=torch.device("cpu"))

    def conditioned(self) -> Any:
        return self.encode(self.parts, "animate", [self.picture.pixels / 255], prompt="a boat", frames=FRAMES)

    def applied(
        self,
        net: Any,
        conditioning: Any,
        strength: float,
        end: float = 1.0,
        start: float = 0.0,
        count: int | None = None,
    ) -> Any:
        """Positive and negative of core's node, which is given the first ``count`` hints, all if None."""
        import nodes

        apply = nodes.ControlNetApplyAdvanced().apply_controlnet
        return apply(*conditioning, net, self.hints[:count] / 255, strength, start, end)

    def named(self, net: Any, frames: str, gaps: str = "blank") -> Any:
        """A ControlNet after our node."""
        return self.pack("nodes.control").DynamiCrafterHintFrames.execute(net, frames, gaps)[0]

    def sampled(self, positive: Any, negative: Any, latent: Any) -> Tensor:
        sampler = self.pack("nodes.sampler").DynamiCrafterSampler
        chosen = {name: SETTINGS[name] for name in ("steps", "seed", "cfg")}
        return sampler.execute(self.parts.model, positive, negative, latent, **chosen)[0]["samples"]

    def like_the_command(self, name: str) -> dict[str, float]:
        """Error of latents of our sampler with core's nodes, and the effect, both relative."""
        api = self.pack("dynamicrafter.api")
        model = api.load(self.path, device="cpu")
        channels = 3 if name in ("all steps", "part", "chained") else 1
        more: dict[str, Any] = {"control_scale": 0.8, "hints": self.hints}
        net = self.net(channels)
        if name in ("blank", "none"):
            # The first hints of the batch, as core's node gets them, in an order that is not that of the frames.
            more |= {"control_gaps": name, "hints": dict(zip((2, 0), self.hints, strict=False))}
            net = self.named(net, "2, 0", name)
        if name == "part":
            more |= {"control_start": 0.2, "control_end": 0.7}
        file = self.working / f"net{channels}.safetensors"
        from safetensors.torch import save_file

        save_file(self.tensors[channels], file)
        steps: list[Any] = []
        api.animate(
            model,
            self.picture,
            "a boat",
            control=api.load_control(file, model),
            callback=steps.append,
            **SETTINGS,
            **more,
        )
        theirs = steps[-1].x[0].movedim(0, 1) / model.variant.vae.scale_factor
        positive, negative, _, latent = self.conditioned()
        plain = self.sampled(positive, negative, latent)
        both = (positive, negative)
        if name == "chained":
            both = self.applied(self.net(channels), both, 0.5)
            both = self.applied(self.net(channels), both, 0.3)
        else:
            start, end = (0.2, 0.7) if name == "part" else (0.0, 1.0)
            count = len(more["hints"])
            both = self.applied(net, both, 0.8, end, start, count)
        ours = self.sampled(*both, latent)
        return {"error": error(ours, theirs), "effect": error(ours, plain)}

    def zeroed(self) -> bool:
        """Whether output convolutions of zeros give the clip without, to the bit, in our sampler."""
        positive, negative, _, latent = self.conditioned()
        ours = self.sampled(*self.applied(self.net(3, 0.0), (positive, negative), 1.0), latent)
        return torch.equal(ours, self.sampled(positive, negative, latent))

    def shown(self) -> dict[str, Any]:
        """Which hints a ControlNet is shown by core's sampler, by frame, for numbers of them, and in a window."""
        import comfy.samplers

        hints = self.hints
        positive, negative, _, latent = self.conditioned()
        found: dict[str, Any] = {}
        for count in (1, 2, FRAMES, 2 * FRAMES):
            self.hints = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 64, 64, 3)
            net = self.net(3)
            seen: list[list[int]] = []
            inner = net.control_model.forward

            def forward(seen: Any = seen, inner: Any = inner, **given: Any) -> Any:
                seen.append([round(float(each.mean()) * 255) for each in given["hint"]])
                return inner(**given)

            net.control_model.forward = forward
            both = self.applied(net, (positive, negative), 1.0)
            guider = comfy.samplers.CFGGuider(self.parts.model)
            guider.set_conds(*both)
            guider.set_cfg(2.0)
            levels = self.parts.model.get_model_object("model_sampling").sigmas[[900, 400]]
            noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(1))
            euler = comfy.samplers.ksampler("euler")
            guider.sample(noise, torch.zeros_like(noise), euler, levels, disable_pbar=True, seed=1)
            found[str(count)] = seen[0]
        control = self.pack("nodes.host.control").FrameControls(both[0][0][1]["control"])
        # As it is when sampling has begun.
        control.pre_run(self.parts.model.model, lambda percent: 1000.0 * (1 - percent))
        cond = {"c_crossattn": torch.zeros(4, 77, 64)}

        def in_window(*frames: int) -> Any:
            window = {"context_window": SimpleNamespace(index_list=list(frames))}
            return control.get_control(noise, torch.tensor([5.0] * 4), cond, 1, window)

        in_window(2, 3, 7, 0)
        found["window"] = seen[-1]
        for gaps in ("blank", "none"):
            # Hint 1 is of frame 9, hint 2 of frame 2, and so on.
            named = self.named(both[0][0][1]["control"], "5,9,2,4,6,7,8,1", gaps)
            control = self.pack("nodes.host.control").FrameControls(named)
            control.pre_run(self.parts.model.model, lambda percent: 1000.0 * (1 - percent))
            made = in_window(2, 3, 9, 0)["middle"][0]
            found[gaps] = [seen[-1], [bool(each.abs().max() > 0) for each in made]]
            before = len(seen)
            found[f"{gaps} elsewhere"] = [in_window(0, 3, 10, 11) is None, len(seen) - before]
        self.hints = hints
        return found

    def refused(self) -> dict[str, str]:
        """The messages about ControlNets that do not fit, before sampling begins."""
        import comfy.controlnet

        control = self.pack("nodes.host.control")
        full = self.pack("dynamicrafter.model.configs").UNetConfig()
        other = comfy.controlnet.ControlNet(None, load_device=torch.device("cpu"))
        other.control_model = cldm(replace(full, context_dim=768), 3, device="meta")
        small = comfy.controlnet.ControlNet(None, load_device=torch.device("cpu"))
        small.control_model = cldm(replace(full, model_channels=32, num_head_channels=8), 3, device="meta")
        lora = comfy.controlnet.ControlLora({})
        chained = comfy.controlnet.ControlNet(None, load_device=torch.device("cpu"))
        chained.control_model = cldm(full, 3, device="meta")
        chained.set_previous_controlnet(other)
        calls: dict[str, Any] = {
            name: lambda net=net: control.check_controls(net, full, FRAMES)
            for name, net in {"family": other, "sizes": small, "lora": lora, "chained": chained}.items()
        }
        one = torch.zeros(1)
        narrow = replace(self.variant.unet, context_dim=32)
        wrong = comfy.controlnet.ControlNet(
            cldm(narrow, 3, dtype=torch.float32), load_device=torch.device("cpu")
        )
        positive, negative, _, latent = self.conditioned()
        calls["sampling"] = lambda: self.sampled(*self.applied(wrong, (positive, negative), 1.0), latent)

        def with_hints(frames: str) -> Any:
            net = self.named(self.net(1), frames)
            return self.sampled(*self.applied(net, (positive, negative), 1.0, count=2), latent)

        # As those of SD 3, whose forward knows no other arguments.
        foreign = comfy.controlnet.ControlNetSD35(torch.nn.Identity())
        calls["foreign"] = lambda: control.with_hint_frames(foreign, (0,), "none")
        calls["few hints"] = lambda: with_hints("0,2,3")
        calls["twice"] = lambda: with_hints("2,2")
        calls["outside"] = lambda: with_hints("0,4")
        calls["no frames"] = lambda: with_hints("0,last")
        calls["adapter"] = lambda: control.residuals_of({"input": [None, one]}, 12, torch.float32)
        calls["count"] = lambda: control.residuals_of({"output": [one] * 9}, 12, torch.float32)
        said: dict[str, str] = {}
        for name, call in calls.items():
            try:
                call()
            except ValueError as problem:
                said[name] = str(problem)
        return said

    def wrapped(self) -> dict[str, Any]:
        """What a wrapper of networks is called with, and whether the clip is the same."""
        import comfy.patcher_extension

        positive, negative, _, latent = self.conditioned()
        plain = self.sampled(positive, negative, latent)
        calls: list[tuple[int, bool]] = []

        def wrap(executor: Any, *given: Any, **named: Any) -> Any:
            calls.append((len(given), isinstance(given[-1], dict) and "sigmas" in given[-1]))
            return executor(*given, **named)

        model = self.parts.model
        self.parts = replace(self.parts, model=model.clone())
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        self.parts.model.add_wrapper_with_key(kind, "test", wrap)
        attentions: list[int] = []

        def override(attention: Any, *given: Any, **named: Any) -> Any:
            attentions.append(len(given))
            return attention(*given, **named)

        self.parts.model.model_options["transformer_options"]["optimized_attention_override"] = override
        same = torch.equal(self.sampled(positive, negative, latent), plain)
        self.parts = replace(self.parts, model=model)
        return {"calls": calls, "same": same, "attentions": len(attentions)}


if __name__ == "__main__":
    repository, working, group = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    sys.argv = [sys.argv[0], "--cpu"]
    torch.set_num_threads(1)
    with torch.inference_mode():
        measured = Controls(repository, working)
        getattr(measured, group)()
    (working / f"{group}.json").write_text(json.dumps(measured.results), encoding="utf-8")
