"""The recipe of the model of persons: pools, batches, the loss and what is trained in which phase."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamicrafter.animate_anyone.config import PairConfig, PersonConfig, PoseGuiderConfig
from dynamicrafter.animate_anyone.layout import PARTS
from dynamicrafter.animate_anyone.pose_guider import PoseGuider
from dynamicrafter.animate_anyone.weights import load_person, person_tensors
from dynamicrafter.cartoon import pools, tiny_person
from dynamicrafter.cartoon.pools import (
    CLIP_FRAMES,
    VIEWS,
    CharacterPool,
    kept_characters,
    make_pool,
    pool_draw,
)
from dynamicrafter.cartoon.tiny_person import (
    TINY_PERSON,
    condition_gauge,
    export_person,
    person_loss,
)
from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.configs import VaeConfig
from dynamicrafter.training.person import PersonLoss, choose_phase, high_timesteps, scale_pose_guider

SMALL = PersonConfig(
    pair=PairConfig(widths=(32, 32), blocks=1, heads=4, context_dim=16, norm_groups=8),
    pose_guider=PoseGuiderConfig(widths=(4, 4, 8, 8), out_channels=32),
    embedder=TINY_PERSON.embedder,
    vae=VaeConfig(channels=8, channel_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pool(characters: int, views: int) -> CharacterPool:
    """Small images of noise."""
    poses = torch.randint(0, 256, (characters, views, 3, 32, 16), generator=seeded(), dtype=torch.uint8)
    return CharacterPool(torch.randn(characters, views, 4, 4, 2, generator=seeded()), poses)


def awakened(loss: PersonLoss, but: str = ".attn2.") -> PersonLoss:
    """``loss`` with other values where training starts from zeros, except in weights with ``but`` in their names."""
    with torch.no_grad():
        for name, parameter in loss.named_parameters():
            if but not in name and not parameter.any():
                parameter.normal_(std=0.05, generator=seeded(len(name)))
    return loss


@pytest.fixture(scope="module")
def loss() -> PersonLoss:
    """Networks whose outputs are not zero."""
    return awakened(person_loss(SMALL, 0, random_pool(2, 2).poses[:, 0], motion=True))


def test_a_pool_holds_one_character_a_row() -> None:
    vae = Autoencoder(TINY_PERSON.vae)
    images = make_pool(vae, 2, 5)
    assert images.latents.shape == (2, VIEWS, 4, 24, 16)
    assert images.poses.shape == (2, VIEWS, 3, 192, 128)
    assert torch.equal(make_pool(vae, 1, 5).poses, images.poses[:1])
    clips = make_pool(vae, 1, 5, clips=True)
    assert clips.latents.shape[1] == 1 + CLIP_FRAMES
    step = (clips.poses[0, 1].float() - clips.poses[0, 2].float()).abs().mean()
    jump = (clips.poses[0, 0].float() - clips.poses[0, 2].float()).abs().mean()
    assert 0 < step < jump


def test_a_pool_is_made_once(tmp_path: Path) -> None:
    made = kept_characters(tmp_path, "test", lambda: random_pool(1, 2))

    def never() -> CharacterPool:
        raise AssertionError("made again")

    assert torch.equal(kept_characters(tmp_path, "test", never).latents, made.latents)


def test_batches_of_images_share_a_reference() -> None:
    pool = random_pool(5, VIEWS)
    batch = pool_draw(pool, 2, 16)(seeded())
    assert batch["latents"].shape == (6, 4, 1, 4, 2)
    assert batch["noise"].shape == batch["latents"].shape
    assert batch["poses"].shape == (6, 3, 1, 32, 16)
    assert batch["seen"].shape == (2, 4, 4, 2)
    # The reference and its targets are the views of one character, each once.
    for number in range(2):
        rows = [batch["seen"][number], *batch["latents"][3 * number : 3 * number + 3, :, 0]]
        owner = [c for c in range(5) if any(torch.equal(v, rows[0]) for v in pool.latents[c])]
        views = [[torch.equal(row, view) for view in pool.latents[owner[0]]].index(True) for row in rows]
        assert sorted(views) == list(range(VIEWS))
    target = batch["latents"][0, :, 0]
    place = (pool.latents == target).flatten(2).all(2).nonzero()[0]
    assert torch.equal(batch["poses"][0, :, 0], pool.poses[place[0], place[1]])


def test_batches_of_clips_keep_the_order_of_frames() -> None:
    pool = random_pool(3, 5)
    batch = pool_draw(pool, 2, 16, clips=True)(seeded())
    assert batch["latents"].shape == (2, 4, 4, 4, 2)
    assert batch["poses"].shape == (2, 3, 4, 32, 16)
    assert batch["t"].shape == (2,)
    owner = (pool.latents[:, 0] == batch["seen"][0]).flatten(1).all(1).nonzero()[0, 0]
    assert torch.equal(batch["latents"][0].movedim(1, 0), pool.latents[owner, 1:])
    assert torch.equal(batch["poses"][0].movedim(1, 0), pool.poses[owner, 1:])


def test_a_tenth_of_the_references_is_withheld() -> None:
    draw = pool_draw(random_pool(4, VIEWS), 4, 16)
    kept = torch.cat([draw(seeded(seed))["kept"] for seed in range(100)])
    assert 0.82 < float(kept.float().mean()) < 0.96


def test_high_timesteps_are_frequent_and_the_last_one_is_in_each_batch() -> None:
    drawn = torch.stack([high_timesteps(12, seeded(seed)) for seed in range(200)])
    assert (drawn[:, 0] == 999).all()
    # 45 %, and a fifth of the rest
    assert float((drawn[:, 1:] >= 800).float().mean()) == pytest.approx(0.56, abs=0.03)
    assert int(drawn.min()) < 30


@torch.no_grad()
def test_rows_without_a_reference_are_those_of_plain_attention(loss: PersonLoss) -> None:
    batch = pool_draw(random_pool(4, VIEWS), 2, 16)(seeded())
    given = [batch[key] for key in ("latents", "t", "poses", "seen", "context")]

    def predicted(*kept: bool) -> Tensor:
        return loss.predict(*given, torch.tensor(kept))

    all_, none, first = predicted(True, True), predicted(False, False), predicted(True, False)
    assert torch.allclose(first[:3], all_[:3], atol=1e-5)
    assert torch.allclose(first[3:], none[3:], atol=1e-5)
    assert not torch.allclose(all_, none, atol=1e-3)
    plain = loss.denoising(
        batch["latents"], batch["t"], torch.zeros(6, 1, 16), loss.pose_guider(batch["poses"] / 255)
    )
    assert torch.allclose(none, plain, atol=1e-5)


@torch.no_grad()
def test_each_row_attends_to_its_own_reference(loss: PersonLoss) -> None:
    batch = pool_draw(random_pool(4, VIEWS), 2, 16)(seeded())
    changed = batch["seen"].clone()
    changed[1] += 1
    batch["kept"][:] = True
    before = loss.predict(*(batch[key] for key in ("latents", "t", "poses", "seen", "context", "kept")))
    after = loss.predict(
        *(batch[key] for key in ("latents", "t", "poses")), changed, batch["context"], batch["kept"]
    )
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:], atol=1e-3)


@pytest.mark.parametrize("phase", ["pictures", "motion"])
def test_every_trained_weight_has_an_effect(loss: PersonLoss, phase) -> None:
    choose_phase(loss, phase, whole_reference=True)
    loss.zero_grad()
    loss(**pool_draw(random_pool(4, 5), 2, 16, clips=phase == "motion")(seeded())).backward()
    trained = {name: p.grad is not None for name, p in loss.named_parameters() if p.requires_grad}
    assert all(("motion_modules" in name) == (phase == "motion") for name in trained)
    assert [name for name, reached in trained.items() if not reached] == []
    choose_phase(loss, phase)
    last = [
        name for name, p in loss.named_parameters() if p.requires_grad and "reference.up_blocks.1" in name
    ]
    assert last == []


def test_every_weight_takes_part_where_all_references_are_withheld(loss: PersonLoss) -> None:
    choose_phase(loss, "pictures", whole_reference=True)
    loss.zero_grad()
    batch = pool_draw(random_pool(4, VIEWS), 2, 16)(seeded())
    batch["kept"][:] = False
    loss(**batch).backward()
    assert [n for n, p in loss.named_parameters() if p.requires_grad and p.grad is None] == []


def test_poses_differ_from_the_start() -> None:
    drawings = random_pool(8, 1).poses.float() / 255
    plain, scaled = PoseGuider(TINY_PERSON.pose_guider), PoseGuider(TINY_PERSON.pose_guider)
    scale_pose_guider(scaled, drawings.movedim(1, 2))
    made = [guider(drawings.movedim(1, 2)).detach() for guider in (plain, scaled)]
    assert float(made[1].std((0, 2, 3, 4)).mean()) > 0.5
    apart = [float((each[0] - each[1]).abs().mean()) for each in made]
    assert apart[1] > 100 * apart[0]


def test_motion_begins_where_the_images_ended() -> None:
    pool = random_pool(2, VIEWS)
    first = awakened(person_loss(SMALL, 0, pool.poses[:, 0], motion=False))
    second = person_loss(SMALL, 1, pool.poses[:, 0], motion=True)
    second.load_state_dict(second.state_dict() | first.state_dict())
    batch = pool_draw(pool, 2, 16)(seeded())
    before = float(first(**batch).detach())
    assert float(second(**batch).detach()) == pytest.approx(before, rel=1e-5)
    awakened(second, but="nothing")
    assert float(second(**batch).detach()) != pytest.approx(before, rel=1e-5)


def test_the_gauge_compares_conditions() -> None:
    pool = random_pool(3, VIEWS)
    untrained = person_loss(SMALL, 0, pool.poses[:, 0], motion=False)
    gauge = condition_gauge(pool, clips=False)
    without_effect = gauge(untrained)
    assert list(without_effect) == ["true", "other_pose", "other_reference"]
    assert len(set(without_effect.values())) == 1
    assert len(set(gauge(awakened(untrained)).values())) == 3


def test_the_file_is_small() -> None:
    numbers = sum(e.numel for part in PARTS for e in person_tensors(TINY_PERSON, part).values())
    assert 2 * numbers < 20e6


def test_stages_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="training needs accelerate")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for name in ("PERSON_VAE", "PERSON_PICTURES", "PERSON_MOTION", "PERSON_DECODER"):
        monkeypatch.setattr(tiny_person, name, replace(getattr(tiny_person, name), steps=1, precision="no"))
    monkeypatch.setattr(tiny_person, "TINY_PERSON", SMALL)
    monkeypatch.setattr(tiny_person, "tiny_autoencoder", lambda: Autoencoder(SMALL.vae))
    for name in ("_CHARACTERS", "_CLIPS", "_GAUGED"):
        monkeypatch.setattr(tiny_person, name, 2)
    monkeypatch.setattr(
        tiny_person, "still_pictures", lambda *_: torch.randn(2, 3, 64, 64, generator=seeded())
    )
    monkeypatch.setattr(tiny_person, "character_draw", lambda _: _tiny_draw)
    monkeypatch.setattr(
        tiny_person,
        "make_pool",
        lambda *_, clips=False: random_pool(2, 1 + pools.CLIP_FRAMES if clips else VIEWS),
    )
    heard: list[str] = []
    path = tiny_person.train_tiny_person(tmp_path, lambda stage, _: heard.append(stage))
    assert list(dict.fromkeys(heard)) == ["vae", "pictures", "motion", "decoder"]
    model = load_person(path)
    assert model.config == SMALL
    motion = torch.load(tmp_path / "motion.pt", weights_only=True)
    for name, value in model.denoising.named_parameters():
        assert torch.equal(value, motion[f"denoising.{name}"].half().float()), name
    first = path.read_bytes()
    export_person(tmp_path, path)
    assert path.read_bytes() == first


def _tiny_draw(generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "pictures": torch.rand(1, 3, 64, 64, generator=generator),
        "noise": torch.randn(1, 4, 8, 8, generator=generator),
    }
