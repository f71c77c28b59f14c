from collections.abc import Iterator

import pytest
import torch
from memory_slides import CLASSES, SIZE_PX, halves, two_class_slide

from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, TrainConfig
from napari_slidecorr.patches import PatchSource, PatchTable, cut_patches
from napari_slidecorr.slide import Slide


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def slides() -> dict[str, Slide]:
    return {f"s{i}": two_class_slide(f"s{i}", i) for i in range(6)}


@pytest.fixture(scope="session")
def table(slides) -> PatchTable:
    sources = [PatchSource(slide.id, slide.shape, (SIZE_PX, SIZE_PX), halves()) for slide in slides.values()]
    return cut_patches(sources, CLASSES, PatchConfig(size_px=SIZE_PX, mpp=0.5))


@pytest.fixture(scope="session")
def tables(table) -> tuple[PatchTable, PatchTable]:
    return table.of_slides(("s0", "s1", "s2", "s3")), table.of_slides(("s4", "s5"))


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(
        objective=CrossEntropyConfig(),
        backbone="test_resnet",
        weights="random",
        epochs=2,
        patches=PatchConfig(size_px=SIZE_PX, mpp=0.5),
        slides_per_batch=4,
        patches_per_slide=8,
        learning_rate=0.02,
        device="cpu",
    )
