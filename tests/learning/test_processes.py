"""One process against two: whole slides dealt to each, losses and gradients added up."""

import numpy as np
import pytest
import torch
from torch import distributed, nn

from napari_slidecorr.config import CrossEntropyConfig, SceConfig, ScrConfig, SdaConfig
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning.objectives import Output, make_objective
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import rows_of_rank, slide_batches

OBJECTIVES = [CrossEntropyConfig(), ScrConfig(), SceConfig(), SdaConfig()]
SLIDES = 7


def table():
    slide = np.repeat(np.arange(SLIDES, dtype=np.int32), 12)
    label = (np.arange(len(slide)) % 3 % 2).astype(np.int16)
    place = np.arange(len(slide), dtype=np.int64)
    return PatchTable(place, place, slide, label, tuple("abcdefg"), ("x", "y"), ((8, 8),) * SLIDES, PatchGeometry(8))


def gradients(config, rank, ranks):
    """Loss and all gradients of a batch of 5 slides, of which this rank has its part; one flat tensor."""
    patches = table()
    rows = slide_batches(patches, slides_per_batch=5, patches_per_slide=3, seed=4, epoch=0)[0]
    mine = rows_of_rank(rows, patches.slide_index, rank, ranks)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        numbers = torch.randn(len(patches), 6, dtype=torch.float64)
        body = nn.Sequential(nn.Linear(6, 9), nn.Tanh()).double()
        head = nn.Linear(9, 2).double()
        objective = make_objective(config, feature_dim=9, slide_count=SLIDES, label_smoothing=0.1).double()
    objective.progress = 0.4
    features = body(numbers[mine])
    of_slide, label = (torch.from_numpy(column[mine]).long() for column in (patches.slide_index, patches.label))
    objective.set_share(label, torch.from_numpy(patches.label[rows]).long())
    total = objective(Output(head(features), features), label, of_slide).total
    parameters = [*body.parameters(), *head.parameters(), *objective.parameters()]
    found = torch.autograd.grad(total, parameters)
    return torch.cat([total.detach().reshape(1), *(gradient.ravel() for gradient in found)])


def add_up(rank, ranks, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    for config in OBJECTIVES:
        summed = gradients(config, rank, ranks)
        distributed.all_reduce(summed)
        if rank == 0:
            torch.save(summed, f"{folder}/{config.kind}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed")
def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(add_up, (2, str(tmp_path)), nprocs=2)
    for config in OBJECTIVES:
        alone, together = gradients(config, 0, 1), torch.load(tmp_path / f"{config.kind}.pt", weights_only=True)
        assert together.dtype == torch.float64
        assert alone.abs().max() > 0.1
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_dealing_patches_instead_of_slides_would_lose_pairs():
    """The same sum over halves that tear slides apart is another loss: what the dealing is for."""
    patches = table()
    rows = slide_batches(patches, slides_per_batch=5, patches_per_slide=3, seed=4, epoch=0)[0]
    features = torch.randn(len(patches), 6, generator=torch.Generator().manual_seed(0))
    objective = make_objective(ScrConfig(), feature_dim=6, slide_count=SLIDES)

    def correlation(part):
        output = Output(features[part][:, :2], features[part])
        label, of_slide = (torch.from_numpy(column[part]).long() for column in (patches.label, patches.slide_index))
        return objective(output, label, of_slide).terms["slide_correlation"]

    whole = correlation(rows)
    dealt = [rows_of_rank(rows, patches.slide_index, rank, 2) for rank in range(2)]
    torch.testing.assert_close(sum(map(correlation, dealt)), whole)
    assert (sum(map(correlation, (rows[::2], rows[1::2]))) - whole).abs() > 1e-2
