"""Records what doctor compares the built-in model with; to be run only if the model or the trial itself changes."""

from __future__ import annotations

from safetensors.torch import save_file

from dynamicrafter.api import load
from dynamicrafter.cli.trial import GOLDEN, GOLDEN_STEPS, run_trial


def main() -> None:
    """Write the golden of ``tiny`` on the CPU in float32."""
    trial = run_trial(load("tiny", device="cpu", dtype="float32"), GOLDEN_STEPS)
    save_file({"latents": trial.latents.contiguous()}, GOLDEN)


if __name__ == "__main__":
    main()
