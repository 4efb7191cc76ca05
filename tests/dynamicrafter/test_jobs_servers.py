"""What a ComfyUI server may answer, and what comes of it."""

from __future__ import annotations

import io
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run, complaint
from PIL import Image

from dynamicrafter.errors import Cancelled, UsageError
from dynamicrafter.jobs import servers
from dynamicrafter.jobs.ledger import clip_folder
from dynamicrafter.jobs.lines import Job, ModelChoice, named_variant, read_jobs
from dynamicrafter.jobs.run import BatchOutcome, run_jobs
from dynamicrafter.jobs.servers import check_sendable, server_workers
from dynamicrafter.media.video import read_frames, read_metadata

PROSE = b"It is a lovely day."


def png(width: int = 64, height: int = 64, kind: str = "PNG", shade: int = 7) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


class Pretended:
    """Answers like ComfyUI with this pack, but for ``instead``: bytes, or (status, bytes, headers), by the path."""

    def __init__(self) -> None:
        self.instead: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.prompts: dict[str, Any] = {}
        self.files: list[dict[str, Any]] = [
            {"filename": f"{number}.png", "subfolder": "", "type": "temp"} for number in range(2)
        ]
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self, b"")

            def do_POST(self) -> None:
                owner.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # What an answer raises ends its connection.
        self._server.handle_error = lambda request, client_address: None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path, _, query = request.path.partition("?")
        group = "/" + path.split("/")[1]
        sent = json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(query)
        self.asked.append((group, sent))
        found = self.instead.get(group, self._usual(group, path, sent))
        if callable(found):
            found = found(sent)
        status, content, headers = found if isinstance(found, tuple) else (200, found, {})
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    def _usual(self, group: str, path: str, sent: Any) -> Any:
        if group == "/system_stats":
            return {"system": {"comfyui_version": "0.30.0"}, "devices": []}
        if group == "/object_info":
            options = [
                "tiny (built in)",
                "random (built in)",
                "sub/dynamicrafter_512_fp16_pruned.safetensors",
            ]
            declared = {"checkpoint": ["COMBO", {"options": options}]}
            return {"DynamiCrafterAnimate": {"input": {"required": declared}}}
        if group == "/upload":
            return {"name": "image.png", "subfolder": "", "type": "temp"}
        if group == "/prompt":
            self.prompts[sent["prompt_id"]] = sent["prompt"]
            return {"prompt_id": sent["prompt_id"], "number": 1, "node_errors": {}}
        if group == "/history":
            return {path.rpartition("/")[2]: self.entry()}
        return png() if group == "/view" else {}

    def entry(self, status: str = "success", *messages: Any) -> dict[str, Any]:
        return {
            "status": {"status_str": status, "completed": True, "messages": messages},
            "outputs": {"frames": {"images": self.files}},
        }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    for name, value in (("_PAUSE", 0.01), ("_POLL", 0.01), ("_MISSED", 3), ("_OVERHEAD", 10_000)):
        monkeypatch.setattr(servers, name, value)
    pretended = Pretended()
    yield pretended
    pretended.stop()


@pytest.fixture
def read(tmp_path: Path, pictures: dict[str, Path]) -> Callable[..., list[Job]]:
    """Jobs of two frames of 64x64."""

    def jobs(*lines: dict[str, Any]) -> list[Job]:
        listing = tmp_path / "jobs.jsonl"
        usual = {"pictures": [str(pictures["wide"])], "frames": 2, "model": "random"}
        listing.write_text("\n".join(json.dumps({**usual, **line}) for line in lines), encoding="utf-8")
        return read_jobs(listing, clip_folder(tmp_path / "out"), ModelChoice(), named_variant)

    return jobs


def ran(jobs: list[Job], folder: Path, *urls: str, depth: int = 1, **how: Any) -> BatchOutcome:
    return run_jobs(jobs, folder / "out", server_workers(urls, depth, jobs), **how)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_job_is_sent_as_a_graph_and_comes_back_as_a_clip(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    jobs = read(
        {"seed": 9, "prompt": "a boat", "output": "clip"}, {"mode": "loop", "frames": 3, "output": "o"}
    )
    outcome = ran(jobs, tmp_path, server.url)
    assert [record.state for record in outcome.records] == ["done", "done"]
    assert {record.where for record in outcome.records} == {server.url}
    assert (read_frames(tmp_path / "out" / "clip") == read_frames(tmp_path / "out" / "o")).all()
    assert read_frames(tmp_path / "out" / "clip").shape == (2, 64, 64, 3)
    assert read_metadata(tmp_path / "out" / "clip")["settings"]["seed"] == 9
    graph, loop = server.prompts.values()
    assert graph["clip"]["class_type"] == "DynamiCrafterAnimate"
    sent = graph["clip"]["inputs"]
    assert (sent["seed"], sent["prompt"], sent["checkpoint"], sent["variant"], sent["loop"]) == (
        9, "a boat", "random (built in)", "small", False,
    )  # fmt: skip
    assert graph["first"]["inputs"]["image"] == "image.png [temp]"
    assert loop["clip"]["inputs"]["loop"] is True
    # The same image is sent once.
    assert [path for path, _ in server.asked].count("/upload") == 1


def test_only_the_latest_images_are_remembered(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_REMEMBERED", 1)
    images = [str(tmp_path / f"{name}.png") for name in "aba"]
    for path in images:
        Path(path).write_bytes(png())
    ran(read(*({"pictures": [path], "seed": seed} for seed, path in enumerate(images))), tmp_path, server.url)
    assert [path for path, _ in server.asked].count("/upload") == 3


def test_a_released_model_is_found_by_the_name_of_its_file(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    jobs = read({"model": "512", "width": 64, "height": 64})
    assert ran(jobs, tmp_path, server.url).failed == 0
    (graph,) = server.prompts.values()
    assert graph["clip"]["inputs"]["checkpoint"] == "sub/dynamicrafter_512_fp16_pruned.safetensors"
    assert graph["clip"]["inputs"]["variant"] == "512_v1"


CHECKED = {
    "prose": (
        {"/system_stats": PROSE},
        "is not a ComfyUI server, or a broken one: it does not answer in JSON",
    ),
    "other JSON": (
        {"/system_stats": [1]},
        "is not a ComfyUI server; check the address and start ComfyUI there",
    ),
    "a page not found": ({"/system_stats": (404, PROSE, {})}, "is not a ComfyUI server"),
    "another page": (
        {"/system_stats": (302, b"", {"Location": "http://127.0.0.1:1/"})},
        "answers /system_stats with HTTP status 302",
    ),
    "too much": ({"/system_stats": b"[" * 70_000_000}, "answered with more than 64 MB"),
    "deep JSON": ({"/system_stats": b"[" * 1000 + b"]" * 1000}, "it does not answer in JSON"),
    "no pack": (
        {"/object_info": {}},
        "does not have the nodes of this pack; install dynamicrafter-studio there",
    ),
    "no list": (
        {"/object_info": {"DynamiCrafterAnimate": {"input": 3}}},
        r"has no checkpoint random \(built in\); put it into its models folder \(it has none\)",
    ),
}


@pytest.mark.parametrize("case", CHECKED)
def test_what_is_no_comfyui_with_the_pack_is_told_before_anything_is_sent(
    server: Pretended, read: Callable[..., list[Job]], case: str
) -> None:
    server.instead, told = CHECKED[case]
    with pytest.raises(UsageError, match=told):
        server_workers([server.url], 2, read({}))
    assert not [path for path, _ in server.asked if path in ("/upload", "/prompt")]


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        (
            ["127.0.0.1:8188"],
            "the server '127.0.0.1:8188' is not an address; use one such as http://127.0.0.1:8188",
        ),
        (["file:///etc/passwd"], "is not an address"),
        (["http://me:secret@host"], "is not an address"),
        (["http://:secret@host"], "is not an address"),
        (["http://host/#part"], "is not an address"),
        (["http://host/ä"], "is not an address"),
        (["http://["], "is not an address"),
        (["http://\u2100x"], "is not an address"),
        (["http://" + "x" * 64], "is not an address"),
        (["http://host:99999"], "is not an address"),
        (["http://127.0.0.1:9/"] * 2, "the server http://127.0.0.1:9 is specified more than once"),
        (
            ["http://127.0.0.1:9"],
            r"http://127.0.0.1:9 does not answer \(Connection refused\); check the address",
        ),
    ],
)
def test_wrong_addresses(
    read: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch, urls: list[str], told: str
) -> None:
    monkeypatch.setattr(servers, "_PAUSE", 0.01)
    with pytest.raises(UsageError, match=told):
        server_workers(urls, 1, read({}))


LOSING: dict[str, tuple[dict[str, Any], str]] = {
    "prose": ({"/history": PROSE}, "is not a ComfyUI server, or a broken one: it does not answer in JSON"),
    "too much": ({"/view": bytes(70_000)}, "answered with more than 0 MB"),
    "no picture": ({"/view": (404, b"", {})}, "answers /view with HTTP status 404"),
    "no name": ({"/upload": {}}, "does not say where it stored an image"),
    "an error": ({"/prompt": (500, PROSE, {})}, "answers /prompt with HTTP status 500"),
}


@pytest.mark.parametrize("case", LOSING)
def test_a_server_that_answers_nonsense_gets_no_more_jobs(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, case: str
) -> None:
    jobs = read({}, {"seed": 2})
    server.instead, told = LOSING[case]
    before = everything(tmp_path)
    outcome = ran(jobs, tmp_path, server.url)
    assert (outcome.records, outcome.left) == ((), 2)
    assert re.match(f"{server.url} {told}", outcome.gone[0]), outcome.gone
    assert everything(tmp_path) == before


WRONG: dict[str, tuple[bytes, str]] = {
    "not a picture": (PROSE, r"answered with a frame that is not a PNG \(cannot identify image file"),
    "another kind of picture": (png(kind="GIF"), "answered with a frame that is not a PNG"),
    "half a picture": (png()[:90], "answered with a frame that is not a PNG"),
    "a large picture": (png(640, 64), "answered with a frame of 640x64 instead of 64x64 pixels"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_frames_fail_their_job_and_the_server_gets_others(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, case: str
) -> None:
    frame, told = WRONG[case]
    usual = server._usual
    # A job that is lost is tried three times before the next one.
    server.instead["/view"] = lambda sent: frame if len(server.prompts) <= 3 else usual("/view", "", sent)
    outcome = ran(read({}, {"seed": 2}), tmp_path, server.url)
    wrong, right = outcome.records
    assert re.match(f"{server.url} {told}", wrong.error), wrong.error
    assert wrong.error.endswith(", as did 2 before; update ComfyUI and this pack there")
    assert (right.state, outcome.gone) == ("done", ())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_frames_as_asked_for_are_taken(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, count: int
) -> None:
    server.files = [server.files[0]] * count
    outcome = ran(read({}), tmp_path, server.url)
    told = f"{server.url} answered with {count} frames instead of 2, as did 2 before"
    assert outcome.records[0].error == f"{told}; update ComfyUI and this pack there"
    assert outcome.gone == ()


@pytest.mark.parametrize(
    "name", ["../../../escaped.png", "/tmp/escaped.png", "C:\\escaped.png", "a\0b", "x" * 5000]
)
def test_names_from_a_server_name_no_file_here(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, name: str
) -> None:
    """They are sent back to it, and that is all."""
    server.files = [{"filename": name, "subfolder": name, "type": name}] * 2
    jobs = read({"output": "clip.mp4"})
    before = everything(tmp_path.parent)
    assert ran(jobs, tmp_path, server.url).failed == 0
    new = {Path(path).name for path in everything(tmp_path.parent) - before}
    assert new == {"clip.mp4", "clip.mp4.json"}
    assert ("/view", {"filename": [name], "subfolder": [name], "type": [name]}) in server.asked


@pytest.mark.parametrize("file", [3, {}, {"filename": 3, "subfolder": "", "type": "temp"}])
def test_names_must_be_names(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, file: Any
) -> None:
    server.files = [file] * 2
    assert ran(read({}), tmp_path, server.url).gone == (f"{server.url} does not say where its frames are",)


def test_a_rejected_job_fails_alone(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    error = {"message": "Value not in list", "details": "fit: 'crop'\x1b[31m"}
    rejection = (400, {"error": {"message": "x"}, "node_errors": {"clip": {"errors": [error]}}}, {})
    usual = server._usual
    server.instead["/prompt"] = lambda sent: (
        rejection if sent["prompt"]["clip"]["inputs"]["seed"] == 1 else usual("/prompt", "", sent)
    )
    first, second = ran(read({"seed": 1}, {"seed": 2}), tmp_path, server.url).records
    assert first.error == f"{server.url} rejects the job: Value not in list (fit: 'crop'\\x1b[31m)"
    assert second.state == "done"


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([["execution_error", {"exception_message": "no memory\n"}]], "no memory"),
        ([["execution_start", {}], ["execution_interrupted", {}]], "somebody interrupted it there"),
        ([3, [], ["execution_error", 3]], "no reason is given"),
    ],
)
def test_a_job_that_fails_there_is_recorded(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, messages: list[Any], told: str
) -> None:
    usual = server._usual
    server._usual = lambda group, path, sent: (  # type: ignore[method-assign]
        {path.rpartition("/")[2]: server.entry("error", *messages)}
        if group == "/history"
        else usual(group, path, sent)
    )
    (record,) = ran(read({}), tmp_path, server.url).records
    assert record.error == f"{server.url} could not generate it: {told}"


def test_a_job_that_is_no_longer_in_the_queue_is_sent_again(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    """Somebody cleared the queue, or the server was started again."""
    usual = server._usual
    server._usual = lambda group, path, sent: (  # type: ignore[method-assign]
        {} if group == "/history" and len(server.prompts) == 1 else usual(group, path, sent)
    )
    (record,) = ran(read({}), tmp_path, server.url).records
    assert (record.state, record.attempts, len(server.prompts)) == ("done", 2, 2)
    assert [path for path, _ in server.asked].count("/upload") == 2


@pytest.mark.parametrize("arrived", [True, False])
def test_a_job_is_queued_once_even_if_the_answer_is_lost(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path, arrived: bool
) -> None:
    usual = server._usual
    queued: list[str] = []

    def queue(sent: Any) -> Any:
        first = [path for path, _ in server.asked].count("/prompt") == 1
        if arrived or not first:
            queued.append(sent["prompt_id"])
        if first:
            raise ConnectionError("the answer is lost")
        return usual("/prompt", "", sent)

    def history(group: str, path: str, sent: Any) -> Any:
        there = group != "/history" or path.rpartition("/")[2] in queued
        return usual(group, path, sent) if there else {}

    server.instead["/prompt"] = queue
    server._usual = history  # type: ignore[method-assign]
    (record,) = ran(read({}), tmp_path, server.url).records
    assert (record.state, record.attempts) == ("done", 1)
    assert [path for path, _ in server.asked].count("/prompt") == (1 if arrived else 2)
    assert queued == list(server.prompts)


def test_a_server_that_names_jobs_itself_gets_none_and_nothing_there_is_stopped(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    server.instead["/prompt"] = {"prompt_id": "its own", "number": 1}
    outcome = ran(read({}), tmp_path, server.url)
    assert (outcome.left, len(outcome.gone)) == (1, 1)
    assert re.match(f"{server.url} is too old, .*; update ComfyUI there", outcome.gone[0])
    assert ("/queue", {"delete": ["its own"]}) in server.asked
    assert "/interrupt" not in [path for path, _ in server.asked]


def test_a_job_that_has_ended_is_not_withdrawn(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    usual = server._usual
    server._usual = lambda group, path, sent: (  # type: ignore[method-assign]
        {path.rpartition("/")[2]: server.entry("error")} if group == "/history" else usual(group, path, sent)
    )
    assert ran(read({}), tmp_path, server.url).failed == 1
    assert not {"/queue", "/interrupt"} & {path for path, _ in server.asked}


def test_images_that_a_server_removed_are_sent_again(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    """As it does when it is started again."""
    there: list[str] = []
    usual = server._usual

    def upload(sent: Any) -> Any:
        there.append(f"{len(server.asked)}.png")
        return {"name": there[-1], "subfolder": "", "type": "temp"}

    def queue(sent: Any) -> Any:
        if sent["prompt"]["first"]["inputs"]["image"].removesuffix(" [temp]") not in there:
            return 400, {"error": {"message": "Invalid image file"}}, {}
        if len(server.prompts) == 1:
            there.clear()
        return usual("/prompt", "", sent)

    server.instead |= {"/upload": upload, "/prompt": queue}
    outcome = ran(read({}, {"seed": 2}, {"seed": 3}), tmp_path, server.url)
    assert [record.state for record in outcome.records] == ["done"] * 3
    assert [path for path, _ in server.asked].count("/upload") == 2


def test_the_jobs_of_a_lost_server_go_to_the_others_and_queues_stay_short(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    bad = Pretended()
    try:
        bad.instead["/history"] = PROSE
        outcome = ran(read(*({"seed": seed} for seed in range(8))), tmp_path, bad.url, server.url, depth=2)
    finally:
        bad.stop()
    assert [record.state for record in outcome.records] == ["done"] * 8
    assert {record.where for record in outcome.records} == {server.url}
    assert 1 <= len(bad.prompts) <= 2
    assert len(outcome.gone) <= 2


def test_what_is_cancelled_is_withdrawn_and_nothing_else(
    server: Pretended, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    server.instead["/history"] = {}
    server.instead["/queue"] = lambda sent: {
        "queue_running": [],
        "queue_pending": [[0, key] for key in server.prompts],
    }

    def cancel(share: float, doing: str) -> None:
        if len(server.prompts) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(read({}, {"seed": 2}, {"seed": 3}), tmp_path, server.url, depth=2, progress=cancel)
    deleted = [sent["delete"][0] for path, sent in server.asked if path == "/queue" and "delete" in sent]
    stopped = [sent["prompt_id"] for path, sent in server.asked if path == "/interrupt"]
    assert sorted(deleted) == sorted(stopped) == sorted(server.prompts)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"eta": 0.5}, "line 1 sets eta to 0.5, for which the node of a server has no input; remove it"),
        ({"sampler": "euler", "model": "512"}, "line 1 sets sampler to 'euler', for which the node"),
        (
            {"loras": [{"file": "a.safetensors"}]},
            "line 1 has LoRA files or encoders, which are not sent to a server",
        ),
    ],
)
def test_what_a_server_cannot_do_is_told_before(
    read: Callable[..., list[Job]], line: dict[str, Any], told: str
) -> None:
    (job,) = read(line)
    with pytest.raises(UsageError, match=told):
        check_sendable(job)


def test_the_variant_of_a_file_on_a_server_must_be_named(read: Callable[..., list[Job]]) -> None:
    with pytest.raises(
        UsageError, match=r"the variant of .*own.ckpt, which is on the server, is not known here"
    ):
        read({"model": "own.ckpt"})
    (job,) = read({"model": "own.ckpt", "variant": "512_v1"})
    assert job.settings.width == 512


def test_the_command_resumes_with_servers(
    server: Pretended, run: Run, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    listing = tmp_path / "jobs.jsonl"
    listing.write_text(json.dumps({"pictures": [str(pictures["wide"])], "frames": 2}), encoding="utf-8")
    words = ("batch", listing, "--out", "out", "--model", "random", "--server", server.url)
    gone = "does not say where its frames are; repeat the command to resume"
    server.files = [{}] * 2
    lost = run(*words, "--queue", "1")
    assert lost.code == 1
    assert lost.err == f"dynamicrafter: 1 job(s) are left, because {server.url} {gone}\n"
    server.files = [{"filename": "a", "subfolder": "", "type": "temp"}] * 2
    assert run(*words, "--json").json["done"] == 1
    server.asked.clear()
    assert run(*words, "--json").json["skipped"] == 1
    assert server.asked == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--workers", "2"),
            "--workers would apply to this machine, but the servers of --server compute in their own",
        ),
        (("--weights", "int8", "--memory", "low"), "--weights and --memory would apply to this machine, but"),
        (("--backend", "openvino"), "--backend would apply to this machine, but"),
        (("--compile", "default"), "--compile would apply to this machine, but"),
        (("--queue", "0"), "the queue of a server must have at least 1 place, but 0 were given"),
    ],
)
def test_wrong_options_with_servers(
    run: Run, tmp_path: Path, pictures: dict[str, Path], options: tuple[str, ...], told: str
) -> None:
    listing = tmp_path / "jobs.jsonl"
    listing.write_text(json.dumps({"pictures": [str(pictures["wide"])], "model": "random"}), encoding="utf-8")
    ran = run("batch", listing, "--out", "out", "--server", "http://127.0.0.1:9", *options)
    assert told in complaint(ran, 2)


def test_frames_arrive_unchanged(server: Pretended, read: Callable[..., list[Job]], tmp_path: Path) -> None:
    server.instead["/view"] = lambda sent: png(shade=100 + int(sent["filename"][0][0]))
    assert ran(read({"output": "clip"}), tmp_path, server.url).failed == 0
    frames = read_frames(tmp_path / "out" / "clip")
    assert np.unique(frames[..., 0]).tolist() == [100, 101]
