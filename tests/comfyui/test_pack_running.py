"""While the pack's nodes run: previews, progress, cancelling, caching, several clients, memory over many prompts."""

from __future__ import annotations

import io
import math
import time
from typing import TYPE_CHECKING

import pytest
from pack_graphs import (
    animate,
    conditioned,
    decoded,
    node,
    sampled,
    saved_latent,
    upload_pictures,
    with_ksampler,
)
from PIL import Image, ImageChops, ImageStat

if TYPE_CHECKING:
    from comfyui_client import Client, Run
    from comfyui_server import Server

WITH_PREVIEWS = {"preview_method": "latent2rgb"}
FRAMES = 3000
"""So many that decoding them takes far longer than asking for its end."""
GROWTH = 1.05
"""Largest resident memory after many prompts over that after a few."""


@pytest.fixture
def ready(client: Client) -> Client:
    """A client whose server has the pictures."""
    upload_pictures(client)
    return client


def shown_by(run: Run, name: str) -> list[bytes]:
    """Pixels of the previews that a node sent."""
    return [p.picture().tobytes() for p in run.previews if p.metadata["node_id"].split(".")[0] == name]


def decibels(one: Image.Image, other: Image.Image) -> float:
    """PSNR of two pictures."""
    squares = ImageStat.Stat(ImageChops.difference(one, other)).sum2
    return 10 * math.log10(255**2 * one.width * one.height * 3 / max(1, sum(squares)))


class TestPreviewsAndProgress:
    def test_the_steps_of_our_sampler_are_counted(self, ready: Client) -> None:
        """Newer hosts leave out steps that follow within a tenth of a second, but never the first and the last."""
        run = ready.run(saved_latent(sampled(conditioned(), steps=5, seed=21)), WITH_PREVIEWS)
        assert run.status == "success", run.error
        counted = run.progress("sampler")
        assert counted == sorted(counted)
        assert {(1, 5), (5, 5)} <= set(counted) <= {(step, 5) for step in range(1, 6)}

    def test_the_preview_plays_the_clip_while_it_runs(self, ready: Client) -> None:
        """Eight frames per second for as long as the steps take, whatever their number."""
        # Large enough for steps that last.
        prompt = saved_latent(sampled(conditioned(width=128, height=128, frames=8), steps=8, seed=22))
        run = ready.run(prompt, WITH_PREVIEWS)
        end = next(message.at for message in run.messages if message.kind == "execution_success")
        times = [preview.at for preview in run.previews]
        assert times == sorted(times)
        assert times[0] < times[-1] < end
        lasted = times[-1] - times[0]
        assert 0.5 * 8 * lasted <= len(times) <= 8 * lasted + 2
        shown = shown_by(run, "sampler")
        assert all(one != other for one, other in zip(shown, shown[1:], strict=False))

    def test_previews_of_tiny_have_the_colours_of_its_clip(self, ready: Client) -> None:
        """The last preview beside the finished frames, against the same with the colours of Stable Diffusion."""
        prompt = animate(
            checkpoint="tiny (built in)", prompt="a red circle stands still", steps=12, cfg=1.0, frames=16
        )
        prompt["image"] = node("DynamiCrafterSamplePicture", picture="red_circle")
        prompt["frames"] = node("PreviewImage", images=["animate", 1])
        run = ready.run(prompt, WITH_PREVIEWS)
        assert run.status == "success", run.error
        last = run.previews[-1].picture().resize((8, 8), Image.Resampling.BOX)
        with Image.open(io.BytesIO(ready.view(run.outputs["frames"]["images"][0]))) as frame:
            wanted = frame.convert("RGB").resize((8, 8), Image.Resampling.BOX)
        assert decibels(last, wanted) > 18

    def test_without_previews_steps_are_counted_all_the_same(self, ready: Client) -> None:
        run = ready.run(saved_latent(sampled(conditioned(), steps=3, seed=23)), {"preview_method": "none"})
        assert run.previews == []
        assert run.progress("sampler")[-1] == (3, 3)

    def test_the_one_node_start_shows_its_progress_under_its_own_name(self, ready: Client) -> None:
        run = ready.run(animate(steps=3, seed=24), WITH_PREVIEWS)
        assert run.status == "success", run.error
        assert shown_by(run, "animate")
        shown_at = {
            state["display_node_id"]
            for message in run.messages
            if message.kind == "progress_state"
            for state in message.data["nodes"].values()
        }
        assert shown_at <= {"image", "animate", "save"}

    @pytest.mark.parametrize(("chunk", "counted"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (0, [5])])
    def test_each_decoded_chunk_is_counted(self, ready: Client, chunk: int, counted: list[int]) -> None:
        prompt = decoded(sampled(conditioned(frames=5), steps=1, seed=25))
        prompt["decode"]["inputs"]["chunk"] = chunk
        progress = ready.run(prompt).progress("decode")
        assert progress[-1] == (5, 5)
        # The host leaves out messages that come too fast.
        assert {value for value, _ in progress} <= {0, *counted}
        assert {total for _, total in progress} == {5}

    def test_core_ksampler_shows_previews_of_our_model(self, ready: Client) -> None:
        run = ready.run(saved_latent(with_ksampler(conditioned(), steps=3, seed=26)), WITH_PREVIEWS)
        assert run.status == "success", run.error
        assert run.progress("sampler") == [(step, 3) for step in range(1, 4)]
        assert len(set(shown_by(run, "sampler"))) == 3


class TestCancelling:
    def test_sampling_stops_within_a_step_and_the_next_prompt_runs(
        self, ready: Client, pack_server: Server
    ) -> None:
        # Large enough for steps that last, so that it counts how soon it stops and not how soon it is asked.
        large = conditioned(frames=8, width=128, height=128)
        usual = saved_latent(sampled(large, seed=31))
        assert ready.run(usual).status == "success"
        resident: list[int] = []
        for seed in (32, 34):
            prompt_id = ready.queue(saved_latent(sampled(large, steps=999, seed=seed)), WITH_PREVIEWS)
            ready.wait_for_preview(prompt_id, 2)
            ready.interrupt(prompt_id)
            at = time.monotonic()
            run = ready.wait(prompt_id, timeout=60)
            assert run.status == "interrupted"
            after = {m.data["value"] for m in run.messages if m.kind == "progress" and m.at > at}
            assert len(after) <= 2
            usual["sampler"]["inputs"]["seed"] = seed + 1
            again = ready.run(usual)
            assert again.status == "success"
            assert set(again.executed) == {"sampler", "save"}
            resident.append(pack_server.resident_bytes())
        # What the first previews load stays; what a cancelled clip needs does not.
        assert resident[1] < GROWTH * resident[0]

    def test_decoding_stops_within_a_chunk(self, ready: Client) -> None:
        prompt = decoded(conditioned())
        prompt["sampler"] = node("EmptyLatentImage", width=64, height=64, batch_size=FRAMES)
        prompt["decode"]["inputs"]["chunk"] = 1
        prompt_id = ready.queue(prompt)

        def decoding(message: object) -> bool:
            data = getattr(message, "data", {})
            return (
                getattr(message, "kind", "") == "progress" and data["node"] == "decode" and data["value"] > 0
            )

        ready.wait_for(decoding, prompt_id, timeout=120)
        ready.interrupt(prompt_id)
        run = ready.wait(prompt_id, timeout=60)
        assert run.status == "interrupted"
        assert run.progress("decode")[-1][0] < FRAMES
        assert ready.run(decoded(sampled(conditioned(), seed=35))).status == "success"

    def test_a_cancelled_one_node_start_can_be_started_again(self, ready: Client) -> None:
        prompt_id = ready.queue(animate(steps=999, seed=36), WITH_PREVIEWS)
        ready.wait_for_preview(prompt_id, 1)
        ready.interrupt(prompt_id)
        assert ready.wait(prompt_id, timeout=60).status == "interrupted"
        assert ready.run(animate(seed=37)).status == "success"


class TestCaching:
    def test_a_new_seed_runs_the_sampler_and_what_follows(self, ready: Client) -> None:
        prompt = decoded(sampled(conditioned(), seed=41))
        assert ready.run(prompt).status == "success"
        prompt["sampler"]["inputs"]["seed"] = 42
        run = ready.run(prompt)
        assert list(dict.fromkeys(run.executed)) == ["sampler", "decode", "video", "save"]
        assert run.cached == {"loader", "image", "cond"}

    def test_a_new_prompt_keeps_the_weights_and_the_picture(self, ready: Client) -> None:
        prompt = decoded(sampled(conditioned(), seed=43))
        ready.run(prompt)
        prompt["cond"]["inputs"]["prompt"] = "a ship"
        run = ready.run(prompt)
        assert run.status == "success", run.error
        assert {"loader", "image"} <= run.cached
        assert "cond" in run.executed

    def test_a_new_seed_of_the_one_node_start_loads_and_encodes_nothing_again(self, ready: Client) -> None:
        first = ready.run(animate(seed=44))
        again = ready.run(animate(seed=45))
        assert first.status == again.status == "success"
        # In the order in which the node puts them together: loader, conditioning, sampler, decode, last frame.
        ran = {name.rsplit(".", 1)[1] for name in again.executed if name.startswith("animate.")}
        assert ran == {"3", "4", "5"}

    def test_an_equal_prompt_runs_nothing(self, ready: Client) -> None:
        for prompt in (animate(seed=46), decoded(sampled(conditioned(), seed=46))):
            assert ready.run(prompt).status == "success"
            assert ready.run(prompt).executed == []


class TestManyPrompts:
    def test_two_clients_queue_at_once(self, ready: Client, pack_server: Server) -> None:
        with pack_server.client() as other:
            ids = [
                client.queue(saved_latent(sampled(conditioned(), steps=steps, seed=51)), WITH_PREVIEWS)
                for client, steps in ((ready, 3), (other, 4))
            ]
            runs = [client.wait(number) for client, number in zip((ready, other), ids, strict=True)]
            assert [run.status for run in runs] == ["success", "success"]
            assert [run.progress("sampler")[-1] for run in runs] == [(3, 3), (4, 4)]
            assert all({p.prompt_id for p in run.previews} <= {run.prompt_id} for run in runs)

    def test_twenty_prompts_leave_the_memory_flat(self, ready: Client, pack_server: Server) -> None:
        def once(seed: int) -> None:
            prompt = decoded(sampled(conditioned(frames=2), steps=1, seed=seed))
            # Another prompt each time, so that the text and picture encoders run too.
            prompt["cond"]["inputs"]["prompt"] = f"boat number {seed}"
            if seed % 2:
                prompt["sampler"] = with_ksampler({}, steps=1, seed=seed)["sampler"]
            prompt["shown"] = node("PreviewImage", images=["decode", 0])
            assert ready.run(prompt).status == "success"

        for seed in range(4):
            once(seed)
        before = pack_server.resident_bytes()
        for seed in range(4, 24):
            once(seed)
        assert pack_server.resident_bytes() < GROWTH * before
