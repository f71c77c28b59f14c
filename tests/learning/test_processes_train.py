"""The same training by one process and by two, through the package's own steps and command line."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn

from napari_slidecorr.config import (
    CoralConfig,
    CrossEntropyConfig,
    GroupDroConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
    TrainConfig,
)
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning.objectives import Output, make_objective
from napari_slidecorr.learning.optimizers import make_optimizer
from napari_slidecorr.learning.processes import share_of
from napari_slidecorr.learning.shared_batch_norm import share_batch_norms
from napari_slidecorr.learning.steps import ClassifierTrainee, gradients
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import slide_batches

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed")

OBJECTIVES = {
    "ce": CrossEntropyConfig(),
    "scr": ScrConfig(),
    "sce": SceConfig(),
    "sda": SdaConfig(),
    "coral": CoralConfig(coral_weight=50.0),
    "groupdro": GroupDroConfig(step_size=1.0),
    "scr-mean": ScrConfig(beta=5.0, reduction="mean"),
    "scr-centred": ScrConfig(normalizer="centred"),
    "scr-weighted": ScrConfig(),
}
SLIDES = 7


class Net(nn.Module):
    """A small network with batch normalization, in float64."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(6, 2)
        self.feature_dim = 6

    def forward(self, inputs):
        features = self.backbone(inputs)
        return Output(self.head(features), features)

    def prepare(self, patches):
        return patches.permute(0, 3, 1, 2).double() / 255


def table():
    slide = np.repeat(np.arange(SLIDES, dtype=np.int32), 12)
    label = (np.arange(len(slide)) % 3 % 2).astype(np.int16)
    place = np.arange(len(slide), dtype=np.int64)
    return PatchTable(place, place, slide, label, tuple("abcdefg"), ("x", "y"), ((8, 8),) * SLIDES, PatchGeometry(8))


def a_step(kind):
    """Loss, terms, gradients and batch statistics of one batch by `steps.gradients`, as one flat tensor."""
    patches = table()
    rows = slide_batches(patches, slides_per_batch=5, patches_per_slide=3, seed=4, epoch=0)[0]
    share = share_of(rows, patches.slide_index)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pixels = torch.randint(0, 256, (len(patches), 8, 8, 3), dtype=torch.uint8)
        model = Net().double()
        weight = torch.tensor([0.3, 1.7]) if kind.endswith("weighted") else None
        objective = make_objective(
            OBJECTIVES[kind], feature_dim=6, slide_count=SLIDES, class_weight=weight, label_smoothing=0.1
        ).double()
    objective.progress = 0.4
    if distributed.is_initialized():
        share_batch_norms(model)
    trainee = ClassifierTrainee(model, objective, make_optimizer(model, objective, TrainConfig()))
    _, loss = gradients(trainee, pixels[share.rows], patches, share, (0, 0, 0))
    grads = [parameter.grad.ravel() for part in (model, objective) for parameter in part.parameters()]
    state = [value.double().ravel() for part in (model, objective) for value in part.buffers()]
    return torch.cat(
        [loss.total.detach().reshape(1), *(term.detach().reshape(1) for term in loss.terms.values()), *grads, *state]
    )


def all_steps(rank, ranks, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    torch.save({kind: a_step(kind) for kind in OBJECTIVES}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(all_steps, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_loss_gradients_and_batch_statistics_are_those_of_one_process(kind, together):
    alone = a_step(kind)
    assert alone.dtype == torch.float64
    assert alone.abs().max() > 0.1
    for found in together:
        torch.testing.assert_close(found[kind], alone, rtol=1e-9, atol=1e-9)


# the command line


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    from napari_slidecorr.events import drain
    from napari_slidecorr.project import Project
    from napari_slidecorr.sample_data import make_cohort

    folder = tmp_path_factory.mktemp("together")
    cohort = drain(make_cohort(folder / "slides", slides=4, size_px=512))
    project = Project.create(folder / "project", tuple(dict.fromkeys(n for s in cohort for n in s.regions.classes)))
    project.add_slides([sample.path for sample in cohort])
    for sample in cohort:
        project.save_regions(sample.id, sample.regions)
    return project


OPTIONS = [
    "--backbone",
    "test_resnet",
    "--weights",
    "random",
    "--epochs",
    "2",
    "--size-px",
    "32",
    "--device",
    "cpu",
    "--learning-rate",
    "0.003",
    "--colour-jitter",
    "--hed-jitter",
    "0.05",
    "--gradient-clip",
    "1",
]


def train(project, name, *options, processes=1, code=0):
    """Run the real command; what it printed to standard error."""
    alone = [sys.executable, "-m", "napari_slidecorr"]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = alone if processes == 1 else [*ranks, "-m", "napari_slidecorr"]
    command = [*start, "train", str(project.folder), "--name", name, *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=160, env=environment, check=False)
    assert (done.returncode == 0) == (code == 0), done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["scr"])
def test_two_processes_train_to_the_weights_of_one(project, objective):
    one, two = f"{objective}-one", f"{objective}-two"
    train(project, one, "--objective", objective)
    told = train(project, two, "--objective", objective, processes=2)
    assert "with 2 processes" in told
    records = {record.name: record for record in project.run_records()}
    assert [records[name].state for name in (one, two)] == ["finished", "finished"]
    for mine, theirs in zip(records[one].curve, records[two].curve, strict=True):
        assert theirs.loss == pytest.approx(mine.loss, rel=1e-3)
        assert theirs.pairs == mine.pairs
        assert theirs.train_auc == pytest.approx(mine.train_auc, abs=0.01)
        assert theirs.validation_auc == pytest.approx(mine.validation_auc, abs=0.02)
    alone, together = (load_file(records[name].folder / "model.safetensors") for name in (one, two))
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_with_its_sentence(project):
    told = train(project, "many", "--slides-per-batch", "2", processes=3, code=2)
    assert "cannot be dealt to 3 processes" in told
    assert not (project.folder / "runs" / "many").exists()
