"""The page as Gradio's components, and its HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ..animate_anyone.config import BUILT_IN_PERSON
from ..director.ambience import AMBIENCES, ambience_for
from ..errors import DynamiCrafterError, UsageError
from ..model.variants import Mode
from .desk import MOST_TEXT, POSE_FILES, Desk, PersonWish, StoryWish, Visitor, Wish, missing_models
from .door import OWNER, VISITOR
from .examples import PageExamples
from .line import Ticket
from .panels import (
    Texts,
    failure_panel,
    history_panel,
    models_panel,
    progress_panel,
    quoted,
    result_panel,
)
from .shelf import Result
from .words import TEXTS, language_of, said

_LOOK = 0.25
"""Seconds between two looks at how far a clip is."""
_LISTED = 200
"""Results of a visitor that are shown."""
_BUTTONS = 5
"""How many suggestions are shown."""
_STYLE = """
.gradio-container { max-width: 72rem !important; margin: 0 auto !important; }
/* The names of the tabs must not widen the page; those that have no room go into a menu. */
.tab-wrapper { contain: inline-size; }
.clip, .preview { width: 100%; max-height: 60vh; object-fit: contain; border-radius: 8px; }
.preview { image-rendering: auto; opacity: 0.85; }
.told { padding: 0.5rem 0; }
.told progress { display: block; width: 100%; margin-top: 0.4rem; accent-color: var(--primary-500); }
.links a { margin-right: 0.8rem; text-decoration: underline; }
.history { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.history figure { margin: 0; overflow-wrap: anywhere; }
.models { font-size: 0.9em; }
.people { font-size: 0.9em; opacity: 0.85; }
"""
_PREFIX = "dynamicrafter_"
"""Gradio has texts of its own with names such as ``image``."""
_FONTS = ["system-ui", "sans-serif"]
Submit = Callable[[Sequence[Any], Any, Texts], Ticket]
"""From the values of a tab, the request and the texts in its language to the clip in the queue."""


class Page:
    """Builds the page; ``gr`` is the gradio package, ``root`` the path below which the page is reached."""

    def __init__(self, gr: Any, desk: Desk, examples: PageExamples, root: str) -> None:
        self._gr, self._desk, self._examples, self._root = gr, desk, examples, root
        hours = f"{desk.limits.hours:g}"
        self._translated = gr.I18n(
            **{
                language: {_PREFIX + key: text.replace("{hours}", hours) for key, text in texts.items()}
                for language, texts in TEXTS.items()
            }
        )

    def _word(self, key: str) -> Any:
        """A text that the browser shows in its language."""
        return self._translated(_PREFIX + key)

    def looks(self) -> dict[str, Any]:
        """What the page is served with: colours, styles and translations, with nothing from elsewhere."""
        theme = self._gr.themes.Default(font=_FONTS, font_mono=["monospace"])
        return {"theme": theme, "css": _STYLE, "i18n": self._translated, "footer_links": ["api", "settings"]}

    def build(self) -> Any:
        """The page."""
        gr, word = self._gr, self._word
        with gr.Blocks(title="DynamiCrafter", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.Markdown(word("lead"), elem_id="lead")
            gr.Markdown(word("people"), elem_classes="people")
            # One line for each; a mode that gets a tab of its own is added here.
            with gr.Tabs():
                for mode in ("animate", "interpolate", "loop"):
                    with gr.Tab(word(mode), elem_id=f"tab_{mode}"):
                        self._clip_tab(mode)
                if self._desk.line.does_tasks:
                    with gr.Tab(word("story"), elem_id="tab_story"):
                        self._story_tab()
                if self._desk.persons:
                    with gr.Tab(word("person"), elem_id="tab_person"):
                        self._person_tab()
                with gr.Tab(word("compare"), elem_id="tab_compare"):
                    self._compare_tab()
                with gr.Tab(word("history"), elem_id="tab_history") as tab:
                    self._history_tab(tab)
            models = gr.HTML(elem_id="models")
            blocks.load(self._asked(self._show_models), None, models, api_visibility="private")
            self._api()
        # The line of the page is the queue; this one only passes on what happens there.
        blocks.queue(default_concurrency_limit=None, max_size=10 * self._desk.limits.queue)
        # Gradio keeps a copy of all components, 0.4 MB, for each page that was opened: 10,000 of them by default.
        blocks.state_session_capacity = 2 * self._desk.limits.queue
        return blocks

    # --- tabs ---

    def _clip_tab(self, mode: Mode) -> None:
        gr, word = self._gr, self._word
        names = [name for name, one in self._desk.models.items() if mode in one.variant.modes]
        if not names:
            gr.Markdown(word(f"no_model_{mode}"))
            return
        with gr.Row():
            with gr.Column():
                images = self._images(mode)
                prompt = gr.Textbox(label=word("prompt"), placeholder=word("prompt_hint"), max_length=2000)
                with gr.Row():
                    buttons = [
                        gr.Button(
                            visible=False, size="sm", min_width=130, elem_id=f"suggestion_{mode}_{number}"
                        )
                        for number in range(_BUTTONS)
                    ]
                motion = gr.Slider(0, 1, value=0.7, step=0.05, label=word("motion"), info=word("motion_hint"))
                with gr.Row():
                    model, seed = self._model_and_seed(names)
                    sound = gr.Dropdown(
                        [(word("no_sound"), ""), *((name, name) for name in AMBIENCES)],
                        value="",
                        label=word("sound"),
                    )
                with gr.Accordion(word("more"), open=False, elem_id=f"more_{mode}"):
                    negative = gr.Textbox(label=word("negative"), max_length=2000)
                    numbers = self._numbers(mode, "frames", "steps", "cfg")
                self._example_buttons(mode, images, prompt)
            last = images[1:] or [gr.State(None)]
            inputs = [images[0], *last, model, prompt, motion, seed, sound, negative, *numbers]
            self._made_column(mode, partial(self._submit, mode), inputs, seed, prompt)
        plans = gr.State([])
        images[0].change(
            self._suggest,
            [images[0], model],
            [plans, *buttons],
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_limit=1,
        )
        for number, button in enumerate(buttons):
            button.click(
                partial(self._taken, number),
                [plans],
                [prompt, motion, sound],
                api_visibility="private",
                show_progress="hidden",
            )

    def _model_and_seed(self, names: Sequence[str]) -> tuple[Any, Any]:
        gr, word = self._gr, self._word
        model = gr.Dropdown(list(names), value=next(iter(names)), label=word("model"))
        return model, gr.Textbox("", label=word("seed"), placeholder=word("seed_hint"), max_length=20)

    def _numbers(self, mode: str, *names: str) -> list[Any]:
        gr, word = self._gr, self._word
        with gr.Row():
            return [
                gr.Textbox(
                    "",
                    label=word(name),
                    placeholder=word("all_poses" if (mode, name) == ("person", "frames") else "own"),
                    max_length=20,
                    elem_id=f"{name}_{mode}",
                )
                for name in names
            ]

    def _made_column(
        self, mode: str, submit: Submit, inputs: Sequence[Any], seed: Any, prompt: Any = None
    ) -> None:
        """The column with the buttons and the clip that ``submit`` queues for the values of ``inputs``."""
        gr, word = self._gr, self._word
        job = gr.State("")
        with gr.Column():
            with gr.Row():
                make = gr.Button(word("generate"), variant="primary", elem_id=f"generate_{mode}")
                stop = gr.Button(word("cancel"), interactive=False, elem_id=f"cancel_{mode}")
            panel = gr.HTML(elem_id=f"panel_{mode}")
            again = gr.Button(word("again"), visible=False, elem_id=f"again_{mode}")
        another = again.click(lambda: "", None, seed, api_visibility="private").then
        for event in (make.click, another, *([] if prompt is None else [prompt.submit])):
            event(
                self._streamed(partial(self._generate, submit)),
                list(inputs),
                [panel, job, make, stop, again],
                api_visibility="private",
                show_progress="hidden",
                concurrency_limit=None,
            )
        self._on_click(stop, self._asked(self._cancel), [job], None)

    def _story_tab(self) -> None:
        gr, word, examples = self._gr, self._word, self._examples
        names = [name for name, one in self._desk.models.items() if "animate" in one.variant.modes]
        if not names:
            gr.Markdown(word("no_model_animate"))
            return
        with gr.Row():
            with gr.Column():
                images = gr.File(
                    file_count="multiple",
                    file_types=["image"],
                    label=word("story_images"),
                    height=160,
                    elem_id="images_story",
                )
                text = gr.Textbox(
                    label=word("story_text"),
                    info=word("story_hint"),
                    lines=8,
                    max_lines=20,
                    max_length=MOST_TEXT,
                    elem_id="text_story",
                )
                with gr.Row():
                    model, seed = self._model_and_seed(names)
                with gr.Accordion(word("more"), open=False, elem_id="more_story"):
                    numbers = self._numbers("story", "steps", "cfg")
                gr.Markdown(word("examples"))
                with gr.Row():
                    for name, told in (("text", examples.story_text), ("yaml", examples.story_yaml)):
                        button = gr.Button(
                            word(f"example_{name}"),
                            icon=str(examples.story_pictures[0]),
                            size="sm",
                            elem_id=f"example_story_{name}",
                        )
                        filled = [[str(path) for path in examples.story_pictures], told]
                        self._on_click(button, partial(list[Any], filled), None, [images, text])
            self._made_column("story", self._submit_story, [images, text, model, seed, *numbers], seed)

    def _person_tab(self) -> None:
        gr, word, examples = self._gr, self._word, self._examples
        names = list(self._desk.persons)
        if names == [BUILT_IN_PERSON]:
            gr.Markdown(word("tiny_person_only"))
        with gr.Row():
            with gr.Column():
                image = self._images("person")[0]
                with gr.Row():
                    motions = gr.Dropdown(
                        [(word(name), name) for name in examples.poses],
                        value=next(iter(examples.poses)),
                        label=word("poses"),
                        elem_id="poses_person",
                    )
                    model, seed = self._model_and_seed(names)
                own = gr.File(
                    file_types=list(POSE_FILES),
                    label=word("own_poses"),
                    height=150,
                    elem_id="file_person",
                )
                with gr.Accordion(word("more"), open=False, elem_id="more_person"):
                    numbers = self._numbers("person", "frames", "steps", "cfg")
                    fit = gr.Radio(
                        [(word(f"fit_{name}"), name) for name in ("pad", "crop", "stretch")],
                        value="pad",
                        label=word("fit"),
                    )
                gr.Markdown(word("examples"))
                with gr.Row():
                    for name in examples.poses:
                        button = gr.Button(
                            word(name),
                            icon=str(examples.character),
                            size="sm",
                            elem_id=f"example_person_{name}",
                        )
                        filled = [str(examples.character), name]
                        self._on_click(button, partial(list[str], filled), None, [image, motions])
            inputs = [image, motions, own, model, seed, *numbers, fit]
            self._made_column("person", self._submit_person, inputs, seed)

    def _images(self, mode: str) -> list[Any]:
        gr, word = self._gr, self._word
        labels = ("image", "last") if mode == "interpolate" else ("image",)
        with gr.Row():
            return [
                gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    label=word(label),
                    height=280,
                    elem_id=f"{label}_{mode}",
                    buttons=[],
                )
                for label in labels
            ]

    def _example_buttons(self, mode: str, images: Sequence[Any], prompt: Any) -> None:
        gr, word = self._gr, self._word
        gr.Markdown(word("examples"))
        with gr.Row():
            for number, example in enumerate(self._examples.clips):
                button = gr.Button(
                    example.prompt, icon=str(example.first), size="sm", elem_id=f"example_{mode}_{number}"
                )
                filled = [str(example.first), str(example.last)][: len(images)] + [example.prompt]
                self._on_click(button, partial(list[str], filled), None, [*images, prompt])

    def _compare_tab(self) -> None:
        gr, word = self._gr, self._word
        names = [name for name, one in self._desk.models.items() if "animate" in one.variant.modes]
        if not names:
            gr.Markdown(word("no_model_animate"))
            return
        with gr.Row():
            with gr.Column():
                images = self._images("compare")
                prompt = gr.Textbox(label=word("prompt"), placeholder=word("prompt_hint"), max_length=2000)
                self._example_buttons("compare", images, prompt)
            with gr.Column():
                seed = gr.Textbox("1", label=word("seed"), max_length=20)
                both = gr.Button(word("run_compare"), variant="primary", elem_id="generate_compare")
        panels: list[Any] = []
        ways: list[Any] = []
        with gr.Row():
            for way, motion in (("first_way", 0.3), ("second_way", 0.9)):
                with gr.Column():
                    gr.Markdown(word(way))
                    ways += [
                        gr.Dropdown(names, value=names[0], label=word("model")),
                        gr.Slider(0, 1, value=motion, step=0.05, label=word("motion")),
                        gr.Textbox(
                            "",
                            label=word("steps"),
                            placeholder=word("own"),
                            max_length=20,
                            elem_id=f"steps_{way}",
                        ),
                        gr.Textbox("", label=word("cfg"), placeholder=word("own"), max_length=20),
                    ]
                    panels.append(gr.HTML(elem_id=f"panel_{way}"))
        both.click(
            self._streamed(self._compare),
            [images[0], prompt, seed, *ways],
            [*panels, both],
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=None,
        )

    def _history_tab(self, tab: Any) -> None:
        gr, word = self._gr, self._word
        with gr.Row():
            refresh = gr.Button(word("refresh"), elem_id="refresh")
            delete = gr.Button(word("delete_all"), variant="stop", elem_id="delete_all")
        panel = gr.HTML(elem_id="clips")
        history, delete_all = self._asked(self._history), self._asked(self._delete_all)
        self._on_click(refresh, history, None, panel)
        self._on_click(delete, delete_all, None, panel)
        tab.select(history, None, panel, api_visibility="private", show_progress="hidden")

    def _on_click(self, button: Any, function: Any, inputs: Any, outputs: Any) -> None:
        button.click(function, inputs, outputs, api_visibility="private", show_progress="hidden")

    def _asked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose first argument is the request, as Gradio recognises it: by the annotation."""

        def asked(request: Any, *values: Any) -> Any:
            return function(request, *values)

        asked.__annotations__["request"] = self._gr.Request
        return asked

    def _streamed(self, function: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        """The same for a function that yields updates."""

        async def streamed(request: Any, *values: Any) -> AsyncIterator[Any]:
            async for update in function(request, *values):
                yield update

        streamed.__annotations__["request"] = self._gr.Request
        return streamed

    # --- what happens ---

    async def _generate(self, submit: Submit, request: Any, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        gr, texts = self._gr, _texts(request)
        idle = (gr.update(interactive=True), gr.update(interactive=False))
        try:
            ticket = await asyncio.to_thread(submit, values, request, texts)
        except DynamiCrafterError as problem:
            yield failure_panel(problem, texts), "", *idle, gr.update()
            return
        busy = (gr.update(interactive=False), gr.update(interactive=True), gr.update(visible=False))
        async for shown in self._watch(ticket, texts):
            yield shown, ticket.identifier, *busy
        yield self._ended(ticket, texts), "", *idle, gr.update(visible=True)

    def _submit(self, mode: Mode, values: Sequence[Any], request: Any, texts: Texts) -> Ticket:
        first, last, model, prompt, motion, seed, sound, negative, frames, steps, cfg = values
        pictures = [first, last] if mode == "interpolate" else [first]
        for picture, need in zip(pictures, ("need_image", "need_last"), strict=False):
            if picture is None:
                raise UsageError(texts[need])
        wish = Wish(
            mode=mode,
            pictures=tuple(pictures),
            model=model,
            prompt=prompt or "",
            negative=negative or "",
            motion=motion,
            seed=whole_number("seed", seed),
            frames=whole_number("frames", frames),
            steps=whole_number("steps", steps),
            cfg=_number("cfg", cfg),
            sound=sound or "",
        )
        return self._desk.submit(_visitor(request), wish)

    def _submit_story(self, values: Sequence[Any], request: Any, texts: Texts) -> Ticket:
        images, text, model, seed, steps, cfg = values
        if not images:
            raise UsageError(texts["need_images"])
        wish = StoryWish(
            text=text or "",
            pictures=tuple(images),
            model=model,
            seed=whole_number("seed", seed),
            steps=whole_number("steps", steps),
            cfg=_number("cfg", cfg),
        )
        return self._desk.submit_story(_visitor(request), wish)

    def _submit_person(self, values: Sequence[Any], request: Any, texts: Texts) -> Ticket:
        image, motion, own, model, seed, frames, steps, cfg, fit = values
        if image is None:
            raise UsageError(texts["need_image"])
        poses = self._examples.poses
        if own is None and motion not in poses:
            raise UsageError(f"there is no motion {str(motion)[:80]!r}; they are {', '.join(poses)}")
        wish = PersonWish(
            picture=image,
            poses=own or str(poses[motion]),
            model=model,
            seed=whole_number("seed", seed),
            frames=whole_number("frames", frames),
            steps=whole_number("steps", steps),
            cfg=_number("cfg", cfg),
            fit=fit,
        )
        return self._desk.submit_person(_visitor(request), wish)

    async def _watch(self, ticket: Ticket, texts: Texts) -> AsyncIterator[str]:
        """What is shown of a clip until it ends, whenever that changes."""
        seen: object = None
        while not ticket.ended:
            news = self._news(ticket)
            if news != seen:
                seen = news
                yield await asyncio.to_thread(progress_panel, ticket, self._desk.line, texts)
            await asyncio.sleep(_LOOK)

    def _news(self, ticket: Ticket) -> object:
        """What is shown of a clip changes with this."""
        return (ticket.state, ticket.work, ticket.done, ticket.shown, self._desk.line.place(ticket))

    def _ended(self, ticket: Ticket, texts: Texts) -> str:
        if ticket.state != "done":
            return progress_panel(ticket, self._desk.line, texts)
        result = self._result(ticket)
        return quoted(texts["gone"]) if result is None else result_panel(result, self._root, texts)

    def _result(self, ticket: Ticket) -> Result | None:
        found = self._desk.shelf.history(ticket.visitor)
        return next((result for result in found if result.job == ticket.identifier), None)

    async def _compare(self, request: Any, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        gr, texts = self._gr, _texts(request)
        image, prompt, seed, *ways = values
        tickets: list[Ticket] = []
        try:
            self._desk.line.check(_visitor(request).owner, 2)
            for model, motion, steps, cfg in (ways[:4], ways[4:]):
                chosen = (image, None, model, prompt, motion, seed, "", "", None, steps, cfg)
                tickets.append(await asyncio.to_thread(self._submit, "animate", chosen, request, texts))
        except DynamiCrafterError as problem:
            for ticket in tickets:
                self._desk.line.cancel(ticket)
            yield failure_panel(problem, texts), "", gr.update(interactive=True)
            return
        seen: list[object] = [None] * len(tickets)
        shown = [""] * len(tickets)
        while not all(ticket.ended for ticket in tickets):
            news = [self._news(ticket) for ticket in tickets]
            for number, ticket in enumerate(tickets):
                if news[number] != seen[number]:
                    shown[number] = await asyncio.to_thread(progress_panel, ticket, self._desk.line, texts)
            if news != seen:
                seen = news
                yield *shown, gr.update(interactive=False)
            await asyncio.sleep(_LOOK)
        yield *(self._ended(ticket, texts) for ticket in tickets), gr.update(interactive=True)

    def _cancel(self, request: Any, job: str) -> None:
        self._desk.cancel(_visitor(request), job)

    def _suggest(self, image: str | None, model: str) -> list[Any]:
        gr = self._gr
        try:
            plans = [] if image is None else self._desk.suggest(image, model)[:_BUTTONS]
        except DynamiCrafterError:
            # The image is told to be wrong when a clip is to be made from it.
            plans = []
        chosen = [(plan.prompt, plan.motion, _ambience(plan.sound)) for plan in plans]
        shown = [gr.update(value=plan.prompt, visible=True) for plan in plans]
        return [chosen, *shown, *(gr.update(visible=False) for _ in range(_BUTTONS - len(plans)))]

    def _taken(self, number: int, plans: Sequence[Any]) -> Sequence[Any]:
        """The prompt, motion and sound of a suggestion; those that are there if Gradio has forgotten the page."""
        return plans[number] if number < len(plans) else [self._gr.skip()] * 3

    def _history(self, request: Any) -> str:
        results = self._desk.shelf.history(_visitor(request).identifier)
        return history_panel(results[:_LISTED], self._root, _texts(request))

    def _delete_all(self, request: Any) -> str:
        self._desk.forget_all(_visitor(request))
        return f'<div role="status">{quoted(_texts(request)["deleted"])}</div>'

    def _show_models(self, request: Any) -> str:
        return models_panel([*self._desk.models, *self._desk.persons], missing_models(), _texts(request))

    # --- the HTTP API ---

    def _api(self) -> None:
        """The addresses that ``gradio_client`` calls; docs/serve.md describes them."""
        gr = self._gr

        def submit(
            request: Any,
            image: Any,
            last: Any = None,
            mode: Any = "animate",
            model: Any = "",
            prompt: Any = "",
            negative: Any = "",
            motion: Any = None,
            seed: Any = None,
            frames: Any = None,
            steps: Any = None,
            cfg: Any = None,
            sound: Any = "",
        ) -> dict[str, Any]:
            chosen = model or next(iter(self._desk.models))
            values = (image, last, chosen, prompt, motion, seed, sound, negative, frames, steps, cfg)
            with self._told():
                return self._state_of(self._submit(mode, values, request, TEXTS["en"]))

        def state(request: Any, job: Any) -> dict[str, Any]:
            with self._told():
                return self._state_of(self._ticket(request, job))

        def cancel(request: Any, job: Any) -> dict[str, Any]:
            with self._told():
                ticket = self._ticket(request, job)
                self._desk.line.cancel(ticket)
                return self._state_of(ticket)

        def story(
            request: Any,
            images: Any,
            text: Any,
            model: Any = "",
            seed: Any = None,
            steps: Any = None,
            cfg: Any = None,
        ) -> dict[str, Any]:
            chosen = model or next(iter(self._desk.models))
            with self._told():
                values = (images, text, chosen, seed, steps, cfg)
                return self._state_of(self._submit_story(values, request, TEXTS["en"]))

        def person(
            request: Any,
            image: Any,
            motion: Any = "walking",
            poses: Any = None,
            model: Any = "",
            seed: Any = None,
            frames: Any = None,
            steps: Any = None,
            cfg: Any = None,
            fit: Any = "pad",
        ) -> dict[str, Any]:
            chosen = model or next(iter(self._desk.persons))
            with self._told():
                values = (image, motion, poses, chosen, seed, frames, steps, cfg, fit)
                return self._state_of(self._submit_person(values, request, TEXTS["en"]))

        for function in (submit, state, cancel, story, person):
            function.__annotations__["request"] = gr.Request
        answer, hidden = gr.JSON(visible=False), gr.Button(visible=False)
        numbers = [
            gr.Number(None, visible=False, label=name, precision=None if name in ("motion", "cfg") else 0)
            for name in ("motion", "seed", "frames", "steps", "cfg")
        ]
        images = [
            gr.Image(type="filepath", image_mode=None, visible=False, label=name)
            for name in ("image", "last")
        ]
        mode, model, prompt, negative, sound, text, pose, fit = (
            gr.Textbox(value, visible=False, label=name)
            for name, value in (
                ("mode", "animate"),
                ("model", ""),
                ("prompt", ""),
                ("negative", ""),
                ("sound", ""),
                ("text", ""),
                ("motion", "walking"),
                ("fit", "pad"),
            )
        )
        pictures = gr.File(file_count="multiple", file_types=["image"], visible=False, label="images")
        poses = gr.File(file_types=list(POSE_FILES), visible=False, label="poses")
        job = gr.Textbox(visible=False, label="job")
        inputs = [*images, mode, model, prompt, negative, *numbers, sound]
        hidden.click(submit, inputs, answer, api_name="submit", concurrency_limit=None)
        hidden.click(state, job, answer, api_name="state", concurrency_limit=None)
        hidden.click(cancel, job, answer, api_name="cancel", concurrency_limit=None)
        _, seed, frames, steps, cfg = numbers
        if self._desk.line.does_tasks:
            told = [pictures, text, model, seed, steps, cfg]
            hidden.click(story, told, answer, api_name="story", concurrency_limit=None)
        if self._desk.persons:
            moved = [images[0], pose, poses, model, seed, frames, steps, cfg, fit]
            hidden.click(person, moved, answer, api_name="person", concurrency_limit=None)

    @contextmanager
    def _told(self) -> Generator[None]:
        """Errors as Gradio's, whose message its clients get."""
        try:
            yield
        except DynamiCrafterError as problem:
            raise self._gr.Error(said(problem), print_exception=False) from problem

    def _ticket(self, request: Any, job: str) -> Ticket:
        ticket = self._desk.line.find(_visitor(request).identifier, job)
        if ticket is None:
            raise UsageError("there is no such job of yours; submit one first, with the same cookie")
        return ticket

    def _state_of(self, ticket: Ticket) -> dict[str, Any]:
        """What the API tells of a clip."""
        problem = ticket.problem
        files = {
            kind: f"{self._root}/results/{ticket.identifier}/clip.{kind}" for kind in self._desk.files(ticket)
        }
        return {
            "job": ticket.identifier,
            "state": ticket.state,
            "place": self._desk.line.place(ticket),
            "work": ticket.work,
            "done": ticket.done,
            "total": ticket.total,
            "seconds": round(ticket.seconds, 1),
            "error": "" if problem is None else said(problem),
            "files": files if ticket.state == "done" else {},
            "settings": dict(ticket.settings),
        }


def _visitor(request: Any) -> Visitor:
    """Who asks, as the door has found out."""
    return Visitor(request.headers[VISITOR.decode()], request.headers[OWNER.decode()])


def _texts(request: Any) -> Texts:
    return TEXTS[language_of(request.headers.get("accept-language", ""))]


def _number(name: str, given: object) -> float | None:
    """A number that may be a text; None for an empty one."""
    if given is None or given == "":
        return None
    try:
        return float(given) if isinstance(given, (str, int, float)) else float("nan")
    except ValueError:
        raise UsageError(f"{name} must be a number, but {str(given)[:40]!r} was given; correct it") from None


def whole_number(name: str, given: object) -> int | None:
    """A whole number that may be a text, exact however large; None for an empty one."""
    # Seeds may be too large for a float.
    with suppress(ValueError):
        if isinstance(given, (str, int)):
            return int(given)
    number = _number(name, given)
    if number is not None and not number.is_integer():
        raise UsageError(f"{name} must be a whole number, but {str(given)[:40]!r} was given; correct it")
    return None if number is None else int(number)


def _ambience(cue: str) -> str:
    return ambience_for(cue) or ""
