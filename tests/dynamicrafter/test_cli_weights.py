"""The commands about weights: models, download, inspect and convert."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from cli_runs import QUICK, Run, complaint, left
from local_hub import Hub, Server

from dynamicrafter.errors import Cancelled
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.weights.catalogue import ALL_RELEASES, Release

# models


def test_models_lists_every_release_with_what_one_chooses_by(run: Run, home: Path) -> None:
    ran = run("models")
    assert (ran.code, ran.err) == (0, "")
    for release in ALL_RELEASES:
        assert f"\n{release.name} " in f"\n{ran.out}"
        assert f"{release.size_gb:.2f} GB" in ran.out
        for text in (release.purpose, release.licence, release.source):
            assert text in ran.out
    assert "--size 1024x576 --frames 16 --fs 10 (15 still, 5 lively)" in ran.out
    assert str(home) in ran.out
    assert "'random' needs no files" in ran.out


def test_models_tells_programs_the_same(run: Run, home: Path) -> None:
    told = run("models", "--json").json
    assert told["folder"] == str(home)
    rows = {row["name"]: row for row in told["models"]}
    assert list(rows) == [release.name for release in ALL_RELEASES]
    row = rows["512"]
    assert (row["size_gb"], row["precision"], row["requires"], row["path"]) == (
        3.14,
        "fp16",
        ["towers"],
        None,
    )
    assert (row["defaults"]["width"], row["defaults"]["height"], row["defaults"]["fs"]) == (512, 320, 24)
    assert rows["towers"]["defaults"] is None


# download


@pytest.fixture
def toy(
    monkeypatch: pytest.MonkeyPatch, random_weights: Path, tmp_path: Path
) -> Iterator[tuple[Release, Hub]]:
    """A release of random weights on a hub of this machine, and an empty weights folder."""
    content = random_weights.read_bytes()
    release = Release(
        name="toy",
        variant="small",
        repository="owner/weights",
        filename="toy.safetensors",
        licence="Apache-2.0",
        purpose="tests",
        precision="fp32",
        contains_towers=True,
        size_gb=0.03,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    hub = Hub(content=content, announced=content)
    server = Server(hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("dynamicrafter.weights.catalogue.ALL_RELEASES", (release,))
    monkeypatch.setattr("dynamicrafter.weights.download.ALL_RELEASES", (release,))
    huggingface_hub.close_session()
    yield release, hub
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def test_what_was_downloaded_makes_clips_by_its_name(
    run: Run, toy: tuple[Release, Hub], tmp_path: Path, pictures: dict[str, Path]
) -> None:
    path = tmp_path / "home" / "owner" / "weights" / "toy.safetensors"
    animate = ("animate", pictures["wide"], *QUICK, "--model", "toy", "--output", "clip.gif")
    assert "download them with 'dynamicrafter download toy'" in complaint(run(*animate), 2)
    ran = run("download", "toy")
    assert (ran.code, ran.out, ran.err) == (0, f"toy: {path}\n", "")
    assert run("models", "--json").json["models"][0]["path"] == str(path)
    assert run(*animate).code == 0
    assert read_metadata("clip.gif")["model"]["weights"]["file"] == path.name
    ran = run("again", "clip.gif", "--picture", pictures["wide"])
    assert ran.code == 0, ran.err
    assert str(path) in ran.err


def test_a_download_into_another_folder(run: Run, toy: tuple[Release, Hub], tmp_path: Path) -> None:
    path = tmp_path / "disk" / "owner" / "weights" / "toy.safetensors"
    ran = run("download", "toy", "toy", "--folder", tmp_path / "disk", "--json")
    assert ran.json == {"downloads": [{"name": "toy", "path": str(path)}]}
    assert path.stat().st_size == toy[0].size_bytes


@pytest.mark.parametrize("name", ["tiny", "random"])
def test_a_built_in_model_needs_no_download(run: Run, toy: tuple[Release, Hub], name: str) -> None:
    ran = run("download", name)
    assert (ran.code, ran.out, ran.err) == (0, f"{name} is built in and needs no download\n", "")
    told = run("download", name, "toy", "--json").json["downloads"]
    assert [row["name"] for row in told] == [name, "toy"]
    assert told[0]["path"].endswith(".safetensors")


def test_wrong_bytes_are_a_failure(run: Run, toy: tuple[Release, Hub], tmp_path: Path) -> None:
    toy[1].content = b"?" * len(toy[1].content)
    assert "sent wrong contents for toy" in complaint(run("download", "toy"), 1)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_offline_mode_is_a_failure(
    run: Run, toy: tuple[Release, Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "unset HF_HUB_OFFLINE" in complaint(run("download", "toy"), 1)
    assert toy[1].asked == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Cancelled("enough")])
def test_an_interrupted_download_says_how_it_goes_on(
    run: Run, toy: tuple[Release, Hub], monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def interrupted(*_: object) -> Path:
        raise stop

    monkeypatch.setattr("dynamicrafter.cli.weights.download", interrupted)
    assert complaint(run("download", "toy"), 130) == "cancelled; repeat the command to resume"


def test_an_unknown_name_is_told_with_the_nearest(run: Run) -> None:
    assert "did you mean '1024'?" in complaint(run("download", "1042"), 2)


# inspect


def test_inspect_says_what_a_file_is(run: Run, random_weights: Path) -> None:
    ran = run("inspect", random_weights)
    assert (ran.code, ran.err) == (0, "")
    first, *rest = ran.out.splitlines()
    assert first == f"{random_weights}: a DynamiCrafter checkpoint"
    assert "  variant     small" in rest
    assert [line.split("  ")[1] for line in rest[3:]] == [
        "denoising network",
        "autoencoder",
        "image token resampler",
        "CLIP text encoder",
        "CLIP image encoder",
    ]
    told = run("inspect", random_weights, "--json").json
    assert told["variants"] == ["small"]
    assert told["dtypes"] == {"float32": told["parameters"]}


def test_inspect_says_what_is_missing(run: Run, random_weights: Path) -> None:
    assert run("convert", random_weights, "pruned.safetensors", "--prune", "--quiet").code == 0
    out = run("inspect", "pruned.safetensors").out
    assert "  CLIP text encoder        missing\n" in out
    assert "  CLIP image encoder       missing\n" in out


@pytest.mark.parametrize("command", [("inspect",), ("convert", "--prune", "out.safetensors")])
def test_a_file_that_is_not_there_is_a_failure(run: Run, command: tuple[str, ...]) -> None:
    words = (command[0], "gone.safetensors", *command[1:])
    assert "there is no file gone.safetensors" in complaint(run(*words), 1)


# convert


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("bf16", "bfloat16"), ("float16", "float16"), ("fp8_e4m3fn", "float8_e4m3fn"), ("keep", "float32")],
)
def test_convert_stores_the_precision_asked_for(
    run: Run, random_weights: Path, kind: str, stored: str
) -> None:
    ran = run("convert", random_weights, "out.safetensors", "--dtype", kind)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("out.safetensors: small, 0.0")
    dtypes = run("inspect", "out.safetensors", "--json").json["dtypes"]
    assert max(dtypes, key=dtypes.get) == stored


def test_convert_tells_programs_what_it_wrote(run: Run, random_weights: Path) -> None:
    told = run("convert", random_weights, "out.safetensors", "--dtype", "bf16", "--json").json
    size = Path("out.safetensors").stat().st_size
    assert told == {"path": "out.safetensors", "variant": "small", "bytes": size}


def test_a_pruned_model_with_towers_from_elsewhere_makes_the_same_clip(
    run: Run, random_weights: Path, pictures: dict[str, Path]
) -> None:
    run("convert", random_weights, "pruned.safetensors", "--prune", "--quiet")
    animate = ("animate", pictures["wide"], *QUICK)
    towers = ("--text-encoder", random_weights, "--image-encoder", random_weights)
    assert run(*animate, "--output", "whole").code == 0
    ran = run(*animate, "--model", "pruned.safetensors", *towers, "--output", "parts")
    assert ran.code == 0, ran.err
    assert torch.equal(read_frames("whole"), read_frames("parts"))
    record = read_metadata("parts")["model"]
    assert record["text_encoder"] == record["image_encoder"] == read_metadata("whole")["model"]["weights"]
    ran = run("again", "parts", "--quiet", "--picture", pictures["wide"])
    assert ran.code == 0, ran.err
    assert torch.equal(read_frames("parts"), read_frames("parts-again"))


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("out.ckpt", (), "out.ckpt must end in .safetensors, the only output format"),
        (
            "out.safetensors",
            ("--dtype", "int4"),
            "argument --dtype: must be fp32, bf16, fp16, fp8_e4m3fn",
        ),
        ("out.safetensors", ("--variant", "512x"), "there is no variant '512x'; did you mean '512_v1'?"),
    ],
)
def test_wrong_wishes_are_refused(
    run: Run, random_weights: Path, target: str, options: tuple[str, ...], expected: str
) -> None:
    assert expected in complaint(run("convert", random_weights, target, *options), 2)
    assert left() == []


def test_a_variant_that_the_content_contradicts_is_refused(run: Run, random_weights: Path) -> None:
    ran = run("convert", random_weights, "out.safetensors", "--variant", "1024_v1")
    assert "was detected as small, not 1024_v1; omit --variant" in complaint(ran, 1)
    assert run("convert", random_weights, "out.safetensors", "--variant", "small", "--quiet").code == 0
