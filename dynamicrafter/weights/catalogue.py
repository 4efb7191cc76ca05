"""The released files: their locations, sizes and short names.

The short name of a variant (``512``, ``1024``, ``512_interp``, ...) is the file most people need: half precision,
without the CLIP encoders, which are the same for all models and are a release of their own, ``towers``. ``_full`` is
the authors' float32 file including the encoders; ``_bf16`` and ``_fp16`` are half-precision files including the
encoders. The 256 model exists only as the authors' file, so ``256`` is that one.

Sizes and sha256 are those of the repositories' Git LFS pointers; None if no public record was found, in which case a
download is checked against the values that the server reports. A revision is pinned for files that have been renamed on
or removed from the main branch, and for ``512_interp_full``, whose hash is unknown; all other files come from ``main``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import Remedy, UsageError
from ..model.variants import VARIANTS

HUB = "https://huggingface.co"
"""Server of the repositories; ``HF_ENDPOINT`` overrides it for downloads."""

Kind = Literal["model", "towers", "person", "poses"]
"""DynamiCrafter, its encoders, a part of AnimateAnyone, or a detector of poses."""
Precision = Literal["fp32", "fp16", "bf16"]

TOWERS = "towers"
"""Name of the release with both CLIP encoders, which every model without encoders requires."""


@dataclass(frozen=True)
class Release:
    """One released file."""

    name: str
    """Short name, unique in the catalogue."""
    variant: str | None
    """Key of :data:`~dynamicrafter.model.variants.VARIANTS`; None for ``towers``, which fits all of them, and for the
    files of other models."""
    repository: str
    """``owner/name`` on the hub."""
    filename: str
    licence: str
    purpose: str
    precision: Precision
    contains_towers: bool
    size_gb: float
    """Size in units of 1e9 bytes, rounded as in the repository."""
    size_bytes: int | None = None
    """Exact size, if known."""
    sha256: str | None = None
    """Hash of the file in lower-case hexadecimal, if known."""
    revision: str = "main"
    kind: Kind = "model"
    needs: tuple[str, ...] = ()
    """Names of the other files of a model that is several."""

    @property
    def saved_as(self) -> str:
        """Name of the file in a folder of many models; the authors call all theirs model.ckpt or timenoise.ckpt."""
        if self.filename.endswith(".ckpt"):
            return f"dynamicrafter_{self.name}.ckpt"
        return self.filename

    @property
    def about_bytes(self) -> int:
        """Its size, exact if known."""
        return self.size_bytes or round(self.size_gb * 1e9)

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of the releases that this one needs to generate a clip."""
        return self.needs or (() if self.contains_towers else (TOWERS,))

    @property
    def resolution(self) -> str:
        """Width x height in pixels the model was trained for, such as ``512x320``; ``any`` for ``towers``."""
        if self.variant is None:
            return "any"
        preset = VARIANTS[self.variant].preset
        return f"{preset.width}x{preset.height}"

    @property
    def source(self) -> str:
        """URL of the page that describes the file."""
        return f"{HUB}/{self.repository}"

    @property
    def url(self) -> str:
        """URL of the file."""
        return f"{HUB}/{self.repository}/resolve/{self.revision}/{self.filename}"


def _original(name: str, variant: str, repository: str) -> Release:
    """A file by the authors: float32, including the encoders."""
    return Release(
        name=name,
        variant=variant,
        repository=repository,
        filename="model.ckpt",
        licence="Apache-2.0",
        purpose=VARIANTS[variant].purpose,
        precision="fp32",
        contains_towers=True,
        size_gb=10.4,
    )


def _pruned(name: str, variant: str, filename: str, sha256: str) -> Release:
    """A half-precision file without encoders; the five of the ordinary architecture have the same size."""
    return Release(
        name=name,
        variant=variant,
        repository="Kijai/DynamiCrafter_pruned",
        filename=filename,
        licence="none stated (made from Apache-2.0 weights)",
        purpose=VARIANTS[variant].purpose,
        precision="fp16",
        contains_towers=False,
        size_gb=3.14,
        size_bytes=3_142_870_350,
        sha256=sha256,
    )


def _half(name: str, pruned: Release, filename: str, precision: Precision, revision: str) -> Release:
    """A half-precision file with encoders, available only in an older revision of the repository."""
    return replace(
        pruned,
        name=name,
        filename=filename,
        precision=precision,
        contains_towers=True,
        size_gb=5.22,
        size_bytes=None,
        sha256=None,
        revision=revision,
    )


_R256 = replace(
    _original("256", "256_v1", "Doubiiu/DynamiCrafter"),
    size_bytes=10_437_545_635,
    sha256="328d23963f1fe5af1324793117dfa80c8f5d3d31a2a7d5a6089a1c8aa72fb2da",
)
_R512 = _pruned(
    "512",
    "512_v1",
    "dynamicrafter_512_fp16_pruned.safetensors",
    "abe38e28a9521c2f38e8d08fad5d44643c2fec932288dc7088c0a24b9ce5289b",
)
_R1024 = _pruned(
    "1024",
    "1024_v1",
    "dynamicrafter_1024_fp16_pruned.safetensors",
    "8f2c62b7da8b613ba158a201527cdf4646a520a4cbf7e0647796d55de9a20830",
)
_R512_INTERP = _pruned(
    "512_interp",
    "512_interp_v1",
    "dynamicrafter_512_interp_fp16_pruned.safetensors",
    "c6f50c98f1ec3b97ecfb347e2378e721cf796ebc866692631435070510e09b3d",
)
_CIL_512 = _pruned(
    "cil_512",
    "cil_512",
    "dynamicrafter-CIL-512-no-watermark-fixed-pruned-fp16.safetensors",
    "dc1bc18ae3c37408014c25e6479fd45ef677f575266d60f3d41bcdf822f03697",
)
_CIL_1024 = _pruned(
    "cil_1024",
    "cil_1024",
    "dynamicrafter-CIL-1024-no-watermark-pruned-fp16.safetensors",
    "2f77af7a23d706ab62a0ccecacda3fb1dd947da7fdbffaed654163db1f2d9706",
)
_TOONCRAFTER = replace(
    _pruned(
        "tooncrafter",
        "tooncrafter_512",
        "tooncrafter_512_interp-pruned-fp16.safetensors",
        "7a60eefa72b85b98400fe12c6cc66ea1af84d51b8bd4472cc7764dce499f8891",
    ),
    size_gb=3.18,
    size_bytes=3_175_466_358,
)
_TOWERS = Release(
    name=TOWERS,
    variant=None,
    repository="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    filename="open_clip_model.safetensors",
    licence="MIT",
    purpose="CLIP text and image encoders for all models that come without them",
    precision="fp32",
    contains_towers=True,
    size_gb=3.94,
    size_bytes=3_944_517_836,
    sha256="0084e75319a50ad85ef45377bad5bc38f2f58824459eb690048d51c9f8863be5",
    revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    kind="towers",
)

RELEASES: tuple[Release, ...] = (
    _R256,
    _R512,
    _R1024,
    _R512_INTERP,
    _CIL_512,
    _CIL_1024,
    _TOONCRAFTER,
    _TOWERS,
    replace(
        _original("512_full", "512_v1", "Doubiiu/DynamiCrafter_512"),
        size_bytes=10_437_548_346,
        sha256="87b5eb1981ffa96110369dfc358c5a9e90b8ee18b24d711badab4e58baeaba97",
    ),
    replace(
        _original("1024_full", "1024_v1", "Doubiiu/DynamiCrafter_1024"),
        sha256="97181be1431cc1c08fe31f8d0385a43c2beb1c7f36d25d2df301636f0c4f20f2",
    ),
    _half(
        "1024_bf16",
        _R1024,
        "dynamicrafter_1024_v1_bf16.safetensors",
        "bf16",
        "0c913968901b471703d76bdda430a08a35897eb0",
    ),
    replace(
        _original("512_interp_full", "512_interp_v1", "Doubiiu/DynamiCrafter_512_Interp"),
        revision="5163d01e6f5601a64dbdd8f89a27b1a700313324",
    ),
    replace(
        _half(
            "512_interp_bf16",
            _R512_INTERP,
            "dynamicrafter_512_interp_v1_bf16.safetensors",
            "bf16",
            "0c913968901b471703d76bdda430a08a35897eb0",
        ),
        sha256="d58301059e073bf9e6f5f341136c16682b15c88fefa49b7af6fb5e2ff593a593",
    ),
    replace(
        _original("cil_512_full", "cil_512", "GraceZhao/DynamiCrafter-CIL-512"),
        filename="timenoise.ckpt",
        sha256="ec5641dd44bfd4d5e7bf0d7ecfa7bb918818a383697f2c8a6439d78bbe8038ba",
    ),
    replace(
        _original("cil_1024_full", "cil_1024", "GraceZhao/DynamiCrafter-CIL-1024"),
        filename="timenoise.ckpt",
    ),
    replace(
        _original("tooncrafter_full", "tooncrafter_512", "Doubiiu/ToonCrafter"),
        size_gb=10.5,
        sha256="e4df5aecd9919af2f41a92912bb6391e03531b269785a7448d87e964462edf53",
    ),
    replace(
        _half(
            "tooncrafter_fp16",
            _TOONCRAFTER,
            "tooncrafter_512_interp-fp16.safetensors",
            "fp16",
            "df571a58cd69e11ba006d6b6b65330fd90993eea",
        ),
        size_gb=5.25,
        sha256="e259c201d34d497e57bc1ff1e7d2fbb03f3e9dbda660f7b8d16407e2305acbbb",
    ),
)
"""Every known file of DynamiCrafter; the first one of each variant is the recommended one."""

PERSON = "animate_anyone"
"""Name of the release of AnimateAnyone, of whose six files it is one."""
POSES = "dwpose"
"""Name of the release that finds the poses of a person in an image."""


def _of_person(
    name: str, filename: str, purpose: str, size_gb: float, needs: tuple[str, ...] = ()
) -> Release:
    """A file of AnimateAnyone's repository; its licence is the tag of its page."""
    return Release(
        name=name,
        variant=None,
        repository="patrolli/AnimateAnyone",
        filename=filename,
        licence="Apache-2.0",
        purpose=f"{purpose} of AnimateAnyone, which moves a person by poses",
        precision="fp32",
        contains_towers=True,
        size_gb=size_gb,
        kind="person",
        needs=needs,
    )


PERSON_RELEASES: tuple[Release, ...] = (
    _of_person(
        PERSON,
        "denoising_unet.pth",
        "denoising network",
        3.44,
        needs=(
            "animate_anyone_motion",
            "animate_anyone_reference",
            "animate_anyone_pose_guider",
            "sd_vae_ft_mse",
            "sd_image_variations_encoder",
        ),
    ),
    _of_person("animate_anyone_motion", "motion_module.pth", "motion modules", 1.82),
    _of_person("animate_anyone_reference", "reference_unet.pth", "reference network", 3.44),
    _of_person("animate_anyone_pose_guider", "pose_guider.pth", "pose guider", 0.004),
    Release(
        name="sd_vae_ft_mse",
        variant=None,
        repository="stabilityai/sd-vae-ft-mse",
        filename="diffusion_pytorch_model.safetensors",
        licence="MIT",
        purpose="autoencoder of AnimateAnyone",
        precision="fp32",
        contains_towers=True,
        size_gb=0.33,
        size_bytes=334_643_276,
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        kind="person",
    ),
    Release(
        name="sd_image_variations_encoder",
        variant=None,
        repository="lambdalabs/sd-image-variations-diffusers",
        filename="image_encoder/pytorch_model.bin",
        licence='"other" (of the OpenRAIL-M family, not certain)',
        purpose="CLIP image encoder of AnimateAnyone",
        precision="fp32",
        contains_towers=True,
        size_gb=1.22,
        size_bytes=1_215_993_967,
        sha256="89d2aa29b5fdf64f3ad4f45fb4227ea98bc45156bbae673b85be1af7783dbabb",
        kind="person",
    ),
    Release(
        name=POSES,
        variant=None,
        repository="yzd-v/DWPose",
        filename="dw-ll_ucoco_384.onnx",
        licence="Apache-2.0",
        purpose="finds the joints, hands and face of a person in an image, for AnimateAnyone",
        precision="fp32",
        contains_towers=True,
        size_gb=0.13,
        size_bytes=134_399_116,
        sha256="724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        kind="poses",
        needs=("yolox_l",),
    ),
    Release(
        name="yolox_l",
        variant=None,
        repository="yzd-v/DWPose",
        filename="yolox_l.onnx",
        licence="Apache-2.0",
        purpose="finds the people in an image, for dwpose",
        precision="fp32",
        contains_towers=True,
        size_gb=0.22,
        size_bytes=216_746_733,
        sha256="7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        kind="poses",
    ),
)
"""The files of AnimateAnyone and of what finds poses for it.

Those of the four from its own repository have sizes counted from their tensors, and no public record of a hash.
"""

ALL_RELEASES: tuple[Release, ...] = (*RELEASES, *PERSON_RELEASES)


def find(name: str) -> Release:
    """The release called ``name``, or the recommended release of the variant called ``name``.

    Case and the choice of ``-`` or ``_`` do not matter. Raises UsageError, suggesting the nearest name, if there is no
    such release.
    """
    key = name.strip().lower().replace("-", "_")
    for release in ALL_RELEASES:
        if release.name == key:
            return release
    for release in ALL_RELEASES:
        if release.variant == key:
            return release
    names = [release.name for release in ALL_RELEASES]
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    wrong = f"there is no model {name!r} to download"
    if nearest:
        raise UsageError(f"{wrong}; did you mean {nearest[0]!r}?")
    raise UsageError(f"{wrong}, known are {', '.join(names)}", Remedy("choose_model"))


def with_requirements(release: Release) -> tuple[Release, ...]:
    """``release`` and the releases it requires, in download order."""
    return (release, *(find(name) for name in release.requires))
