"""Core's saving nodes embed the workflow in our clips, so that dropping a file opens it. The pack has no such node."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pack_graphs import Prompt, animate, conditioned, node, sampled, upload_pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from comfyui_browser import Editor
    from comfyui_client import Client
    from comfyui_server import Server

WORKFLOW = next((Path(__file__).resolve().parents[2] / "workflows").glob("* animate picture *.json"))
TYPES = {"mp4": "video/mp4", "webp": "image/webp"}


def workflow() -> dict[str, Any]:
    """The graph that the editor sends along with a prompt."""
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def prompt_for(kind: str) -> Prompt:
    """A prompt whose node ``save`` writes a clip of this kind."""
    if kind == "mp4":
        return animate()
    return {
        **sampled(conditioned()),
        "decode": node("DynamiCrafterVAEDecode", vae=["loader", 3], latent=["sampler", 0]),
        "save": node(
            "SaveAnimatedWEBP",
            images=["decode", 0],
            filename_prefix="clip",
            fps=8.0,
            lossless=False,
            quality=90,
            method="default",
        ),
    }


def saved(client: Client, kind: str) -> bytes:
    """A clip that core saved in a run with a workflow."""
    upload_pictures(client)
    run = client.run(prompt_for(kind), {"extra_pnginfo": {"workflow": workflow()}})
    assert run.status == "success", run.error
    (file,) = (file for file in run.files() if file["filename"].endswith(kind))
    return client.view(file)


def check(told: Mapping[str, str], kind: str) -> None:
    """The workflow and the prompt are as sent, and what the host has added to a node tells no path."""
    assert json.loads(told["workflow"]) == workflow()
    prompt = json.loads(told["prompt"])
    added = [value for entry in prompt.values() for value in entry.pop("is_changed", ())]
    assert prompt == prompt_for(kind)
    assert len(added) == 2 and all(re.fullmatch("[0-9a-f]{64}", value) for value in added), added


def test_an_mp4_contains_the_workflow_and_the_prompt(client: Client) -> None:
    import av

    with av.open(io.BytesIO(saved(client, "mp4"))) as video:
        tags = video.metadata
    check(tags, "mp4")


def test_a_webp_contains_the_workflow_and_the_prompt(client: Client) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(saved(client, "webp"))) as image:
        texts = [cast(str, value) for value in image.getexif().values()]
    told = dict(text.split(":", 1) for text in texts)
    check(told, "webp")


def test_dropping_the_clip_opens_the_workflow(
    client: Client, pack_server: Server, open_editor: Callable[[Server], Editor]
) -> None:
    editor = open_editor(pack_server)
    wanted = {node["type"] for node in workflow()["nodes"]}
    for kind, media_type in TYPES.items():
        editor.page.evaluate("() => app.graph.clear()")
        assert editor.nodes() == []
        editor.drop_file(f"clip.{kind}", media_type, saved(client, kind))
        deadline = time.monotonic() + 60
        while {node["type"] for node in editor.nodes()} != wanted:
            assert time.monotonic() < deadline, (kind, editor.nodes())
            editor.page.wait_for_timeout(100)
        assert editor.problems() == []
