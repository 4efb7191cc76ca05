"""What the tests of the command line and of the Python interface share: small models, pictures, a way to run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import Ran, Run, paint

from dynamicrafter import api
from dynamicrafter.api import find_model, provide
from dynamicrafter.cli import main
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights.random_model import write_random_checkpoint


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are faster without threads, many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Python's own handler, also for the programs started: a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def weights_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder in which the random model was made once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICRAFTER_HOME", str(home))
        provide(find_model("random"))
    return home


@pytest.fixture
def home(weights_home: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """The weights folder in use."""
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(weights_home))
    return weights_home


@pytest.fixture
def random_weights(home: Path) -> Path:
    """The random model's file; not to be changed."""
    return find_model("random").weights


@pytest.fixture(scope="session")
def wide_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 128x64 pixels that can only animate."""
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    preset = replace(SMALL.preset, width=128, height=64)
    write_random_checkpoint(path, replace(SMALL, name="wide", modes=("animate",), preset=preset), seed=1)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Picture files; not to be changed."""
    folder = tmp_path_factory.mktemp("pictures")
    return {
        "wide": paint(folder / "wide.png", 150, 90),
        "other": paint(folder / "other.png", 150, 90, hue=3),
        "tall": paint(folder / "tall.png", 90, 150, hue=1),
    }


@pytest.fixture(scope="session")
def kept_networks() -> dict[object, Any]:
    """Networks of the last models that were read, by the states of their files; empty it to have them read again."""
    return {}


@pytest.fixture
def kept(kept_networks: dict[object, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads each small model once, as that takes as long as a clip of it; adapters are merged into a fresh one.

    A copy with the time of its source (``shutil.copy2``) is the same model.
    """
    load, merge = api.load_components, api.merge_adapters

    def state(file: Any) -> object:
        return isinstance(file, Path) and (file.stat().st_size, file.stat().st_mtime_ns)

    def loaded(path: Path, *, progress: Any = None, **how: Any) -> Any:
        if path.suffix != ".safetensors" or not path.is_file():
            return load(path, progress=progress, **how)
        key = (state(path), *((name, value, state(value)) for name, value in sorted(how.items())))
        if key not in kept_networks:
            if len(kept_networks) == 8:
                kept_networks.clear()
            kept_networks[key] = load(path, progress=progress, **how)
        return kept_networks[key]

    def merged(*what: Any) -> None:
        kept_networks.clear()
        merge(*what)

    monkeypatch.setattr(api, "load_components", loaded)
    monkeypatch.setattr(api, "merge_adapters", merged)


@pytest.fixture
def run(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: None,
) -> Run:
    """Runs the command line in an empty folder, in this process."""
    folder = tmp_path / "here"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)

    def ran(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return ran
