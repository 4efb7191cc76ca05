"""Poses found in a clip of a person, by small networks with the inputs and outputs of the released ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynamicrafter.animate_anyone.keypoints import NOBODY
from dynamicrafter.animate_anyone.onnx_check import check_onnx
from dynamicrafter.cli import main
from dynamicrafter.errors import CheckpointError
from dynamicrafter.media.video import write_clip
from tests.animate_anyone.small_person import small_person, write_person

SIDE, POSE = 64, (48, 64)
"""Inputs of the small networks: a square of that side; width and height."""


# What is in a file


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer, with values and lengths below 128."""
    key = number << 3 | (0 if isinstance(value, int) else 2)
    start = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    if isinstance(value, int):
        return start + bytes([value])
    assert len(value) < 128
    return start + bytes([len(value)]) + value


def model(node: bytes = b"", tensor: bytes = b"", graph: bytes = b"") -> bytes:
    return field(1, 8) + field(7, field(1, node) + field(5, tensor) + graph)


INSIDE = field(5, field(6, field(1, field(4, b"Odd") + field(7, b"mine"))))
"""An attribute that is a graph with an operator of another library."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no ONNX file .*; download it again"),
        (b"hello, this is text", "is no ONNX file .*; download it again"),
        (field(1, 8), r"is no ONNX file \(it has no graph\); download it again"),
        (model()[:-1], r"is no ONNX file \(it ends too early\); download it again"),
        (b"\xff" * 11, r"is no ONNX file \(a number has more than 10 bytes\)"),
        (b"\x0b\x0c", r"is no ONNX file \(field 1 is of the unknown kind 3\)"),
        (
            model(node=field(4, b"Odd") + field(7, b"mine")),
            "has the operator mine.Odd, which is not ONNX's own; use the released file",
        ),
        (model(node=field(4, b"If") + INSIDE), "has the operator mine.Odd, which is not ONNX's own"),
        (
            model() + field(25, field(7, field(4, b"Odd") + field(7, b"mine"))),
            "has the operator mine.Odd, which is not ONNX's own",
        ),
        (
            model(tensor=field(13, field(1, b"location") + field(2, b"/etc/passwd"))),
            "keeps tensors in other files, which are not read; use a file that has its own",
        ),
        (model(tensor=field(14, 1)), "keeps tensors in other files, which are not read"),
        (model(node=field(5, field(5, field(14, 1)))), "keeps tensors in other files, which are not read"),
        (model(graph=field(15, field(1, field(14, 1)))), "keeps tensors in other files, which are not read"),
    ],
)
def test_a_file_with_anything_but_onnx_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "it.onnx").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        check_onnx(tmp_path / "it.onnx")


def test_a_graph_of_onnx_alone_is_taken(tmp_path: Path) -> None:
    (tmp_path / "it.onnx").write_bytes(model(node=field(4, b"Relu"), tensor=field(14, 0)))
    check_onnx(tmp_path / "it.onnx")
    with pytest.raises(CheckpointError, match="none.onnx is no ONNX file .*No such file"):
        check_onnx(tmp_path / "none.onnx")


# Networks


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("rtmlib")
    pytest.importorskip("onnx")
    from dynamicrafter.animate_anyone.detection import PoseFinder

    folder = tmp_path_factory.mktemp("onnx")
    write_networks(folder / "people.onnx", folder / "poses.onnx")
    return PoseFinder(folder / "people.onnx", folder / "poses.onnx", ((SIDE, SIDE), POSE))


def write_networks(people: Path, poses: Path) -> None:
    """A person is where a picture is bright: in a box of 32 pixels around it, with all 133 points there."""
    from onnx import TensorProto, helper, numpy_helper, save

    made: Any = helper

    def graph(
        path: Path, nodes: list[Any], size: list[int], outputs: dict[str, list[int]], **constants: Any
    ) -> None:
        ends = [
            made.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()
        ]
        begins = [made.make_tensor_value_info("x", TensorProto.FLOAT, size)]
        held = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
        whole = made.make_graph(nodes, "small", begins, ends, held)
        save(made.make_model(whole, opset_imports=[made.make_opsetid("", 17)], ir_version=8), str(path))

    node = made.make_node
    # Strides 8, 16 and 32, as YOLOX; only the cells of the first can be bright.
    cells, more = (SIDE // 8) ** 2, (SIDE // 16) ** 2 + (SIDE // 32) ** 2
    box = np.log(np.full((1, cells + more, 2), 32 / 8, np.float32))
    graph(
        people,
        [
            node("ReduceMean", ["x"], ["grey"], axes=[1]),
            node("MaxPool", ["grey"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
            node("Reshape", ["cells", "flat"], ["column"]),
            node("Div", ["column", "top"], ["first"]),
            node("Concat", ["first", "rest"], ["sure"], axis=1),
            node("Concat", ["middle", "box", "sure", "one"], ["y"], axis=2),
        ],
        [1, 3, SIDE, SIDE],
        {"y": [1, cells + more, 6]},
        flat=np.array([1, cells, 1]),
        top=np.float32(255),
        rest=np.zeros((1, more, 1), np.float32),
        middle=np.full((1, cells + more, 2), 0.5, np.float32),
        box=box,
        one=np.ones((1, cells + more, 1), np.float32),
    )
    width, height = POSE
    graph(
        poses,
        [
            node("ReduceMax", ["x"], ["across"], axes=[1, 2], keepdims=0),
            node("ReduceMax", ["x"], ["down"], axes=[1, 3], keepdims=0),
            # Two bins a pixel, as SimCC.
            node("Gather", ["across", "columns"], ["wide"], axis=1),
            node("Gather", ["down", "rows"], ["high"], axis=1),
            node("Unsqueeze", ["wide", "second"], ["wider"]),
            node("Unsqueeze", ["high", "second"], ["higher"]),
            node("Tile", ["wider", "points"], ["simcc_x"]),
            node("Tile", ["higher", "points"], ["simcc_y"]),
        ],
        [1, 3, height, width],
        {"simcc_x": [1, 133, 2 * width], "simcc_y": [1, 133, 2 * height]},
        columns=np.arange(2 * width) // 2,
        rows=np.arange(2 * height) // 2,
        second=np.array([1]),
        points=np.array([1, 133, 1]),
    )


def frame(*spots: tuple[int, int]) -> torch.Tensor:
    """A dark picture that is bright around some places (x, y)."""
    made = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
    for x, y in spots:
        made[y - 1 : y + 2, x - 1 : x + 2] = 255
    return made


def test_a_person_is_found_where_it_is(finder: Any) -> None:
    people, several = finder(iter([frame((20, 28)), frame(), frame((44, 36))]))
    assert several == 0
    assert people[1] is NOBODY
    for person, (x, y) in ((people[0], (20, 28)), (people[2], (44, 36))):
        assert all(point is not None for point in (*person.body, *person.face, *person.hands[0]))
        places = np.array(person.body, float) * SIDE
        assert np.abs(places - (x, y)).max() < 2.5


def test_frames_with_several_people_are_counted(finder: Any) -> None:
    people, several = finder(iter([frame((12, 12), (52, 52)), frame((12, 12))]))
    assert several == 1
    assert len(people) == 2


# The command


def moved(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    words = ["person", str(folder / "dancer.png"), "--poses", str(folder / "dance.mp4"), "--json"]
    words += ["--model", str(folder / "model.safetensors"), "--size", "64x64", "--steps", "1", "--detect"]
    code = main([*words, "--device", "cpu", *more])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("detected")
    write_person(folder / "model.safetensors", small_person())
    Image.fromarray(frame((32, 32)).numpy()).save(folder / "dancer.png")
    Image.new("RGB", (64, 64)).save(folder / "empty.png")
    write_clip(torch.stack([frame((20, 28), (52, 12)), frame((24, 28))]), folder / "dance.mp4", 8, {})
    write_clip(torch.stack([frame(), frame()]), folder / "nobody.mp4", 8, {})
    return folder


def test_a_clip_of_a_person_is_made_of_what_is_found(
    finder: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.person.load_finder", lambda: finder)
    code, result = moved(folder, capsys, "-o", str(folder / "clip.mp4"))
    assert (code, result["frames"], result["fps"]) == (0, 2, 8)
    assert "has several people in 1 frames; the one with the highest score" in result["notes"][0]
    code, result = moved(folder, capsys, "--poses", str(folder / "nobody.mp4"), "--dry-run")
    assert code == 1
    assert "nobody.mp4 has no person in any of its 2 frames; use another clip" in result["error"]
    code, result = moved(folder, capsys, "--fit-to", str(folder / "empty.png"), "--dry-run")
    assert code == 1
    assert "there is no person in" in result["error"] and "empty.png; use another image" in result["error"]


def test_what_finding_needs_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    monkeypatch.setattr("dynamicrafter.animate_anyone.detection.find_spec", lambda name: None)
    code, result = moved(folder, capsys)
    assert code == 2
    assert result["error"] == (
        "finding poses needs rtmlib and onnxruntime, which are not installed; install them with pip install "
        "'dynamicrafter-studio[pose]'"
    )
    monkeypatch.setattr("dynamicrafter.animate_anyone.detection.find_spec", lambda name: name)
    code, result = moved(folder, capsys)
    assert result["error"] == (
        "the files of dwpose are not downloaded; download them with 'dynamicrafter download dwpose'"
    )
    path = tmp_path / "yzd-v" / "DWPose" / "dw-ll_ucoco_384.onnx"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(134_399_116)
    code, result = moved(folder, capsys)
    assert code == 1
    assert "dw-ll_ucoco_384.onnx is not the released file; delete it; download them with" in result["error"]
