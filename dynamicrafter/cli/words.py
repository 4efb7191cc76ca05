"""How the command phrases the remedies of errors."""

from __future__ import annotations

from ..errors import Words
from ..model.variants import Mode

WORDS: Words = {
    "check_model": "check the path, or use a name from 'dynamicrafter models'",
    "choose_model": "'dynamicrafter models' lists the models and their uses",
    "describe_motion": "choose another model with --model, or describe the motion to 'animate' with --prompt",
    "download": "download them with 'dynamicrafter download {}'",
    "drop_variant": "omit --variant or choose another file",
    "export": "export it with 'dynamicrafter export {}'",
    "export_person": "export it with 'dynamicrafter export {}'",
    "fetch": "use --fetch to let the package download them ({})",
    "find_poses": "use a JSON file, or --detect for a clip of a person",
    "lower_cfg": "use a lower --cfg, or a checkpoint that is not damaged",
    "measure_latents": "measure them with 'dynamicrafter statistics FOLDER'",
    "name_backend": "pass --backend openvino",
    "name_between": "pass --between-model as well, such as 512_interp",
    "name_encoder": "pass --{}-encoder FILE",
    "name_i3d": "specify it with --i3d or place it at {}",
    "name_lora": "pass --model and --lora FILE instead",
    "name_mask": "pass --mask FILE",
    "name_model": "specify it with --model NAME or FILE",
    "name_output": "choose another name for the clip with --output",
    "name_picture": "pass --picture FILE for every image",
    "name_poses": "pass --poses FILE",
    "name_reference": "pass --fit-to FILE",
    "name_towers": "download them with 'dynamicrafter download {}' or specify a file with --towers",
    "name_variant": "specify it with --variant NAME",
    "name_video": "pass --video FILE",
    "place_beside": "put the {} next to the clip",
    "skip_learned": "delete its weights and download them again, or skip it with --plain",
    "widen_dtype": "load the model with --dtype float32 or bfloat16",
}

_RELEASED: dict[Mode, str] = {"animate": "512", "interpolate": "512_interp", "loop": "512_interp"}
"""A released model for each mode, by its name in the catalogue."""


TINY_PERSON_KNOWS = (
    "the built-in tiny_person model knows cartoon characters of its own world only; to move real persons, download "
    "AnimateAnyone with 'dynamicrafter download animate_anyone' and pass --model animate_anyone"
)
"""The note that the built-in model of persons is not for real images."""


def tiny_knows(mode: Mode) -> str:
    """The note that the built-in model is not for real images, with the name of one that is trained for ``mode``."""
    name = _RELEASED[mode]
    return (
        f"the built-in tiny model knows coloured shapes only; to {mode} real images, download a released model with "
        f"'dynamicrafter download {name}' and pass --model {name}"
    )
