"""Prediction by others on the same slide, with the same weights and batches: patches a second, theirs and ours.

`python benchmarks/predict_peers.py --peer tiatoolbox --packages FOLDER --slide SLIDE --json peers.json`

- ``loop``: a loop as WSInfer documents its own (a DataLoader, each worker reads a patch with ``openslide.read_region``, turns
  it into a tensor and normalizes it; one network over the batches). The loop is ours, after that description.
- ``tiatoolbox``: `tiatoolbox.models.engine.patch_predictor.PatchPredictor` itself, with our network as its model; patches are
  normalized in its workers and put before the network by its own ``_infer_batch``. Where it is installed, or with the
  folder that it was installed to by ``pip install --no-deps --target FOLDER tiatoolbox`` and what it needs besides.

Both have one worker, so that they, as we, read in one thread of execution and compute in another. Theirs and ours are
measured in turn in one process. Ours writes its map, as tiatoolbox does. ``largest_difference`` is that of two probabilities of the
same patch, in all that lie inside the slide.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import drain
from napari_slidecorr.geometry import Box, PatchGeometry
from napari_slidecorr.io import open_slide, write_map
from napari_slidecorr.learning import inference
from napari_slidecorr.learning.models import PatchClassifier, classify, make_model
from napari_slidecorr.model_spec import ModelSpec

CLASSES = ("one", "two", "three")
SIZE_PX = 224
SPEC = ModelSpec(
    backbone="resnet18", classes=CLASSES, geometry=PatchGeometry(SIZE_PX, None), mean=(0.5,) * 3, std=(0.5,) * 3,
    objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
    weights_sha256="0" * 64, package_version="0",
)  # fmt: skip
BATCH = 32
Found = tuple[float, np.ndarray, np.ndarray]
"""Seconds, the patches' first pixels as (y, x), and their probabilities."""


def same_model() -> PatchClassifier:
    return make_model("resnet18", len(CLASSES), weights="random", seed=0).eval()


class PeerPatches(torch.utils.data.Dataset[torch.Tensor]):
    """The patches of cells as tensors, read with openslide at level 0 by whichever process asks."""

    def __init__(self, path: Path, places: np.ndarray, model: PatchClassifier) -> None:
        self.path, self.places, self.slide = path, places.tolist(), None
        self.mean, self.std = (torch.tensor(values).reshape(3, 1, 1) for values in (model.mean, model.std))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        import openslide

        self.slide = self.slide or openslide.OpenSlide(self.path)
        y, x = self.places[index]
        picture = self.slide.read_region((x, y), 0, (SIZE_PX, SIZE_PX)).convert("RGB")
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return (tensor - self.mean) / self.std


def by_loop(path: Path) -> Found:
    """The loop, the start of its worker included."""
    height, width = open_slide(path).shape
    places = np.stack(np.mgrid[0 : height - SIZE_PX + 1 : SIZE_PX, 0 : width - SIZE_PX + 1 : SIZE_PX], axis=-1)
    places, model = places.reshape(-1, 2), same_model()
    start = time.perf_counter()
    loader = torch.utils.data.DataLoader(PeerPatches(path, places, model), batch_size=BATCH, num_workers=1)
    with torch.inference_mode():
        found = [torch.softmax(model(batch).logits, dim=1).numpy() for batch in loader]
    return time.perf_counter() - start, places, np.concatenate(found)


def by_tiatoolbox(path: Path) -> Found:
    """Its patch predictor, over the whole slide without a mask, results written where it writes them."""
    import zarr
    from tiatoolbox.models.architecture.vanilla import _infer_batch
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor
    from tiatoolbox.models.models_abc import ModelABC

    class Ours(ModelABC):
        def __init__(self, model: PatchClassifier) -> None:
            super().__init__()
            self.model = model
            mean, std = (np.asarray(values, np.float32) for values in (model.mean, model.std))
            self.preproc_func = lambda image: (np.asarray(image, np.float32) / np.float32(255) - mean) / std

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.model(patches).logits, dim=1)

        @staticmethod
        def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str = "cpu") -> np.ndarray:
            return _infer_batch(model, batch_data, device)

        def postproc(self, image: np.ndarray) -> np.ndarray:
            return np.argmax(image, axis=-1)

    resolution = [{"units": "baseline", "resolution": 1.0}]
    io = IOPatchPredictorConfig(
        input_resolutions=resolution,
        output_resolutions=resolution,
        patch_input_shape=(SIZE_PX, SIZE_PX),
        stride_shape=(SIZE_PX, SIZE_PX),
    )
    engine = PatchPredictor(Ours(same_model()), batch_size=BATCH, num_workers=1, device="cpu", verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        told = engine.run(
            [path], patch_mode=False, ioconfig=io, save_dir=Path(folder) / "out", output_type="zarr",
            auto_get_mask=False, return_probabilities=True,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        result = zarr.open_group(str(next(iter(told.values()))), mode="r")
        boxes, values = np.asarray(result["coordinates"]), np.asarray(result["probabilities"])
    return seconds, boxes[:, 1::-1].astype(int), values


def by_us(path: Path) -> tuple[float, int]:
    """Seconds and patches of our own, the map written."""
    model, config = same_model(), PredictConfig(tissue_only=False, batch_size=BATCH, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = drain(inference.predict(open_slide(path), model, SPEC, config))
        write_map(Path(folder) / "map.ome.zarr", found)
        return time.perf_counter() - start, int(found.predicted.sum())


def largest_difference(path: Path, places: np.ndarray, values: np.ndarray) -> float:
    """Between the probabilities of others and of ours, for patches that lie inside the slide."""
    slide, model = open_slide(path), same_model()
    inside = (places + SIZE_PX <= slide.shape).all(axis=1)
    worst = 0.0
    for (y, x), theirs in list(zip(places[inside].tolist(), values[inside], strict=True))[::7]:
        pixels = slide.read(Box(y, x, y + SIZE_PX, x + SIZE_PX), SIZE_PX)
        worst = max(worst, float(np.abs(classify(model, pixels[None])[0] - theirs).max()))
    return worst


PEERS: dict[str, Callable[[Path], Found]] = {"loop": by_loop, "tiatoolbox": by_tiatoolbox}


def measure(peer: str, path: Path, rounds: int) -> dict[str, Any]:
    """Theirs and ours in turn; medians of patches a second, and their ratio, above 1 where ours is faster."""
    torch.set_num_threads(1)
    theirs, ours = [], []
    for _ in range(rounds):
        seconds, places, values = PEERS[peer](path)
        theirs.append(len(places) / seconds)
        seconds, patches = by_us(path)
        ours.append(patches / seconds)
    return {
        "peer": peer,
        "ratio_to_peer": float(np.median(ours) / np.median(theirs)),
        "patches_per_s": float(np.median(ours)),
        "peer_patches_per_s": float(np.median(theirs)),
        "largest_difference": largest_difference(path, places, values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=list(PEERS), default="loop")
    parser.add_argument("--packages", type=Path, help="where tiatoolbox was installed, unless it is beside us")
    parser.add_argument("--slide", type=Path, required=True, help="a slide that openslide opens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.append(str(arguments.packages))
    figures = measure(arguments.peer, arguments.slide, 1 if arguments.quick else arguments.rounds)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
