"""Many slides predicted by several processes or machines, a task a slide, through dask.distributed.

A worker is told a project's folder and a slide's id, opens both itself and writes the map itself, so that nothing large
travels; all machines must see the folder and the slides at the same paths. What it has to say comes back over the
scheduler as short messages: of a block where it lies, and who listens reads it from the map on the disk.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari_slidecorr.cohort_prediction import CohortPredicted, SlideEnded, SlideOutcome, chosen, predict_one
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ConfigError, ModelError, ProjectError
from napari_slidecorr.events import BlockDone, Event, MapBegun, Notice, check_interrupted, interruptible
from napari_slidecorr.io.map_zarr import read, read_block
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import MODEL_FILE, Project
from napari_slidecorr.torch_trouble import torch_trouble_told
from napari_slidecorr.wording import counted

TELL_S = 0.5
"""How often a slide tells how far it is, besides each of its blocks."""

LOOK_S = 0.2
"""How often somebody who waits for news looks whether they are still wanted, and the scheduler still there."""

READERS = 2
"""Threads that read patches, where a worker does not know how many cores are its own."""


def predict_cohort_on(
    cluster: Any,
    project: Project,
    slide_ids: Sequence[str] | None = None,
    run: str | Path | None = None,
    config: PredictConfig | None = None,
) -> Iterator[Event]:
    """Predict slides as `predict_cohort` does, on the workers of a cluster; the maps are the same.

    A slide whose worker dies is given to another one, which goes on with the blocks that are missing; when several die
    of it (dask's ``distributed.scheduler.allowed-failures``), the slide has failed and the others go on.

    Parameters
    ----------
    cluster : int, str, distributed.Client or a dask cluster
        How many processes to start on this machine, a scheduler's address, or what is running already.
    project, slide_ids, run, config
        See `predict_cohort`.

    Returns
    -------
    iterator of Event
        As from `predict_cohort`, but events of several slides mix; closing it ends the tasks at once, and the blocks
        that are written stay.

    Raises
    ------
    ConfigError
        Now, if dask.distributed is not installed or the number of workers is below 1.
    ProjectError
        Now, if there is no such slide or no run; later, if the scheduler cannot be reached or goes away, or maps cannot
        be written.
    ModelError
        If the model cannot be read.
    """
    _check_installed()
    if isinstance(cluster, int) and cluster < 1:
        raise ConfigError(f"workers is {cluster}; it must be 1 or more.")
    wanted, folder, spec = chosen(project, slide_ids, run)
    config = config or PredictConfig()
    topic = f"slidecorr-{uuid.uuid4().hex}"
    threads = _cores_each(cluster) if isinstance(cluster, int) else None
    tasks = [
        _Task(project.folder, one, folder, spec.weights_sha256, config, f"{one} ({n} of {len(wanted)})", topic, threads)
        for n, one in enumerate(wanted, 1)
    ]
    return _predict_on(cluster, tasks)


@dataclass(frozen=True)
class _Task:
    """All that a worker is told of one slide."""

    project: Path
    slide: str
    run: Path
    weights_sha256: str
    config: PredictConfig
    phase: str
    topic: str
    threads: int | None


# -- here: who asks and listens ----------------------------------------------------------------------------------------


def _check_installed() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'Several workers need dask.distributed; install it with: pip install "napari-slidecorr[dask]".'
        ) from error


def _cores_each(workers: int) -> int:
    from dask.system import CPU_COUNT

    return max(1, int(CPU_COUNT) // workers)


@contextmanager
def client_on(cluster: Any) -> Iterator[Any]:
    """Give a distributed.Client of a cluster as `predict_cohort_on` takes it.

    What was started for it is ended with it, what was handed in goes on.

    Raises
    ------
    ProjectError
        If no scheduler answers at the address.
    """
    from distributed import Client

    if isinstance(cluster, Client):
        yield cluster
    elif isinstance(cluster, int):
        with _local_cluster(cluster) as started, Client(started, set_as_default=False) as client:
            yield client
    else:
        if isinstance(cluster, str):
            _knock(cluster)
        with Client(cluster, set_as_default=False) as client:
            yield client


def _knock(address: str) -> None:
    """See that somebody listens at a scheduler's address: dask itself would try for half a minute and tell no cause."""
    import socket

    from distributed.comm import parse_address, parse_host_port

    try:
        with socket.create_connection(parse_host_port(parse_address(address)[1], 8786), timeout=10):
            pass
    except (OSError, ValueError) as error:
        raise ProjectError(f"{address}: no scheduler answers there ({error}); check the address.") from error


@contextmanager
def _local_cluster(workers: int) -> Iterator[Any]:
    """Start processes that compute in one thread of dask's; no dashboard, no fixed port, no limit of memory.

    Dask's own limit would stop a worker at its share of the memory, although others may need less than theirs.
    """
    from distributed import LocalCluster

    # A worker that dies is told by its slide; dask's own pages about it help nobody.
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # None alone would open port 8787 to everybody
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


def _predict_on(cluster: Any, tasks: Sequence[_Task]) -> Generator[Event, None, None]:
    yield Event(phase="Starting workers")
    with client_on(cluster) as client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        message = (
            f"Predicting with {counted(workers, 'worker')}."
            if workers
            else "No worker is there yet; waiting for the first."
        )
        yield Notice(phase="Starting workers", message=message, warning=not workers)
        news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        topic = tasks[0].topic if tasks else ""
        client.subscribe_topic(topic, lambda event: news.put(event[1]))
        futures = {client.submit(_predict_there, t, key=f"{t.topic}-{t.slide}", pure=False): t for t in tasks}
        try:
            yield from _listen(client, futures, news)
        finally:
            client.cancel(list(futures), force=True)
            client.unsubscribe_topic(topic)


def _listen(client: Any, futures: Mapping[Any, _Task], news: queue.SimpleQueue[Any]) -> Generator[Event, None, None]:
    for future in futures:
        future.add_done_callback(news.put)
    slides = {task.slide: _SlideNews(task) for task in futures.values()}
    outcomes: dict[str, SlideOutcome] = {}
    while len(outcomes) < len(futures):
        check_interrupted()
        try:
            item = news.get(timeout=LOOK_S)
        except queue.Empty:
            _check_scheduler(client)
            continue
        if isinstance(item, dict):
            yield from slides[item["slide"]].events(item)
            continue
        task = futures[item]
        outcome, blocks = _result(item, task)
        yield from slides[task.slide].rest(blocks)
        outcomes[task.slide] = outcome
        failed = outcome.state == "failed"
        yield SlideEnded(phase=task.phase, message=outcome.sentence(), warning=failed, outcome=outcome)
    result = tuple(outcomes[task.slide] for task in futures.values())
    yield CohortPredicted(phase="Predicted", done=len(result), total=len(result), result=result)


def _check_scheduler(client: Any) -> None:
    if client.status != "running":
        raise ProjectError("The scheduler has gone away; predict again to go on with what is missing.")


def _result(future: Any, task: _Task) -> tuple[SlideOutcome, list[_Place]]:
    """Give what became of a slide.

    Raises
    ------
    ProjectError, ModelError
        What stops every slide, as the worker raised it.
    """
    from distributed import KilledWorker

    if future.status == "finished":
        result: tuple[SlideOutcome, list[_Place]] = future.result()
        return result
    if future.status != "error":
        raise ProjectError(f"{task.slide}: the scheduler has dropped it ({future.status}); predict again to go on.")
    error = future.exception()
    if isinstance(error, KilledWorker):
        cause = "every worker that predicted it died; give workers more memory, or look into their logs"
        return SlideOutcome(task.slide, "failed", error=f"{cause}."), []
    if isinstance(error, ImportError):
        raise ProjectError(f"A worker cannot import what it needs ({error}); install the same there.") from error
    raise error


class _SlideNews:
    """Makes events of one slide from what its worker says; each block comes once, whoever has predicted it."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._path: Path | None = None
        self._told: set[_Place] = set()

    def events(self, item: Mapping[str, Any]) -> Iterator[Event]:
        counts: dict[str, Any] = {"phase": self._task.phase, "done": item["done"], "total": item["total"]}
        if "map" in item:
            self._path = Path(item["map"])
            yield MapBegun(**counts, begun=read(self._path, allow_incomplete=True), path=self._path)
        elif "block" in item:
            yield from self._block(tuple(item["block"]), counts)
        elif "message" in item:
            yield Notice(**counts, message=item["message"], warning=item["warning"])
        else:
            yield Event(**counts)

    def rest(self, blocks: Sequence[_Place]) -> Iterator[Event]:
        """The blocks of which the end of the slide was heard first."""
        for place in blocks:
            yield from self._block(place, {"phase": self._task.phase})

    def _block(self, place: _Place, counts: Mapping[str, Any]) -> Iterator[Event]:
        if place in self._told or self._path is None:
            return
        self._told.add(place)
        rows, columns = slice(*place[:2]), slice(*place[2:])
        values: dict[str, Any] = read_block(self._path, rows, columns)
        yield BlockDone(**counts, rows=rows, columns=columns, slide_id=self._task.slide, **values)


# -- there: a worker's work ----------------------------------------------------------------------------------------------

_Place = tuple[int, int, int, int]
_loaded: dict[tuple[Path, str], Any] = {}
_loading = threading.Lock()


def _predict_there(task: _Task) -> tuple[SlideOutcome, list[_Place]]:
    """Predict one slide in a worker: give what became of it, and its new blocks.

    Raises
    ------
    Interrupted
        If nobody wants it any more.
    """
    from distributed import get_worker

    with torch_trouble_told():
        from napari_slidecorr.learning.threads import use_threads

    worker = get_worker()
    use_threads(task.threads, task.threads or READERS)
    project = Project.open(task.project)
    spec = ModelSpec.load(task.run / MODEL_FILE)
    teller = _Teller(worker, task)
    outcome = SlideOutcome(task.slide, "failed")
    load = partial(_model, project, task)
    with (
        interruptible(partial(_is_dropped, worker, worker.get_current_task())),
        closing(predict_one(project, task.slide, spec, load, task.config, task.phase, first=False)) as events,
    ):
        for event in events:
            check_interrupted()
            if isinstance(event, SlideEnded):
                outcome = event.outcome
            else:
                teller.tell(event)
    return outcome, teller.blocks


def _model(project: Project, task: _Task) -> Any:
    """Load the model, or give the one that this process has loaded before; one is kept."""
    key = task.run, task.weights_sha256
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            model, spec = project.load_model(task.run)
            if spec.weights_sha256 != task.weights_sha256:
                raise ModelError(f"{task.run}: the model has changed since the prediction was begun; begin again.")
            _loaded[key] = model, spec
        return _loaded[key]


def _is_dropped(worker: Any, key: Any) -> bool:
    """Whether the scheduler has told this worker to forget a task, as it does when its client cancels or is gone."""
    task = worker.state.tasks.get(key)
    return task is None or task.state in ("cancelled", "released", "forgotten")


class _Teller:
    """Sends short messages to whoever listens to the topic."""

    def __init__(self, worker: Any, task: _Task) -> None:
        self._worker, self._task = worker, task
        self._last = 0.0
        self.blocks: list[_Place] = []

    def tell(self, event: Event) -> None:
        now = time.monotonic()
        message: dict[str, Any] = {"slide": self._task.slide, "done": event.done, "total": event.total}
        if isinstance(event, BlockDone):
            place = event.rows.start, event.rows.stop, event.columns.start, event.columns.stop
            self.blocks.append(place)
            message["block"] = list(place)
        elif isinstance(event, MapBegun):
            message["map"] = str(event.path)
        elif isinstance(event, Notice):
            message |= {"message": event.message, "warning": event.warning}
        elif now - self._last < TELL_S:
            return
        self._last = now
        self._worker.log_event(self._task.topic, message)
