"""Long clips, keyframes and masks in one node, and the nodes of the director, on a real server."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import BUILT_IN, REPOSITORY, Prompt, animate, node, saved_video, upload_pictures, video_of

if TYPE_CHECKING:
    from comfyui_client import Client

pytestmark = pytest.mark.usefixtures("ready")
CHOICES = {"overlap": 0, "continue_from": 1, "reanchor": 0, "colour_match": 0.0, "lock_frames": 0}
TINY = "tiny (built in)"


@pytest.fixture
def ready(client: Client) -> Client:
    """The client, with the images uploaded."""
    upload_pictures(client)
    return client


def long(method: str, frames: int, **choices: Any) -> Prompt:
    """The one-node start with a length method; two steps without guidance."""
    length = node("DynamiCrafterLongClip", **{**CHOICES, "length_method": method})
    made = animate(length=["length", 0], frames=frames, steps=1, cfg=1.0, **choices)
    return {**made, "length": length}


def keyframes(durations: str, prompts: str = "a boat", images: int = 3) -> Prompt:
    """Keyframes of as many images, which are one and the same."""
    prompt: Prompt = {
        "picture": node("DynamiCrafterSamplePicture", picture="red_circle"),
        "images": node("RepeatImageBatch", image=["picture", 0], amount=images),
        "keys": node(
            "DynamiCrafterKeyframes",
            images=["images", 0],
            prompts=prompts,
            durations=durations,
            checkpoint=BUILT_IN,
            motion=-1.0,
            seed=1,
            steps=1,
            cfg=1.0,
        ),
    }
    return {**prompt, **saved_video(["keys", 1])}


def failed(client: Client, prompt: Prompt) -> str:
    run = client.run(prompt)
    assert run.status == "error"
    return run.error["exception_message"]


def test_a_continued_clip_has_its_length_one_bar_and_previews(ready: Client) -> None:
    run = ready.run(long("continue", 18, seed=71))
    assert len(video_of(ready, run)[0]) == 18
    ours = run.progress("animate.0.0.2") or run.progress("animate")
    values = [value for value, _ in ours]
    assert values == sorted(values)
    assert ours[-1] == (1000, 1000)


def test_a_loop_by_windows_has_one_frame_less(ready: Client) -> None:
    assert len(video_of(ready, ready.run(long("windows", 19, loop=True)))[0]) == 18


def test_a_continued_clip_can_be_cancelled_between_its_clips(ready: Client) -> None:
    prompt_id = ready.queue(long("continue", 200, seed=72))

    def begun(message: Any) -> bool:
        return getattr(message, "kind", "") == "progress" and message.data["value"] > 100

    ready.wait_for(begun, prompt_id, timeout=120)
    ready.interrupt(prompt_id)
    assert ready.wait(prompt_id, timeout=60).status == "interrupted"


@pytest.mark.parametrize(("durations", "frames"), [("3,2", 6), ("4", 9)])
def test_keyframes_are_as_far_apart_as_told(ready: Client, durations: str, frames: int) -> None:
    run = ready.run(keyframes(durations, "a boat\na storm"))
    assert len(video_of(ready, run)[0]) == frames


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (keyframes("3,2,4"), "3 images have 2 gaps, but there are 3 durations; use one for each gap"),
        (keyframes("soon"), "durations must be whole numbers from 1, .* but 'soon' was given"),
        (keyframes("0,2"), "durations must be whole numbers from 1"),
        (
            keyframes("3", "a\nb\nc"),
            "3 images have 2 gaps, which need 2 prompts separated by |, but 3 were given",
        ),
        (keyframes("3", images=1), "keyframes must be a batch of 2 or more images, but 1 was given"),
        (long("pick", 18), "frames must be at most 16 with length_method pick, but 18 was given"),
        (
            {
                **long("continue", 18, mask=["mask", 0]),
                "mask": node("SolidMask", value=1.0, width=64, height=64),
            },
            "masks, source clips and denoise below 1 are for clips of one part",
        ),
        (
            {
                **animate(mask=["mask", 0], last_image=["image", 0]),
                "mask": node("SolidMask", value=1.0, width=64, height=64),
            },
            "need a clip to start from when two images are interpolated; connect it to source",
        ),
    ],
)
def test_what_does_not_go_together(ready: Client, prompt: Prompt, message: str) -> None:
    import re

    assert re.search(message, said := failed(ready, prompt)), said


def test_a_batch_is_no_image_to_animate(ready: Client) -> None:
    prompt = long("continue", 18)
    prompt["many"] = node("RepeatImageBatch", image=["image", 0], amount=2)
    prompt["animate"]["inputs"]["image"] = ["many", 0]
    assert "image must be a single image, but it is a batch of 2" in failed(ready, prompt)


# The director


def told(client: Client, prompt: Prompt, *outputs: tuple[str, int]) -> list[str]:
    """What outputs of text are, by core's Preview as Text."""
    shown = {f"shown{number}": node("PreviewAny", source=[*output]) for number, output in enumerate(outputs)}
    run = client.run({**prompt, **shown})
    assert run.status == "success", run.error
    return ["".join(run.outputs[name]["text"]) for name in shown]


def test_suggestions_for_the_built_in_model_name_the_shape(ready: Client) -> None:
    prompt: Prompt = {
        "picture": node("DynamiCrafterSamplePicture", picture="green_triangle"),
        "seen": node("DynamiCrafterSuggest", image=["picture", 0], checkpoint=TINY, count=2),
    }
    assert told(ready, prompt, ("seen", 0)) == ["a green triangle moves righta green triangle moves up"]
    prompt["picture"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x808080)
    assert "knows coloured shapes only, and the image shows none" in failed(
        ready, {**prompt, "shown": node("PreviewAny", source=["seen", 0])}
    )
    prompt["seen"]["inputs"]["checkpoint"] = BUILT_IN
    assert "suggestions need the complete CLIP encoders; put open_clip_model.safetensors" in failed(
        ready, {**prompt, "shown": node("PreviewAny", source=["seen", 0])}
    )


PLAN = {
    "subject": "boat",
    "motion_prompt": "a boat rocks",
    "camera": "zoom in",
    "motion": 7,
    "mode": "loop",
    "negative_prompt": "",
    "seconds": 3,
    "sound": "sea",
    "why": "it floats",
}


def test_a_plan_is_read_from_an_answer_with_prose(ready: Client) -> None:
    answer = f"Here it is:\n```json\n{json.dumps({**PLAN, 'path': '/etc'})}\n```"
    prompt = {"plan": node("DynamiCrafterDirectorPlan", answer=answer)}
    outputs = [("plan", slot) for slot in (0, 1, 3, 4, 5)]
    wanted = ["a boat rocks, camera zooms in", "1.0", "True", "3.0", "sea"]
    assert told(ready, prompt, *outputs) == wanted
    shown = {"shown": node("PreviewAny", source=["plan", 0])}
    prompt["plan"]["inputs"]["answer"] = "I would rather not."
    message = "the answer is not a plan (it contains no JSON object); run the language model again"
    assert message in failed(ready, {**prompt, **shown})


def test_the_question_has_the_idea_and_the_form_of_the_plan(ready: Client) -> None:
    prompt = {"question": node("DynamiCrafterDirectorPrompt", idea="let it snow")}
    (text,) = told(ready, prompt, ("question", 0))
    assert "let it snow" in text
    assert all(name in text for name in PLAN)


def test_a_director_without_profiles_says_so(ready: Client) -> None:
    prompt: Prompt = {
        "picture": node("DynamiCrafterSamplePicture", picture="red_circle"),
        "director": node("DynamiCrafterDirector", image=["picture", 0], idea="", profile="none"),
        "shown": node("PreviewAny", source=["director", 0]),
    }
    assert "there is no" in failed(ready, prompt)


def test_a_director_asks_the_server_of_its_profile(
    ready: Client, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from dynamicrafter.director.profiles import VARIABLE, Profile, write_profile

    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "director")
    models = importlib.import_module("language_model")
    file = tmp_path_factory.getbasetemp() / "language_models.toml"
    monkeypatch.setenv(VARIABLE, str(file))
    prompt: Prompt = {
        "picture": node("DynamiCrafterSamplePicture", picture="red_circle"),
        "director": node("DynamiCrafterDirector", image=["picture", 0], idea="a storm", profile="local"),
    }
    with models.LanguageModelServer(models.good()) as server:
        write_profile(Profile("local", server.url, "sees"))
        try:
            assert told(ready, prompt, *(("director", slot) for slot in (0, 1, 3))) == [
                "waves roll in",
                "0.4",
                "False",
            ]
        finally:
            file.unlink()
        (asked,) = server.requests
    text, image = asked["messages"][1]["content"]
    assert "a storm" in text["text"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(("cue", "notes"), [("waves on a beach", 0), ("", 0), ("a violin", 1)])
def test_ambience_is_as_long_as_the_clip(ready: Client, cue: str, notes: int) -> None:
    import io

    import av

    prompt: Prompt = {
        "picture": node("DynamiCrafterSamplePicture", picture="red_circle"),
        "images": node("RepeatImageBatch", image=["picture", 0], amount=12),
        "sound": node("DynamiCrafterAmbience", sound=cue, seconds=9.0, seed=1, images=["images", 0], fps=8.0),
        "save": node("SaveAudio", audio=["sound", 0], filename_prefix="ambience"),
    }
    run = ready.run(prompt)
    assert run.status == "success", run.error
    (file,) = run.files()
    with av.open(io.BytesIO(ready.view(file))) as sound:
        count = sum(frame.samples for frame in sound.decode(audio=0))
    assert count == 72_000
    assert len(run.outputs["sound"]["dynamicrafter_notes"]) == notes
