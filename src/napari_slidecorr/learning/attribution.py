"""What in a patch spoke for a class: Grad-CAM (Selvaraju et al. 2017), on one patch or over a region."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import MapError, ModelError
from napari_slidecorr.events import Event
from napari_slidecorr.explanation import Explanation
from napari_slidecorr.geometry import Box
from napari_slidecorr.learning.centring import offset_of
from napari_slidecorr.learning.explained_layer import ExplainedLayer, explained_layer
from napari_slidecorr.learning.inference import prediction_grid
from napari_slidecorr.learning.models import PatchClassifier, choose_device, classify, load_model
from napari_slidecorr.learning.staining import make_stain_step
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.slide import Slide

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

MOST_PATCHES = 400
"""A region of more patches is refused: it would take minutes, and its layer would be as large as a slide."""

MOSTLY = 0.5
"""A patch belongs to a region when so much of it lies inside; where none does, those that touch it are taken."""

BATCH = 8
MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Along which axes a patch is turned over. A convolution with a stride looks to the upper left of each of its cells, by up
to half a cell; over all four mirror images that cancels out."""

Patches = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Explained(Event):
    """The last event of `explain`."""

    result: Explanation


class Explainer:
    """Grad-CAM for one model.

    Parameters
    ----------
    model, spec
        What `models.load_model` gives; no other thread may use the model meanwhile, since its layers are watched.

    Raises
    ------
    ModelError
        If the package captum is missing, or the network has no layer whose numbers have a place.
    """

    def __init__(self, model: PatchClassifier, spec: ModelSpec) -> None:
        self._captum = _captum()
        self.model, self.spec = model.eval(), spec
        self.layer: ExplainedLayer = explained_layer(model, spec.backbone, spec.geometry.size_px)

    def maps(self, patches: Patches, class_name: str) -> NDArray[np.float32]:
        """Tell how strongly each place of each patch speaks for a class, before any scaling.

        Parameters
        ----------
        patches : ndarray, shape (N, S, S, 3), uint8
            As the model is to see them.

        Returns
        -------
        ndarray, shape (N, S, S), float32
            At least 0; comparable between patches.

        Raises
        ------
        ModelError
            If the model does not know the class.
        """
        target = class_index(self.spec, class_name)
        inputs = self.model.prepare(torch.from_numpy(np.require(patches, np.uint8, ["C", "W"])))
        views = [self._one_view(inputs.flip(axes), target).flip(axes) for axes in MIRRORS]
        return torch.stack(views).mean(dim=0)[:, 0].cpu().numpy()

    def _one_view(self, inputs: Tensor, target: int) -> Tensor:
        """Grad-CAM of one mirror image, shape (N, 1, S, S)."""
        captum = self._captum
        with self.layer.inserted() as maps, torch.enable_grad():
            cam = captum.LayerGradCam(lambda x: self.model(x).logits, maps)
            found = cam.attribute(inputs, target=target, relu_attributions=True).detach()
        return captum.LayerAttribution.interpolate(found, tuple(inputs.shape[2:]), "bilinear")  # type: ignore[no-any-return]


def explain_patch(
    model: PatchClassifier, spec: ModelSpec, patch: Patches, class_name: str | None = None
) -> tuple[NDArray[np.float32], str]:
    """Tell which pixels of one patch speak for a class; for notebooks.

    Parameters
    ----------
    patch : ndarray, shape (S, S, 3), uint8
    class_name : str, optional
        The most probable class when left out.

    Returns
    -------
    ndarray, shape (S, S), float32
        0 to 1; all 0 where nothing speaks for the class.
    str
        The class.

    Raises
    ------
    ModelError
        As `Explainer`.
    """
    explainer = Explainer(model, spec)
    name = class_name or spec.classes[int(classify(model, patch[None])[0].argmax())]
    return scaled(explainer.maps(patch[None], name)[0]), name


def explain(
    slide: Slide,
    run: Path,
    box: Box,
    *,
    class_name: str | None = None,
    area: BaseGeometry | None = None,
    device: str = "auto",
) -> Iterator[Event]:
    """Tell what on a part of a slide speaks for a class.

    Parameters
    ----------
    run : Path
        Folder of a finished run.
    box : Box
        Level-0 pixels. A box of one patch gives the map of that very patch; a larger one is tiled from its upper left corner
        on with whole patches, a smaller one gives the one patch around its middle.
    class_name : str, optional
        The class with the highest mean probability over the patches when left out.
    area : polygon of shapely, or several, optional
        Level-0 pixels (y, x), as polygons of regions; patches of which less than half lies inside are left out, unless there are no
        others.

    Returns
    -------
    iterator of Event
        Counts patches; the last is `Explained`. Closing it stops.

    Raises
    ------
    ModelError
        Now, if captum is missing, the model cannot be read, has no usable layer, or does not know the class.
    SlideError
        Now, if the model cannot be used on the slide; later, if a patch cannot be read.
    MapError
        Now, if the box lies beside the slide or holds more than 400 patches.

    Notes
    -----
    Pixels are brought to the model's stain, and a model that centres slides centres this one, as in prediction. What was
    measured is as coarse as the network's last maps (`Explanation.cells`); between them it is interpolated.
    """
    _captum()
    spec = ModelSpec.load(run / "model.json")
    if class_name is not None:
        class_index(spec, class_name)
    places = patch_boxes(slide, spec, box, area)
    model, spec = load_model(run)
    model.to(choose_device(device))
    return _explain(_Task(slide, Explainer(model, spec), places, class_name, device))


@dataclass(frozen=True)
class _Task:
    slide: Slide
    explainer: Explainer
    places: list[Box]
    class_name: str | None
    device: str


def patch_boxes(slide: Slide, spec: ModelSpec, box: Box, area: BaseGeometry | None = None) -> list[Box]:
    """Lay whole patches side by side over a box, as far as they fit on the slide; level-0 pixels.

    Raises
    ------
    SlideError, MapError
        As `explain`.
    """
    height, width = prediction_grid(slide, spec, PredictConfig()).cell_px
    if min(box.y1, slide.shape[0]) <= max(box.y0, 0) or min(box.x1, slide.shape[1]) <= max(box.x0, 0):
        raise MapError(
            f"{box} lies beside {slide.id}, which has {slide.shape[0]} x {slide.shape[1]} pixels; choose a place on it."
        )
    rows = _starts(box.y0, box.y1, height, slide.shape[0])
    columns = _starts(box.x0, box.x1, width, slide.shape[1])
    if len(rows) * len(columns) > MOST_PATCHES:
        raise MapError(
            f"This region holds {len(rows) * len(columns)} patches; at most {MOST_PATCHES} are explained at once: choose a "
            "smaller one."
        )
    found = [Box(y, x, y + height, x + width) for y in rows for x in columns]
    return found if area is None else _inside(found, area)


def _starts(first: int, last: int, side: int, length: int) -> list[int]:
    """Where patches begin along an axis: around the middle when one is enough, from the first pixel on otherwise."""
    wanted = last - first
    count = max(1, min(-(-wanted // side), length // side))
    start = first + (wanted - side) // 2 if wanted <= side else first
    start = min(max(start, 0), length - count * side) if length >= side else (length - side) // 2
    return [start + index * side for index in range(count)]


def _inside(boxes: list[Box], area: BaseGeometry) -> list[Box]:
    import shapely

    shapes = [shapely.box(box.y0, box.x0, box.y1, box.x1) for box in boxes]
    shares = [shapely.intersection(area, shape).area / shape.area for shape in shapes]
    least = MOSTLY if max(shares) >= MOSTLY else np.finfo(float).tiny
    found = [box for box, share in zip(boxes, shares, strict=True) if share >= least]
    if not found:
        raise MapError("No patch lies on this region; choose one on the slide.")
    return found


def _explain(task: _Task) -> Generator[Event, None, None]:
    slide, explainer = task.slide, task.explainer
    model, spec = explainer.model, explainer.spec
    stain = yield from make_stain_step([slide], spec.stain)
    model.offset = yield from offset_of(slide, model, spec, task.device)
    total = len(task.places)
    patches = np.empty((total, spec.geometry.size_px, spec.geometry.size_px, 3), np.uint8)
    probabilities = np.empty((total, len(spec.classes)), np.float32)
    for part in _parts(total):
        yield Event(phase="Looking at patches", done=part.start, total=total)
        for index in range(part.start, part.stop):
            patches[index] = stain(slide, slide.read(task.places[index], spec.geometry.size_px))
        probabilities[part] = classify(model, patches[part])
    mean = probabilities.mean(axis=0)
    name = task.class_name or spec.classes[int(mean.argmax())]
    maps = np.empty(patches.shape[:3], np.float32)
    for part in _parts(total):
        yield Event(phase=f"Asking what speaks for {name}", done=part.start, total=total)
        maps[part] = explainer.maps(patches[part], name)
    box, values = tiled(task.places, scaled(maps))
    told = tuple(float(value) for value in mean)
    result = Explanation(
        slide.id, spec.id, box, values, name, spec.classes, told, total, explainer.layer.cells, slide.mpp
    )
    yield Explained(phase="Explained", done=total, total=total, result=result)


def _parts(total: int) -> Iterator[slice]:
    for start in range(0, total, BATCH):
        yield slice(start, min(start + BATCH, total))


def scaled(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring maps to 0 to 1 by their common maximum; all 0 stay so."""
    top = float(maps.max())
    return maps / top if top > 0 else np.zeros_like(maps)


def tiled(boxes: list[Box], maps: NDArray[np.float32]) -> tuple[Box, NDArray[np.float32]]:
    """Lay the maps of patches, shape (N, S, S), side by side; NaN where there is none."""
    side = maps.shape[1]
    whole = Box(
        min(box.y0 for box in boxes),
        min(box.x0 for box in boxes),
        max(box.y1 for box in boxes),
        max(box.x1 for box in boxes),
    )
    height, width = boxes[0].shape
    out = np.full((whole.height // height * side, whole.width // width * side), np.nan, np.float32)
    for box, values in zip(boxes, maps, strict=True):
        row, column = (box.y0 - whole.y0) // height * side, (box.x0 - whole.x0) // width * side
        out[row : row + side, column : column + side] = values
    return whole, out


def class_index(spec: ModelSpec, class_name: str) -> int:
    """Give the number of a class.

    Raises
    ------
    ModelError
        If the model does not know it; names those that it knows.
    """
    if class_name not in spec.classes:
        raise ModelError(f"The model has no class {class_name!r}; it knows {', '.join(spec.classes)}.")
    return spec.classes.index(class_name)


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise ModelError(
            "Explaining patches needs the package captum, which is not installed; run: "
            'pip install "napari-slidecorr[attribution]".'
        ) from error
    return captum.attr
