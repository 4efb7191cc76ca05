"""How the command says what to do about an error."""

from __future__ import annotations

from ..errors import Words

WORDS: Words = {
    "check_model": "check the path, or give a name from 'dynamicrafter models'",
    "choose_model": "'dynamicrafter models' lists the models and what each is for",
    "download": "fetch them with 'dynamicrafter download {}'",
    "drop_variant": "leave --variant out or choose another file",
    "fetch": "--fetch lets the package download them ({})",
    "lower_cfg": "use a smaller --cfg, or a checkpoint that is not damaged",
    "name_encoder": "pass --{}-encoder FILE",
    "name_i3d": "give it with --i3d or put it at {}",
    "name_towers": "fetch them with 'dynamicrafter download {}' or give a file with --towers",
    "name_variant": "say which with --variant NAME",
    "skip_learned": "remove its weights and fetch them again, or leave it out with --plain",
    "widen_dtype": "load the model with --dtype float32 or bfloat16",
}
