"""A pack of one trivial node, for the tests of the harness; they copy this as a folder's `__init__`."""

import time

import torch
from comfy_api.latest import ComfyExtension, io
from PIL import Image

WEB_DIRECTORY = "./web"


class HarnessFrames(io.ComfyNode):
    """Grey frames, made slowly, with progress and previews like those of a sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="HarnessFrames",
            display_name="Harness Frames",
            category="harness",
            description="Grey frames, made slowly.",
            inputs=[
                io.Int.Input("frames", default=4, min=1, max=1000, tooltip="How many frames."),
                io.Float.Input(
                    "pause", default=0.05, min=0.0, max=10.0, step=0.01, tooltip="Seconds for each."
                ),
                io.Boolean.Input("fail", default=False, tooltip="End with an error."),
            ],
            outputs=[io.Image.Output("frames_out", display_name="frames", tooltip="The frames.")],
        )

    @classmethod
    def execute(cls, frames: int, pause: float, fail: bool) -> io.NodeOutput:
        """Make the frames, one after the other."""
        from comfy.utils import ProgressBar

        bar = ProgressBar(frames)
        made: list[torch.Tensor] = []
        for number in range(frames):
            time.sleep(pause)
            grey = (number + 1) / frames
            made.append(torch.full((64, 96, 3), grey))
            picture = Image.new("RGB", (96, 64), (round(255 * grey),) * 3)
            bar.update_absolute(number + 1, frames, ("JPEG", picture, 96))
        if fail:
            raise ValueError("asked to fail, so it failed")
        return io.NodeOutput(torch.stack(made))


class HarnessExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The one node."""
        return [HarnessFrames]


async def comfy_entrypoint() -> HarnessExtension:
    """What ComfyUI calls."""
    return HarnessExtension()
