"""Backbones worth having beside torchvision's and timm's own: pathology foundation models, and the terms they come with.

Facts are those of the model cards on the Hugging Face hub and of the TRIDENT toolkit's table of encoders and loaders
(github.com/mahmoodlab/TRIDENT, read in 2026); what neither says is None here and told as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))

NO_DERIVATIVES = "CC-BY-NC-ND-4.0"
OWKIN = "Owkin non-commercial"
RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class KnownBackbone:
    """A backbone and its terms.

    Attributes
    ----------
    name : str
        What one writes as ``backbone``.
    hub : str
        Repository on the Hugging Face hub.
    licence : str
    gated : bool
        Whether access must be asked for on the hub first.
    size_px : int
        Side of its input.
    mpp : float or None
        Micrometres per pixel its card asks for, else that of 20x, at which TRIDENT uses it; None where neither is told.
    dim : int
        Numbers a patch.
    arch : str
        The timm architecture; empty when timm cannot make it, so that it cannot be used here.
    arguments : mapping
        For timm's ``create_model``.
    swiglu : bool
        Whether its blocks are gated (timm's ``SwiGLUPacked`` with SiLU).
    pooling : str
        ``model``, or ``class+mean``: the class token beside the mean of the patch tokens.
    mean, std : (float, float, float)
        Per channel, of inputs in [0, 1].
    note : str
    """

    name: str
    hub: str
    licence: str
    gated: bool
    size_px: int
    mpp: float | None
    dim: int
    arch: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    swiglu: bool = False
    pooling: str = "model"
    mean: RGB = IMAGENET[0]
    std: RGB = IMAGENET[1]
    note: str = ""

    @property
    def page(self) -> str:
        """The model card."""
        return f"https://huggingface.co/{self.hub}"

    @property
    def usable(self) -> bool:
        """Whether it can be made here, given its weights."""
        return bool(self.arch)

    def to_json(self) -> dict[str, Any]:
        """The facts as plain values."""
        return {**asdict(self), "arguments": dict(self.arguments), "page": self.page, "usable": self.usable}


_VIT = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True}
_UNI2 = {"patch_size": 14, "depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2}
_VIRCHOW = {"mlp_ratio": 5.3375, "global_pool": ""}
_NOT_TIMM = "Its weights are not laid out as timm's, so they cannot be loaded here."

BACKBONES = (
    KnownBackbone(
        name="uni",
        hub="MahmoodLab/UNI",
        licence=NO_DERIVATIVES,
        gated=True,
        size_px=224,
        mpp=0.5,
        dim=1024,
        arch="vit_large_patch16_224",
        arguments=_VIT,
    ),
    KnownBackbone(
        name="uni2-h",
        hub="MahmoodLab/UNI2-h",
        licence=NO_DERIVATIVES,
        gated=True,
        size_px=224,
        mpp=0.5,
        dim=1536,
        arch="vit_giant_patch14_224",
        arguments={**_VIT, **_UNI2, "no_embed_class": True, "reg_tokens": 8},
        swiglu=True,
    ),
    KnownBackbone(
        name="virchow",
        hub="paige-ai/Virchow",
        licence="Apache-2.0",
        gated=True,
        size_px=224,
        mpp=0.5,
        dim=2560,
        arch="vit_huge_patch14_224",
        arguments={**_VIT, **_VIRCHOW},
        swiglu=True,
        pooling="class+mean",
    ),
    KnownBackbone(
        name="virchow2",
        hub="paige-ai/Virchow2",
        licence=NO_DERIVATIVES,
        gated=True,
        size_px=224,
        mpp=0.5,
        dim=2560,
        arch="vit_huge_patch14_224",
        arguments={**_VIT, **_VIRCHOW, "reg_tokens": 4},
        swiglu=True,
        pooling="class+mean",
        note="Trained at mixed magnifications.",
    ),
    KnownBackbone(
        name="h-optimus-0",
        hub="bioptimus/H-optimus-0",
        licence="Apache-2.0",
        gated=True,
        size_px=224,
        mpp=0.5,
        dim=1536,
        arch="vit_giant_patch14_reg4_dinov2",
        arguments={**_VIT, "global_pool": "token"},
        mean=BIOPTIMUS[0],
        std=BIOPTIMUS[1],
    ),
    KnownBackbone(
        name="h-optimus-1",
        hub="bioptimus/H-optimus-1",
        licence=NO_DERIVATIVES,
        gated=True,
        size_px=224,
        mpp=0.5,
        dim=1536,
        arch="vit_giant_patch14_reg4_dinov2",
        arguments={**_VIT, "global_pool": "token"},
        mean=BIOPTIMUS[0],
        std=BIOPTIMUS[1],
    ),
    KnownBackbone(
        name="phikon",
        hub="owkin/phikon",
        licence=OWKIN,
        gated=False,
        size_px=224,
        mpp=0.5,
        dim=768,
        note=_NOT_TIMM,
    ),
    KnownBackbone(
        name="phikon-v2",
        hub="owkin/phikon-v2",
        licence=OWKIN,
        gated=False,
        size_px=224,
        mpp=0.5,
        dim=1024,
        note=_NOT_TIMM,
    ),
    KnownBackbone(
        name="conch",
        hub="MahmoodLab/CONCH",
        licence=NO_DERIVATIVES,
        gated=True,
        size_px=448,
        mpp=None,
        dim=512,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        note=_NOT_TIMM,
    ),
)
"""Those that can be used first."""


def known_backbone(name: str) -> KnownBackbone | None:
    """Give the entry of a name; None for backbones of torchvision and timm."""
    return next((known for known in BACKBONES if known.name == name.lower()), None)


def as_table(backbones: Sequence[KnownBackbone]) -> str:
    """Give backbones as text, a line each."""
    head = ("backbone", "licence", "access", "input", "um/px", "numbers", "page")
    rows = [head, *(_row(known) for known in backbones)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{known.name}: {known.note}" for known in backbones if known.note]
    rest = "Besides: resnet18, resnet50, densenet121, alexnet and vgg16 of torchvision, and every name that timm knows."
    return "\n".join([*lines, *notes, rest])


def _row(known: KnownBackbone) -> tuple[str, ...]:
    mpp = f"{known.mpp:g}" if known.mpp else "unknown"
    access = "ask on the hub" if known.gated else "open"
    return known.name, known.licence, access, f"{known.size_px} px", mpp, str(known.dim), known.page
