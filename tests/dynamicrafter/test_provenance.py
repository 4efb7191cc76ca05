"""Every clip says, in terms that other programs read, that it was generated and by what."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from dynamicrafter.media.provenance import DigitalSource, xmp_packet
from dynamicrafter.media.video import read_frames, read_metadata, write_clip
from dynamicrafter.toy.clips import write_toy_clips

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PROGRAM = f"dynamicrafter {version('dynamicrafter-studio')}"


def said_by(packet: str | bytes) -> tuple[str, str]:
    """The program and the digital source type in an XMP packet."""
    (about,) = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return (
        about.attrib["{http://ns.adobe.com/xap/1.0/}CreatorTool"],
        about.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"],
    )


def xmp_of_mp4(path: Path) -> str:
    """As FFmpeg reads it."""
    with cast(Any, av.open)(str(path), options={"export_xmp": "1"}) as source:
        return source.metadata["xmp"]


def gif_extensions(data: bytes) -> dict[bytes, bytes]:
    """The application extensions by name, read block by block as a viewer does that knows none of them."""
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    found: dict[bytes, bytes] = {}
    while data[at] != 0x3B:
        begin = at
        if data[at] == 0x21:
            at += 2
        else:
            assert data[at] == 0x2C
            local = data[at + 9]
            at += 10 + (3 * 2 ** ((local & 7) + 1) if local & 0x80 else 0) + 1
        while data[at]:
            at += 1 + data[at]
        at += 1
        if data[begin : begin + 2] == b"\x21\xff":
            found[data[begin + 3 : begin + 14]] = data[begin + 14 : at]
    assert at == len(data) - 1
    return found


def test_mp4(tmp_path: Path) -> None:
    assert said_by(xmp_of_mp4(write_clip(FRAMES, tmp_path / "a.mp4", 8, {}))) == (PROGRAM, TRAINED)


def test_webm(tmp_path: Path) -> None:
    with av.open(str(write_clip(FRAMES, tmp_path / "a.webm", 8, {}))) as source:
        tags = source.metadata
    assert (tags["CREATOR_TOOL"], tags["DIGITAL_SOURCE_TYPE"]) == (PROGRAM, TRAINED)


def test_gif(tmp_path: Path) -> None:
    path = write_clip(FRAMES, tmp_path / "a.gif", 8, {"seed": 1})
    found = gif_extensions(path.read_bytes())
    assert set(found) == {b"NETSCAPE2.0", b"XMP DataXMP"}
    assert said_by(found[b"XMP DataXMP"][:-258]) == (PROGRAM, TRAINED)
    assert len(read_frames(path)) == 3
    assert read_metadata(path) == {"seed": 1}


def test_webp(tmp_path: Path) -> None:
    with Image.open(write_clip(FRAMES, tmp_path / "a.webp", 8, {})) as image:
        assert said_by(image.info["xmp"]) == (PROGRAM, TRAINED)


def test_each_frame_of_a_folder(tmp_path: Path) -> None:
    folder = write_clip(FRAMES, tmp_path / "a", 8, {})
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert said_by(cast(Any, image).text["XML:com.adobe.xmp"]) == (PROGRAM, TRAINED)


@pytest.mark.parametrize("source", ["trainedAlgorithmicMedia", "algorithmicMedia"])
def test_a_packet_names_its_source(source: DigitalSource) -> None:
    assert said_by(xmp_packet(source))[1].rpartition("/")[2] == source


def test_toy_clips_come_from_no_trained_model(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for path in write_toy_clips(tmp_path / "clips", pictures=1, frames=4):
        assert said_by(xmp_of_mp4(path)) == (PROGRAM, TRAINED.replace("trainedA", "a"))
        assert read_metadata(path)["program"] == "dynamicrafter"
