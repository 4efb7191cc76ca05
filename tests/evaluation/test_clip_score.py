"""The towers run to their ends give what open_clip gives, whichever file they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dynamicrafter.api import ModelFiles
from dynamicrafter.errors import CheckpointError
from dynamicrafter.evaluation.clip_score import find_towers, load_scorer
from dynamicrafter.evaluation.learned import Learned, measure_learned
from dynamicrafter.model.configs import TextConfig, VisionConfig
from dynamicrafter.model.encoders import clip_pixels, tokenize
from dynamicrafter.model.variants import V512

TEXT = TextConfig(width=32, layers=2, heads=2)
VISION = VisionConfig(width=48, layers=2, heads=3, patch=16, image_size=32)


@pytest.fixture(scope="module")
def whole() -> Any:
    """open_clip's own model of the same small sizes, with a block more of text than checkpoints run."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(3)
    vision = CLIPVisionCfg(layers=2, width=48, head_width=16, patch_size=16, image_size=32)
    model = CLIP(24, vision, CLIPTextCfg(context_length=77, width=32, heads=2, layers=3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def tensors(model: Any, words: str = "", sight: str = "") -> dict[str, torch.Tensor]:
    named: Mapping[str, torch.Tensor] = model.state_dict()
    return {
        (sight if name.startswith("visual.") else words) + name: value.contiguous()
        for name, value in named.items()
        if name != "attn_mask"
    }


@pytest.mark.parametrize(("words", "sight"), [("", ""), ("cond_stage_model.model.", "embedder.model.")])
def test_both_towers_agree_with_open_clip(whole: Any, tmp_path: Path, words: str, sight: str) -> None:
    path = tmp_path / "towers.safetensors"
    save_file(tensors(whole, words, sight), path)
    scorer = load_scorer(path, text=TEXT, vision=VISION)
    pictures = torch.rand(18, 3, 40, 56, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompts = ["a red circle moves right", "", "waves"]
    with torch.inference_mode():
        seen = whole.encode_image(clip_pixels(pictures, 32), normalize=True)
        read = whole.encode_text(tokenize(prompts), normalize=True)
    torch.testing.assert_close(scorer.see(pictures), seen, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scorer.read(prompts), read, atol=1e-5, rtol=1e-4)


def test_the_scores_are_cosines_in_hundredths(whole: Any, tmp_path: Path) -> None:
    path = tmp_path / "towers.safetensors"
    save_file(tensors(whole), path)
    scorer = load_scorer(path, text=TEXT, vision=VISION)
    clip = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(2)) * 2 - 1
    figures = measure_learned(clip, Learned(clip_score=scorer), "waves", clip[1])
    seen, read = scorer.see(clip), scorer.read(["waves"])
    assert figures["prompt to frames, CLIP score"] == pytest.approx(
        float(100 * (seen @ read[0]).clamp(min=0).mean()), abs=1e-3
    )
    wanted = float(100 * (seen @ seen[1]).mean())
    assert figures["picture to frames, CLIP score"] == pytest.approx(wanted, abs=1e-3)
    frozen = measure_learned(clip[:1].repeat(4, 1, 1, 1), Learned(clip_score=scorer), "", clip[0])
    assert frozen["frame to next frame, CLIP score"] == pytest.approx(100, abs=1e-3)
    assert frozen["picture to frames, CLIP score"] == pytest.approx(100, abs=1e-3)
    assert "prompt to frames, CLIP score" not in frozen


def test_a_file_without_the_ends_is_refused(whole: Any, tmp_path: Path) -> None:
    cut = {name: value for name, value in tensors(whole).items() if name != "visual.proj"}
    path = tmp_path / "cut.safetensors"
    save_file(cut, path)
    with pytest.raises(CheckpointError, match="does not contain both complete CLIP encoders"):
        load_scorer(path, text=TEXT, vision=VISION)
    with pytest.raises(CheckpointError, match="lacks CLIP's last text block or its projections"):
        find_towers(None, path)


def test_whole_towers_are_found_with_the_model_or_not_at_all(tmp_path: Path, small_weights: Path) -> None:
    assert find_towers(None) is None
    assert find_towers(ModelFiles(small_weights)) is None
    names = {
        "text_projection": torch.zeros(V512.text.width, 1),
        "transformer.resblocks.23.mlp.c_proj.weight": torch.zeros(1),
        "visual.conv1.weight": torch.zeros(1),
        "visual.proj": torch.zeros(1),
        "visual.ln_post.weight": torch.zeros(1),
        "visual.ln_post.bias": torch.zeros(1),
    }
    towers = tmp_path / "towers.safetensors"
    save_file(names, towers)
    assert find_towers(None, towers) == towers
    assert find_towers(ModelFiles(small_weights, text_encoder=towers)) == towers
