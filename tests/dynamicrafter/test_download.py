"""Downloads from a hub on this machine that cuts connections, sends wrong bytes and refuses."""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from filelock import FileLock
from huggingface_hub.utils import are_progress_bars_disabled
from local_hub import CONTENT, PATH, Hub, Server

from dynamicrafter.errors import Cancelled, DownloadError
from dynamicrafter.weights.catalogue import Release
from dynamicrafter.weights.download import ATTEMPTS, download, local_path

PIECE = 4096
RELEASE = Release(
    name="toy",
    variant="small",
    repository="owner/weights",
    filename="toy.safetensors",
    licence="Apache-2.0",
    purpose="tests",
    precision="fp16",
    contains_towers=True,
    size_gb=0.0003,
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)
UNPINNED = replace(RELEASE, size_bytes=None, sha256=None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub that HF_ENDPOINT points to; waits between attempts take no time."""
    state = Hub()
    server = Server(state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    # A piece is kept only when it is complete, and pieces are larger than this file by default.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", PIECE)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    huggingface_hub.close_session()
    yield state
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def final(folder: Path) -> Path:
    return folder / "owner" / "weights" / "toy.safetensors"


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.part"))


def test_download_stores_the_bytes_and_leaves_nothing_else(hub: Hub, tmp_path: Path) -> None:
    path = download(RELEASE, tmp_path)
    assert path == final(tmp_path) == local_path(RELEASE, tmp_path)
    assert path.read_bytes() == CONTENT
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_present_file_needs_no_server(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download(RELEASE, tmp_path)
    before = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(RELEASE, tmp_path) == final(tmp_path)
    assert len(hub.asked) == before


def test_progress_counts_up_to_all_bytes_twice(hub: Hub, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    download(RELEASE, tmp_path, lambda *step: told.append(step))
    for action in ("downloading", "checking"):
        done = [bytes_done for what, bytes_done, _ in told if what == action]
        assert done == sorted(set(done))
        assert done[-1] == len(CONTENT)
    assert {total for _, _, total in told} == {len(CONTENT)}
    assert {what for what, _, _ in told} == {"downloading", "checking"}


def test_huggingface_hub_draws_no_bar_and_gets_its_setting_back(hub: Hub, tmp_path: Path) -> None:
    group = "huggingface_hub.http_get"
    assert not are_progress_bars_disabled(group)
    disabled: set[bool] = set()
    download(RELEASE, tmp_path, lambda what, *_: disabled.add(are_progress_bars_disabled(group)))
    assert True in disabled
    assert not are_progress_bars_disabled(group)


def test_cut_transfer_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [100_000, 50_000]
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT
    first, second = (int(asked.removeprefix("bytes=").removesuffix("-")) for asked in hub.ranges_asked())
    assert 100_000 - PIECE < first <= 100_000
    assert first + 50_000 - PIECE < second <= first + 50_000


def test_next_call_goes_on_where_a_hopeless_one_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [100_000] + [0] * 100
    with pytest.raises(
        DownloadError, match=rf"{hub.url} kept breaking after .* GB of toy .*; start again to resume"
    ):
        download(RELEASE, tmp_path)
    assert not final(tmp_path).exists()
    assert local_path(RELEASE, tmp_path) is None
    (part,) = parts(tmp_path)
    kept = part.stat().st_size
    assert 100_000 - PIECE < kept <= 100_000
    hub.cuts = []
    hub.asked.clear()
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT
    assert hub.ranges_asked() == [f"bytes={kept}-"]
    assert not parts(tmp_path)


@pytest.mark.parametrize("exception", [Cancelled, KeyboardInterrupt])
def test_interrupted_download_looks_unfinished_and_can_go_on(
    hub: Hub, tmp_path: Path, exception: type[BaseException]
) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if done > 100_000:
            raise exception("enough")

    with pytest.raises(exception, match="enough"):
        download(RELEASE, tmp_path, stop)
    assert not final(tmp_path).exists()
    assert not list(tmp_path.rglob("*.lock"))
    (part,) = parts(tmp_path)
    assert CONTENT.startswith(part.read_bytes())
    download(RELEASE, tmp_path)
    assert final(tmp_path).read_bytes() == CONTENT
    assert len(hub.ranges_asked()) == 1


def test_interrupted_check_leaves_no_finished_name(hub: Hub, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if what == "checking":
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        download(RELEASE, tmp_path, stop)
    assert not final(tmp_path).exists()
    hub.asked.clear()
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT
    assert [method for method, _, _ in hub.asked] == ["HEAD"]


def test_server_that_ignores_ranges_gives_the_whole_file_again(hub: Hub, tmp_path: Path) -> None:
    hub.ranges = False
    hub.cuts = [100_000]
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("release", [RELEASE, UNPINNED], ids=["pinned", "announced"])
def test_wrong_bytes_are_removed(hub: Hub, tmp_path: Path, release: Release) -> None:
    hub.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(
        DownloadError, match=r"sent wrong contents for toy \(sha256 \w{64} instead of \w{64}\); they"
    ):
        download(release, tmp_path)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == []


def test_spoilt_piece_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [100_000] + [0] * 100
    with pytest.raises(DownloadError, match="kept breaking"):
        download(RELEASE, tmp_path)
    (part,) = parts(tmp_path)
    part.write_bytes(bytes(part.stat().st_size))
    hub.cuts = []
    with pytest.raises(DownloadError, match="sent wrong contents"):
        download(RELEASE, tmp_path)
    assert not parts(tmp_path)
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


def test_piece_longer_than_the_file_is_started_anew(hub: Hub, tmp_path: Path) -> None:
    part = final(tmp_path).with_name(f"toy.safetensors.{RELEASE.sha256[:12] if RELEASE.sha256 else ''}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(len(CONTENT) + 1))
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT
    assert hub.ranges_asked() == []


def test_complete_piece_of_unknown_size_does_not_lead_into_a_dead_end(hub: Hub, tmp_path: Path) -> None:
    hub.sized = False
    release = replace(RELEASE, size_bytes=None)
    part = final(tmp_path).with_name(f"toy.safetensors.{RELEASE.sha256[:12] if RELEASE.sha256 else ''}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert download(release, tmp_path).read_bytes() == CONTENT


def test_file_comes_as_it_is(hub: Hub, tmp_path: Path) -> None:
    """A compressed answer has other offsets to resume at."""
    download(RELEASE, tmp_path)
    assert hub.encodings == {"identity"}


def test_answer_shorter_than_announced_is_no_success(hub: Hub, tmp_path: Path) -> None:
    hub.content = CONTENT[:1000]
    with pytest.raises(DownloadError, match=r"HTTP 416|could not be reached|kept breaking"):
        download(RELEASE, tmp_path)
    assert not final(tmp_path).exists()
    hub.content = CONTENT
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("release", "what"),
    [
        (replace(RELEASE, size_bytes=7), "size is 300000 instead of 7"),
        (replace(RELEASE, sha256="0" * 64), "sha256 is .* instead of 0{64}"),
    ],
)
def test_another_file_is_refused_before_it_comes(
    hub: Hub, tmp_path: Path, release: Release, what: str
) -> None:
    with pytest.raises(
        DownloadError, match=rf"has a different file at owner/weights/toy.safetensors: its {what}"
    ):
        download(release, tmp_path)
    assert [method for method, _, _ in hub.asked] == ["HEAD"]


def test_plain_web_server_will_do(hub: Hub, tmp_path: Path) -> None:
    hub.lfs = False
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


def test_file_nobody_knows_a_hash_of_comes_with_a_warning(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.lfs = False
    (final(tmp_path).parent).mkdir(parents=True)
    final(tmp_path).with_name("toy.safetensors.unchecked.part").write_bytes(b"of an older file")
    with caplog.at_level(logging.WARNING, "dynamicrafter"):
        assert download(UNPINNED, tmp_path).read_bytes() == CONTENT
    assert "knows the sha256 of toy" in caplog.text


def test_full_disk_is_noticed_before_the_transfer(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    release = replace(RELEASE, size_bytes=3_000_000)
    hub.announced = bytes(3_000_000)
    hub.lfs = False
    with pytest.raises(
        DownloadError,
        match=r"toy needs 0\.00 GB more in .*weights.*, but only 0\.00 GB are free; free some space or set",
    ):
        download(release, tmp_path)
    assert [method for method, _, _ in hub.asked] == ["HEAD"]
    assert not final(tmp_path).exists()


def test_what_is_already_there_needs_no_room(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cuts = [200_000] + [0] * 100
    with pytest.raises(DownloadError, match="kept breaking"):
        download(RELEASE, tmp_path)
    hub.cuts = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=150_000))
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


def test_folder_that_cannot_be_made_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "owner").write_text("in the way", encoding="utf-8")
    with pytest.raises(
        DownloadError, match=r"toy could not be stored in .*owner.*; make that folder writable or"
    ):
        download(RELEASE, tmp_path)


def test_disk_that_fills_up_is_told(hub: Hub, tmp_path: Path) -> None:
    def full(what: str, done: int, total: int | None) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DownloadError, match="could not be stored in .*No space left on device"):
        download(RELEASE, tmp_path, full)
    assert len([method for method, _, _ in hub.asked if method == "GET"]) == 1


def test_two_downloads_of_one_file_do_not_mix(hub: Hub, tmp_path: Path) -> None:
    final(tmp_path).parent.mkdir(parents=True)
    with (
        FileLock(f"{final(tmp_path)}.lock"),
        pytest.raises(DownloadError, match="another process is downloading toy"),
    ):
        download(RELEASE, tmp_path)
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("switch", ["1", "true", "YES", "on"])
def test_offline_mode_asks_nobody(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", switch)
    with pytest.raises(
        DownloadError,
        match=r"toy is not in .*weights and offline mode .*; unset HF_HUB_OFFLINE or put toy.saf",
    ):
        download(RELEASE, tmp_path)
    assert hub.asked == []


def test_offline_mode_of_the_process_is_told_alike(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub reads the variable once; it may since have gone from the environment."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="offline mode forbids"):
        download(RELEASE, tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            401,
            r"denied access to owner/weights/toy.safetensors \(HTTP 401\); log in with 'hf auth login', renew HF_",
        ),
        (403, r"denied access to owner/weights/toy.safetensors \(HTTP 403\)"),
        (404, r"does not have owner/weights/toy.safetensors at revision main \(HTTP 404\); set HF_ENDPOINT"),
        (500, r"failed to send owner/weights/toy.safetensors \(HTTP 500\); try again later"),
    ],
)
def test_refusal_is_one_sentence(hub: Hub, tmp_path: Path, status: int, sentence: str) -> None:
    hub.status = status
    with pytest.raises(DownloadError, match=sentence) as caught:
        download(RELEASE, tmp_path)
    assert "\n" not in str(caught.value)
    assert hub.url in str(caught.value)


def test_refusal_of_the_file_itself_is_not_repeated(hub: Hub, tmp_path: Path) -> None:
    hub.get_status = 403
    with pytest.raises(DownloadError, match=r"denied access to owner/weights/toy.safetensors \(HTTP 403\)"):
        download(RELEASE, tmp_path)
    assert [method for method, _, _ in hub.asked] == ["HEAD", "GET"]


def test_server_error_during_the_transfer_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.get_status = 500
    with pytest.raises(DownloadError, match=r"failed to send .* \(HTTP 500\)"):
        download(RELEASE, tmp_path)
    assert len([method for method, _, _ in hub.asked if method == "GET"]) >= ATTEMPTS


def test_expired_token_does_not_lock_out_of_public_files(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.bad_token = "hf_expired"
    monkeypatch.setenv("HF_TOKEN", hub.bad_token)
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT


def test_unreachable_server_is_named(hub: Hub, tmp_path: Path) -> None:
    gone = Hub()
    Server(gone).server_close()
    with pytest.raises(
        DownloadError, match=rf"{gone.url} could not be reached for toy \(.+\); check the conn"
    ):
        download(RELEASE, tmp_path, endpoint=gone.url)


@pytest.mark.parametrize(
    "address", ["hf-mirror.com", "ftp://mirror", "http://", "http://[", "http://x:99999"]
)
def test_endpoint_that_is_no_web_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(
        DownloadError, match=r"HF_ENDPOINT must be a web address such as https://huggingface.co, "
    ):
        download(RELEASE, tmp_path)


def test_endpoint_argument_wins_and_may_end_in_a_slash(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    download(RELEASE, tmp_path, endpoint=f"{hub.url}/")
    assert {path for _, path, _ in hub.asked} == {PATH}


def test_truncated_file_put_there_by_hand_is_replaced(hub: Hub, tmp_path: Path) -> None:
    final(tmp_path).parent.mkdir(parents=True)
    final(tmp_path).write_bytes(CONTENT[:1000])
    assert local_path(RELEASE, tmp_path) is None
    assert download(RELEASE, tmp_path).read_bytes() == CONTENT
