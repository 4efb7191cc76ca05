"""Movies and lists for the tests of training."""

from __future__ import annotations

import csv
from pathlib import Path

import torch


def write_movie(path: Path, frames: torch.Tensor, rate: int = 8) -> Path:
    """``[t, 3, H, W]`` in [-1, 1] as an mp4."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = ((frames + 1) * 127.5).byte().permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = pictures.shape[2], pictures.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_rows(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path
