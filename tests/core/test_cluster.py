"""Slides predicted by the processes of a dask cluster: the same maps, whoever dies."""

import hashlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_slidecorr import cluster as cluster_module
from napari_slidecorr.cli import app
from napari_slidecorr.cluster import predict_cohort_on
from napari_slidecorr.cohort_prediction import CohortPredicted, SlideEnded, predict_cohort
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import BlockDone, Interrupted, MapBegun, drain, interruptible
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import read_map
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project

distributed = pytest.importorskip("distributed")

CONFIG = PredictConfig(block_cells=2, batch_size=4, device="cpu", tissue_only=False)


def make_project(folder, sides=(112, 112, 112, 112)):
    """Slides of noise, and a model that nobody trained."""
    import torch

    from napari_slidecorr.learning.models import make_model, save_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = Project.create(folder / "project", ("one", "two"))
    for number, side in enumerate(sides):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
        tifffile.imwrite(folder / f"s{number}.tif", pixels, tile=(16, 16), photometric="rgb", metadata=None)
    made.add_slides([folder / f"s{number}.tif" for number in range(len(sides))])
    run = made.folder / "runs" / "random"
    run.mkdir(parents=True)
    model = make_model("test_resnet", 2, weights="random")
    spec = ModelSpec(
        backbone="test_resnet", classes=("one", "two"), geometry=PatchGeometry(32, None), mean=model.mean,
        std=model.std, objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="", package_version="0",
    )  # fmt: skip
    save_model(run, model, spec)
    return made


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def two_workers():
    with cluster_module.client_on(2) as client:
        yield client


def hashes(project):
    found = {}
    for slide in project.cohort:
        for path in project.maps(slide.id):
            found[slide.id] = hashlib.sha256(read_map(path).probabilities.tobytes()).hexdigest()
    return found


def loop_hashes(project):
    """What the plain loop gives; the maps are put away again."""
    drain(predict_cohort(project, config=CONFIG))
    found = hashes(project)
    (project.folder / "maps").rename(project.folder / f"maps-of-the-loop-{time.monotonic_ns()}")
    return found


def test_maps_events_and_outcomes_are_those_of_the_loop(project, two_workers):
    expected = loop_hashes(project)
    *events, last = predict_cohort_on(two_workers, project, config=CONFIG)
    assert isinstance(last, CohortPredicted)
    assert [(one.slide, one.state, one.patches) for one in last.result] == [
        (f"s{i}", "predicted", 16) for i in range(4)
    ]
    assert hashes(project) == expected
    ends = [event for event in events if isinstance(event, SlideEnded)]
    assert sorted(event.phase for event in ends) == [f"s{i} ({i + 1} of 4)" for i in range(4)]
    for slide in ("s0", "s3"):
        blocks = [event for event in events if isinstance(event, BlockDone) and event.slide_id == slide]
        assert len(blocks) == 4
        values = read_map(project.maps(slide)[0]).probabilities
        for block in blocks:
            np.testing.assert_array_equal(block.probabilities, values[:, block.rows, block.columns])
    assert sum(isinstance(event, MapBegun) for event in events) == 4

    again = drain(predict_cohort_on(two_workers, project, config=CONFIG))
    assert {(one.state, one.cells) for one in again} == {("was complete", 16)}


def test_a_truncated_slide_is_told_and_the_others_go_on(project, two_workers):
    path = project.folder.parent / "s1.tif"
    path.write_bytes(path.read_bytes()[:2000])
    outcomes = drain(predict_cohort_on(two_workers, project, config=CONFIG))
    assert [one.state for one in outcomes] == ["predicted", "failed", "predicted", "predicted"]
    assert "s1.tif" in outcomes[1].error


def test_the_model_is_loaded_once_a_worker(project, two_workers):
    two_workers.run(_count_loads)
    drain(predict_cohort_on(two_workers, project, config=CONFIG))
    assert max(two_workers.run(_loads).values()) == 1
    assert sum(two_workers.run(_loads).values()) in (1, 2)


def _count_loads():
    from napari_slidecorr import cluster, project

    cluster._loaded.clear()
    cluster.loads = 0
    real = project.Project.load_model

    def load(*arguments):
        cluster.loads += 1
        return real(*arguments)

    project.Project.load_model = load


def _loads():
    from napari_slidecorr import cluster

    return cluster.loads


def test_workers_share_the_cores_and_are_open_to_nobody_else():
    with cluster_module.client_on(2) as client:
        scheduler = client.cluster.scheduler
        sockets = scheduler.http_server._sockets.values()
        assert {socket.getsockname()[0] for socket in sockets} <= {"127.0.0.1"}
        assert 8787 not in {socket.getsockname()[1] for socket in sockets}
        assert {address.partition("//")[2].rpartition(":")[0] for address in scheduler.workers} == {"127.0.0.1"}
        assert not scheduler.plugins.keys() & {"task-stream", "task-groups"}, "nothing is gathered for a dashboard"
        told = client.run(_threads_after, 3)
    assert set(told.values()) == {(3, 1, 3)}


def _threads_after(threads, dask_worker):
    import torch

    from napari_slidecorr.learning import loading
    from napari_slidecorr.learning.threads import use_threads

    use_threads(threads, threads)
    return torch.get_num_threads(), dask_worker.state.nthreads, loading.most_workers


def test_a_worker_that_is_killed_loses_nothing(tmp_path):
    project = make_project(tmp_path, sides=(368, 368, 368))
    expected = loop_hashes(project)
    with cluster_module.client_on(2) as client:
        killed = 0
        for event in predict_cohort_on(client, project, config=CONFIG):
            if isinstance(event, BlockDone) and killed < 2:
                tasks = client.cluster.scheduler.tasks
                busy = [task for key, task in tasks.items() if str(key).endswith(f"-{event.slide_id}")]
                if busy and busy[0].processing_on:
                    os.kill(busy[0].processing_on.pid, signal.SIGKILL)
                    killed += 1
            last = event
    assert killed == 2
    assert [one.state for one in last.result] == ["predicted"] * 3
    assert hashes(project) == expected
    assert not list(project.folder.glob("maps/*/*.claim*"))


def test_what_kills_every_worker_is_a_failed_slide(project, monkeypatch):
    monkeypatch.setattr(cluster_module, "_predict_there", _die)
    with cluster_module.client_on(1) as client:
        outcomes = drain(predict_cohort_on(client, project, ["s0"], config=CONFIG))
    assert [one.state for one in outcomes] == ["failed"]
    assert "worker" in outcomes[0].error


def _die(_task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_closing_ends_the_tasks_at_once_and_keeps_the_blocks(tmp_path, two_workers):
    project = make_project(tmp_path, sides=(1536, 1536, 1536))
    events = predict_cohort_on(two_workers, project, config=CONFIG)
    while not isinstance(next(events), BlockDone):
        pass
    events.close()
    start = time.monotonic()
    while any(two_workers.run(_is_busy).values()):
        assert time.monotonic() - start < 10
        time.sleep(0.02)
    assert time.monotonic() - start < 3
    assert list(project.folder.glob("maps/*/*/0/c/0/*/*")), "blocks are kept"
    assert not list(project.folder.glob("maps/*/*.claim")), "and may be gone on with"
    assert not any(project.maps(slide.id) for slide in project.cohort)


def _is_busy(dask_worker):
    return bool(dask_worker.active_threads)


def test_an_interruption_ends_the_wait(project, two_workers):
    with interruptible(lambda: True), pytest.raises(Interrupted):
        drain(predict_cohort_on(two_workers, project, config=CONFIG))


def test_a_full_disk_ends_the_work(project, two_workers):
    two_workers.run(_fill_disk)
    try:
        with pytest.raises(ProjectError, match="no space left"):
            drain(predict_cohort_on(two_workers, project, config=CONFIG))
    finally:
        two_workers.run(_free_disk)
    assert not any(project.maps(slide.id) for slide in project.cohort)
    assert {one.state for one in drain(predict_cohort_on(two_workers, project, config=CONFIG))} == {"predicted"}


def _fill_disk():
    def refuse(_):
        raise OSError(28, "full")

    os.real_fsync, os.fsync = os.fsync, refuse


def _free_disk():
    os.fsync = os.real_fsync


def test_of_two_predictions_of_one_slide_one_is_refused(project):
    """Two threads here, as two machines there; the map is that of one alone."""
    expected = loop_hashes(project)
    first = predict_cohort(project, ["s0"], config=CONFIG)
    while not isinstance(next(first), BlockDone):
        pass
    told = []
    other = threading.Thread(
        target=lambda: told.extend(drain(predict_cohort(Project.open(project.folder), ["s0"], config=CONFIG)))
    )
    other.start()
    other.join(60)
    assert [one.state for one in told] == ["failed"]
    assert f"process {os.getpid()}" in told[0].error
    assert drain(first)[0].state == "predicted"
    assert hashes(project) == {"s0": expected["s0"]}


def test_two_clusters_on_one_project_make_every_map_once(project, two_workers):
    expected = loop_hashes(project)
    outcomes = {}

    def work(name, cluster):
        outcomes[name] = drain(predict_cohort_on(cluster, Project.open(project.folder), config=CONFIG))

    with cluster_module.client_on(1) as other:
        threads = [threading.Thread(target=work, args=pair) for pair in (("a", two_workers), ("b", other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    states = [{outcomes["a"][i].state, outcomes["b"][i].state} for i in range(4)]
    assert all("predicted" in pair for pair in states), states
    assert hashes(project) == expected


def test_a_scheduler_that_is_not_there_is_told(project):
    with pytest.raises(ProjectError, match=r"tcp://127\.0\.0\.1:1: no scheduler answers"):
        drain(predict_cohort_on("tcp://127.0.0.1:1", project, config=CONFIG))


def test_an_address_serves_as_well(project, two_workers):
    address = two_workers.scheduler.address
    assert {one.state for one in drain(predict_cohort_on(address, project, config=CONFIG))} == {"predicted"}
    assert two_workers.status == "running"


def test_the_command_predicts_with_workers(project, tmp_path):
    expected = loop_hashes(project)
    path = tmp_path / "s1.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    options = ["--block-cells", "2", "--batch-size", "4", "--device", "cpu", "--no-tissue-only", "--workers", "2"]
    outcome = CliRunner().invoke(app, ["predict", str(project.folder), *options], catch_exceptions=False)
    assert outcome.exit_code == 2
    assert outcome.stdout.splitlines()[-1].startswith("3 predicted, 1 failed; 48 patches")
    assert "Predicting with 2 workers." in outcome.stderr
    assert "Warning: s1 failed: s1.tif" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert hashes(project) == {key: value for key, value in expected.items() if key != "s1"}


def test_no_worker_is_a_mistake(project):
    with pytest.raises(ConfigError, match="workers is 0"):
        predict_cohort_on(0, project)
    with pytest.raises(ProjectError, match="no slide 'x'"):
        predict_cohort_on(1, project, ["x"])


def test_without_distributed_it_is_told_what_to_install(project, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"napari-slidecorr\[dask\]"):
        predict_cohort_on(2, project)


def test_the_recipe_for_slurm_makes_the_job_that_it_tells():
    """As far as a machine without SLURM can say."""
    pytest.importorskip("dask_jobqueue")
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8")
    (recipe,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SLURMCluster" in block]
    made: dict[str, object] = {"__name__": "__main__"}
    exec(recipe.partition("    cluster.adapt")[0], made)  # noqa: S102 - our own documentation
    cluster = made["cluster"]
    try:
        script = cluster.job_script().splitlines()
    finally:
        cluster.close()
    for line in ("-p gpu", "-A pathology", "-n 1", "--cpus-per-task=4", "-t 02:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}" in script
    setting, worker = script[-2:]
    assert setting == "export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__OMP_NUM_THREADS=4"
    assert "--nthreads 1 " in worker
    assert "--lifetime 115m" in worker
