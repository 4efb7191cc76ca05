"""Nodes that decide what happens in a clip, by what is seen in its image or by a language model."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.director.plan import LONGEST, SHORTEST, ClipPlan, PlanError, read_plan
from ..dynamicrafter.director.profiles import find_profile, read_profiles
from ..dynamicrafter.director.proposing import propose, text_question
from ..dynamicrafter.director.suggestions import Suggestion, read_bank, suggest
from ..dynamicrafter.director.toy_sight import suggest_toy
from ..dynamicrafter.errors import UsageError
from ..dynamicrafter.evaluation.clip_score import find_towers, load_scorer
from ..dynamicrafter.media.pictures import as_picture, normalise
from ..dynamicrafter.model.variants import TINY
from .encode import single
from .host.files import BUILT_IN, EXPORTED, encoders_path, list_checkpoints
from .sockets import CATEGORY, image, schema
from .words import in_words_of_the_graph

_NO_PROFILE = "none"


def _idea() -> Any:
    return io.String.Input(
        "idea",
        default="",
        multiline=True,
        tooltip="What you have in mind, in any language; empty asks for a proposal.",
    )


def _plan_outputs() -> list[Any]:
    return [
        io.String.Output("prompt", tooltip="What happens, with the movement of the camera, for prompt."),
        io.Float.Output("motion", tooltip="Amount of motion, for motion."),
        io.String.Output("negative_prompt", tooltip="What should not happen, for negative_prompt."),
        io.Boolean.Output("loop", tooltip="Whether the clip should loop, for loop."),
        io.Float.Output(
            "seconds", tooltip=f"Duration, {SHORTEST:g} to {LONGEST:g}, for DynamiCrafter Ambience."
        ),
        io.String.Output("sound", tooltip="The cue of a sound, for DynamiCrafter Ambience; may be empty."),
        io.String.Output("why", tooltip="The reason for the plan, in one sentence."),
    ]


def _outputs_of(plan: ClipPlan) -> io.NodeOutput:
    return io.NodeOutput(
        plan.prompt,
        plan.motion,
        plan.negative_prompt,
        plan.mode == "loop",
        plan.seconds,
        plan.sound,
        plan.why,
        ui={"text": [f"{plan.prompt} ({plan.why})" if plan.why else plan.prompt]},
    )


class DynamiCrafterSuggest(io.ComfyNode):
    """What may move in an image, without a language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterSuggest",
            display_name="DynamiCrafter Suggest",
            category=CATEGORY,
            description="Suggests what may move in an image, best first, without a language model: CLIP compares the "
            "image with some 400 phrases. For tiny, it names the coloured shape.",
            search_aliases=["auto prompt", "caption", "interrogate", "what moves"],
            inputs=[
                image("image", "The image; a single image, not a batch."),
                io.Combo.Input(
                    "checkpoint",
                    options=list_checkpoints(),
                    tooltip="The model that the suggestions are for. All but tiny need open_clip_model.safetensors.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="How many suggestions; more than one give as many clips.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt", is_output_list=True, tooltip="What happens, for prompt; best first."
                ),
                io.Float.Output(
                    "motion", is_output_list=True, tooltip="Amount of motion of each, for motion."
                ),
                io.String.Output(
                    "sound", is_output_list=True, tooltip="The cue of a sound for each; may be empty."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, checkpoint: str, count: int) -> io.NodeOutput:
        """Look at the image; raises ValueError for an image of which nothing can be said."""
        seen = normalise(as_picture(single(image, "image")))
        with in_words_of_the_graph():
            if BUILT_IN.get(checkpoint.removesuffix(EXPORTED)) == TINY.name:
                found = suggest_toy(seen, count)
                if not found:
                    raise UsageError(
                        "tiny, the built-in model, knows coloured shapes only, and the image shows none; select "
                        "another checkpoint, or enter a prompt"
                    )
            else:
                found = _suggested(seen, count)
        plans = [one.plan for one in found]
        return io.NodeOutput(
            [plan.prompt for plan in plans],
            [plan.motion for plan in plans],
            [plan.sound for plan in plans],
            ui={"text": [plan.prompt for plan in plans]},
        )


def _suggested(seen: Tensor, count: int) -> list[Suggestion]:
    """The suggestions of both CLIP encoders, which are loaded for it; raises UsageError if they are not there."""
    towers = find_towers(None, encoders_path())
    if towers is None:
        raise UsageError(
            "suggestions need the complete CLIP encoders; put open_clip_model.safetensors into models/text_encoders, "
            "or enter a prompt"
        )
    with torch.inference_mode():
        return suggest(seen, load_scorer(towers), read_bank(), count)


class DynamiCrafterDirectorPrompt(io.ComfyNode):
    """The question for a language model of another node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterDirectorPrompt",
            display_name="DynamiCrafter Director Prompt",
            category=CATEGORY,
            description="The text that asks a language model for the plan of a clip, for any node that takes an image "
            "and a text, such as core TextGenerate. DynamiCrafter Director Plan reads its answer.",
            search_aliases=["llm prompt", "vision language model"],
            inputs=[_idea()],
            outputs=[
                io.String.Output("text", tooltip="Instructions and idea, for the prompt of a language model.")
            ],
        )

    @classmethod
    def execute(cls, idea: str) -> io.NodeOutput:
        """Put both together."""
        return io.NodeOutput(text_question(idea))


class DynamiCrafterDirectorPlan(io.ComfyNode):
    """A language model's answer as the settings of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterDirectorPlan",
            display_name="DynamiCrafter Director Plan",
            category=CATEGORY,
            description="Reads the plan of a clip from the answer of a language model, whatever stands around it. "
            "Numbers are limited to their ranges, and nothing but prompts and numbers is taken from it.",
            search_aliases=["parse json", "llm answer"],
            inputs=[
                io.String.Input(
                    "answer",
                    default="",
                    multiline=True,
                    tooltip="What the language model answered to DynamiCrafter Director Prompt.",
                )
            ],
            outputs=_plan_outputs(),
        )

    @classmethod
    def execute(cls, answer: str) -> io.NodeOutput:
        """Read it; raises ValueError with what is wrong with it."""
        try:
            return _outputs_of(read_plan(answer))
        except PlanError as problem:
            raise ValueError(
                f"the answer is not a plan ({problem}); run the language model again with another seed, or use a "
                f"larger one"
            ) from problem


class DynamiCrafterDirector(io.ComfyNode):
    """A language model behind a profile looks at the image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterDirector",
            display_name="DynamiCrafter Director",
            category=CATEGORY,
            description="Asks a language model for the plan of a clip. Address and key are those of a profile, made "
            "with 'dynamicrafter language-model add'; a workflow contains nothing but its name. The image is sent only "
            "to hosts that you have agreed to.",
            search_aliases=["llm", "gpt", "gemini", "ollama", "openai"],
            inputs=[
                image("image", "The image; a single image, not a batch."),
                _idea(),
                io.Combo.Input(
                    "profile",
                    options=_profiles(),
                    tooltip="A profile of 'dynamicrafter language-model'; press R after adding one.",
                ),
            ],
            outputs=_plan_outputs(),
        )

    @classmethod
    async def execute(cls, image: Tensor, idea: str, profile: str) -> io.NodeOutput:
        """Ask; other nodes run meanwhile. Raises ValueError with one sentence if there is no plan."""
        picture = as_picture(single(image, "image"))
        with in_words_of_the_graph():
            return _outputs_of(await propose(find_profile(profile), [picture], idea))


def _profiles() -> list[str]:
    """The names of all profiles; one that is none if there are none or their file cannot be read."""
    try:
        return sorted(read_profiles()) or [_NO_PROFILE]
    except UsageError:
        return [_NO_PROFILE]
