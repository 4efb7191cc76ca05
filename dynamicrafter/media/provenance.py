"""States in a clip, in terms that other programs read, that it was generated and by what.

The statement is an XMP packet (ISO 16684-1) with the program's name and IPTC's digital source type. It contains no date
and no random identifier, so that the same clip gives the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.sax.saxutils import quoteattr

from ..forms import program_version
from ..settings import PROGRAM

DigitalSource = Literal["trainedAlgorithmicMedia", "algorithmicMedia"]
"""IPTC's terms for frames from a trained model, and from a program that was trained on nothing."""

_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_MP4_IDENTIFIER = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # ISO 16684-3, ISO base media files.
_GIF_TRAILER = b";"
# ISO 16684-3, GIF: the packet is not divided into blocks with their lengths before them, so a reader takes each of its
# bytes for a length. Wherever that leads it, these bytes lead it to the zero at their end.
_GIF_HEAD = b"\x21\xff\x0bXMP DataXMP"
_GIF_TAIL = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"


def statement(source: DigitalSource) -> dict[str, str]:
    """The program with its version, and the digital source type as a URI, by their names in XMP."""
    return {"CreatorTool": f"{PROGRAM} {program_version()}", "DigitalSourceType": f"{_VOCABULARY}{source}"}


def xmp_packet(source: DigitalSource) -> str:
    """The :func:`statement` as an XMP packet."""
    said = statement(source)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(said['CreatorTool'])}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(said['DigitalSourceType'])}/>"
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    )


def add_to_mp4(path: Path, packet: str) -> None:
    """Append a packet to a complete MP4 file, as a box that players skip."""
    box = _MP4_IDENTIFIER + packet.encode()
    with path.open("ab") as file:
        file.write((8 + len(box)).to_bytes(4, "big") + b"uuid" + box)


def add_to_gif(path: Path, packet: str) -> None:
    """Add a packet to a complete GIF file, as an application extension before the trailer."""
    with path.open("r+b") as file:
        file.seek(-len(_GIF_TRAILER), 2)
        file.write(_GIF_HEAD + packet.encode() + _GIF_TAIL + _GIF_TRAILER)
