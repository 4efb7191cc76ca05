"""How the command phrases the remedies of errors."""

from __future__ import annotations

from ..errors import Words

WORDS: Words = {
    "check_model": "check the path, or use a name from 'dynamicrafter models'",
    "choose_model": "'dynamicrafter models' lists the models and their uses",
    "download": "download them with 'dynamicrafter download {}'",
    "drop_variant": "omit --variant or choose another file",
    "fetch": "use --fetch to let the package download them ({})",
    "lower_cfg": "use a lower --cfg, or a checkpoint that is not damaged",
    "name_encoder": "pass --{}-encoder FILE",
    "name_i3d": "specify it with --i3d or place it at {}",
    "name_towers": "download them with 'dynamicrafter download {}' or specify a file with --towers",
    "name_variant": "specify it with --variant NAME",
    "skip_learned": "delete its weights and download them again, or skip it with --plain",
    "widen_dtype": "load the model with --dtype float32 or bfloat16",
}
