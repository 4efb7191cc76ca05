"""The catalogue: what it lists agrees with itself, and every name leads somewhere or to a suggestion."""

from __future__ import annotations

import re

import pytest

from dynamicrafter.errors import UsageError
from dynamicrafter.model.variants import VARIANTS
from dynamicrafter.weights.catalogue import ALL_RELEASES, RELEASES, TOWERS, Release, find, with_requirements

# Parameters of the released networks: UNet, VAE and resampler; those with both CLIP towers as the originals
# keep them; the two complete CLIP towers alone; what ToonCrafter's decoder has more than the ordinary one.
PRUNED = 1_438_854_980 + 83_653_863 + 48_787_456
FULL = 2_609_142_405
CLIP = 986_109_441
TOON = 99_941_907 - 83_653_863


def parameters(release: Release) -> int:
    if release.kind == "towers":
        return CLIP
    return (FULL if release.contains_towers else PRUNED) + (TOON if "toon" in release.name else 0)


NOT_OFFERED = {"small", "tiny", "viewcrafter_25"}
"""Variants of no release: those of the package's own models, and ViewCrafter's, of whose file no hash is known."""


def test_names_and_files_are_unique() -> None:
    assert len({release.name for release in ALL_RELEASES}) == len(ALL_RELEASES)
    assert len({release.url for release in ALL_RELEASES}) == len(ALL_RELEASES)


def test_every_real_variant_has_a_release_and_every_release_a_real_variant() -> None:
    offered = {release.variant for release in RELEASES if release.kind == "model"}
    assert offered == set(VARIANTS) - NOT_OFFERED


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_size_fits_what_the_file_is_said_to_hold(release: Release) -> None:
    """Precision and towers are claims about a file's size; names and headers add at most a thousandth."""
    weights = parameters(release) * (4 if release.precision == "fp32" else 2)
    assert release.size_gb == pytest.approx(weights / 1e9, rel=5e-3)
    if release.size_bytes is not None:
        assert weights < release.size_bytes < weights * 1.001
        digits = 2 if release.size_gb < 10 else 1
        assert release.size_gb == round(release.size_bytes / 1e9, digits)


@pytest.mark.parametrize("release", ALL_RELEASES, ids=lambda release: release.name)
def test_fields_are_well_formed(release: Release) -> None:
    assert release.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", release.sha256)
    assert re.fullmatch(r"main|[0-9a-f]{40}", release.revision)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", release.repository)
    assert release.licence
    assert release.purpose
    assert release.url == f"{release.source}/resolve/{release.revision}/{release.filename}"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("animate_anyone", 859_520_964),
        ("animate_anyone_motion", 454_417_600),
        ("animate_anyone_reference", 859_508_800),
        ("animate_anyone_pose_guider", 1_086_480),
        ("sd_vae_ft_mse", 83_653_863),
        ("sd_image_variations_encoder", 303_966_208),
    ],
)
def test_sizes_of_a_person_are_those_of_its_tensors(name: str, count: int) -> None:
    release = find(name)
    assert release.size_gb == pytest.approx(4 * count / 1e9, rel=0.1 if count < 1e7 else 0.02)
    if release.size_bytes is not None:
        assert 4 * count < release.size_bytes < 4 * count * 1.001


def test_a_person_is_six_files_and_poses_are_found_by_two() -> None:
    assert {release.kind for release in with_requirements(find("animate-anyone"))} == {"person"}
    assert len(with_requirements(find("animate_anyone"))) == 6
    assert [release.name for release in with_requirements(find("dwpose"))] == ["dwpose", "yolox_l"]
    assert all(release.sha256 for release in with_requirements(find("dwpose"))), "never run unchecked"


def test_no_file_depends_on_the_repository_that_is_gone() -> None:
    assert not [release for release in RELEASES if "stable-diffusion-2-1" in release.repository]


def test_models_without_towers_require_them_and_others_require_nothing() -> None:
    for release in RELEASES:
        assert release.requires == (() if release.contains_towers else (TOWERS,))
    assert [release.name for release in with_requirements(find("512"))] == ["512", TOWERS]
    assert [release.name for release in with_requirements(find("512_full"))] == ["512_full"]


@pytest.mark.parametrize("name", ["512", "1024", "512_interp", "cil_512", "cil_1024", "tooncrafter"])
def test_the_plain_name_is_the_small_file(name: str) -> None:
    release = find(name)
    assert not release.contains_towers
    assert release.size_gb < 4
    full = find(f"{name}_full")
    assert full.contains_towers
    assert full.variant == release.variant


def test_only_the_authors_file_exists_of_256() -> None:
    assert find("256").repository == "Doubiiu/DynamiCrafter"
    assert find("256").contains_towers


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("512", "512"),
        (" 512-Interp ", "512_interp"),
        ("512_interp_v1", "512_interp"),
        ("1024_v1", "1024"),
        ("tooncrafter_512", "tooncrafter"),
        ("TOWERS", "towers"),
    ],
)
def test_names_are_forgiving(name: str, found: str) -> None:
    assert find(name).name == found


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - NOT_OFFERED))
def test_a_variant_name_gives_its_recommended_release(variant: str) -> None:
    release = find(variant)
    assert release.variant == variant
    assert release is next(other for other in RELEASES if other.variant == variant)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no model '512_intrep' to download; did you mean '512_interp'\?"):
        find("512_intrep")
    with pytest.raises(UsageError, match=r"did you mean 'tooncrafter'\?"):
        find("toon-crafter")


def test_name_like_none_lists_all() -> None:
    with pytest.raises(
        UsageError, match=r"no model 'zzz' to download, known are 256, 512, .*; .*RELEASES lists the models"
    ):
        find("zzz")


def test_resolution_is_the_variants() -> None:
    assert find("1024").resolution == "1024x576"
    assert find("towers").resolution == "any"
