"""What the page shows of clips and models, as HTML without scripts."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..animate_anyone.config import BUILT_IN_PERSON
from ..errors import DynamiCrafterError
from ..model.variants import TINY
from ..weights.catalogue import Release, find
from .line import Line, Ticket
from .shelf import MEDIA_TYPES, Result
from .words import said

Texts = Mapping[str, str]
_PREVIEW = 256
"""Width of a preview in pixels."""
_PREVIEW_FPS = 8


def quoted(text: object) -> str:
    """Text for HTML, without the signs by which Gradio's own templates could be addressed."""
    safe = html.escape(str(text))
    return safe.translate({ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;"})


def duration_text(seconds: float, texts: Texts) -> str:
    """A duration for a person."""
    if seconds < 90:
        return texts["seconds"].format(n=max(1, round(seconds)))
    return texts["minutes"].format(n=round(seconds / 60))


def progress_panel(ticket: Ticket, line: Line, texts: Texts) -> str:
    """How far a clip is."""
    if ticket.state == "cancelled":
        return _box("status", quoted(texts["cancelled"]))
    if ticket.problem is not None:
        return failure_panel(ticket.problem, texts)
    place = line.place(ticket)
    if place:
        told = texts["waiting"].format(place=place, length=line.length)
        wait = line.wait_for(ticket)
        if wait is not None:
            told += f", {texts['about'].format(time=duration_text(wait, texts))}"
        return _box("status", quoted(told))
    told = texts[ticket.work].format(done=ticket.done, total=ticket.total)
    left = ticket.seconds_left()
    if left is not None:
        told += f", {texts['left'].format(time=duration_text(left, texts))}"
    share = ticket.done / ticket.total if ticket.total else 0.0
    bar = f'<progress max="1" value="{share:.3f}" aria-label="{quoted(told)}"></progress>'
    shown = ticket.preview
    preview = "" if shown is None else f'<img class="preview" alt="" src="{moving_preview(shown)}">'
    return _box("status", f"{quoted(told)}{bar}") + preview


def failure_panel(problem: DynamiCrafterError, texts: Texts) -> str:
    """Why a clip was not made."""
    return _box("alert", quoted(texts["failed"].format(reason=said(problem))))


def result_panel(result: Result, root: str, texts: Texts) -> str:
    """A finished clip, to be played and downloaded."""
    size = f"{result.width}x{result.height}"
    told = texts["done"].format(time=duration_text(result.seconds, texts), seed=result.seed, size=size)
    return _clip(result, root, texts) + _box("status", quoted(told))


def history_panel(results: Sequence[Result], root: str, texts: Texts) -> str:
    """The clips of a visitor."""
    if not results:
        return _box("status", quoted(texts["nothing"]))
    cards = "".join(
        f"<figure>{_clip(result, root, texts)}<figcaption>{quoted(_title(result, texts))} "
        f"<small>{quoted(result.model)}, {quoted(result.seed)}</small></figcaption></figure>"
        for result in results
    )
    return f'<div class="history">{cards}</div>'


def _title(result: Result, texts: Texts) -> str:
    return result.prompt or texts.get(result.mode, "")


def _clip(result: Result, root: str, texts: Texts) -> str:
    def address(kind: str) -> str:
        return f"{quoted(root)}/results/{quoted(result.job)}/clip.{kind}"

    links = " ".join(
        f'<a href="{address(kind)}" download="dynamicrafter-{result.seed}.{kind}" '
        f'aria-label="{quoted(texts["download"])} {kind.upper()}">{kind.upper()}</a>'
        for kind in MEDIA_TYPES
    )
    label = quoted(_title(result, texts))
    return (
        f'<video class="clip" src="{address("mp4")}" aria-label="{label}" controls loop autoplay muted playsinline>'
        f'</video><p class="links">{quoted(texts["download"])}: {links}</p>'
    )


def models_panel(names: Sequence[str], missing: Sequence[Release], texts: Texts) -> str:
    """Which models are here, and what each of the others would download."""
    rows = "".join(
        f"<li><b>{quoted(one.name)}</b>: {quoted(one.purpose)}, {_gigabytes(one):.1f} GB</li>"
        for one in missing
    )
    others = (
        f"<details><summary>{quoted(texts['not_here'])}</summary><ul>{rows}</ul></details>" if rows else ""
    )
    told = texts["here"].format(names=", ".join(names))
    here = quoted(f"{told} {texts['tiny_only']}" if set(names) <= {TINY.name, BUILT_IN_PERSON} else told)
    return f'<div class="models"><p>{here}</p>{others}</div>'


def _gigabytes(release: Release) -> float:
    """What a model downloads with what it needs."""
    return release.size_gb + sum(find(name).size_gb for name in release.requires)


def _box(role: str, content: str) -> str:
    return f'<div role="{role}" class="told">{content}</div>'


def moving_preview(frames: np.ndarray[Any, Any]) -> str:
    """Frames, uint8 ``[t, h, w, 3]``, as the address of a moving WebP within the page."""
    from PIL import Image

    times = max(1, math.ceil(_PREVIEW / frames.shape[2]))
    size = (frames.shape[2] * times, frames.shape[1] * times)
    images = [Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR) for frame in frames]
    file = io.BytesIO()
    images[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=1000 // _PREVIEW_FPS,
        loop=0,
        quality=60,
        method=0,
    )
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
