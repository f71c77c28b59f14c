import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import shapely
import torch

from napari_slidecorr import io
from napari_slidecorr.demo import DEMO_CONFIG, DemoDone, held_out_auc, run_demo
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import BatchDone, EpochDone, drain
from napari_slidecorr.geometry import Grid
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.project import Project
from napari_slidecorr.regions import Region, RegionSet
from napari_slidecorr.report import truth_cells
from napari_slidecorr.sample_data import SampleSlide

TINY = replace(DEMO_CONFIG, epochs=1)
SMALL = {"slides": 5, "size_px": 1024, "config": TINY}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    events = list(run_demo(out, **SMALL))
    return out, events


def test_the_last_event_carries_the_table(demo):
    _, events = demo
    assert isinstance(events[-1], DemoDone)
    rows = events[-1].result.rows
    assert [row.objective for row in rows] == ["Baseline", "SCR"]
    for row in rows:
        assert all(0 <= auc <= 1 for auc in (row.train_auc, row.validation_auc, row.held_out_auc))
        assert row.seconds > 0
    assert rows[0].train_auc != rows[1].train_auc


def test_the_table_shows_what_the_rows_say(demo):
    _, events = demo
    result = events[-1].result
    lines = result.table().splitlines()
    assert lines[0].split() == ["objective", "training", "AUC", "validation", "AUC", "held-out", "AUC", "seconds"]
    for row, line in zip(result.rows, lines[1:3], strict=True):
        assert line.split() == list(row.cells().values())
        assert f"{row.held_out_auc:.3f}" in line
    assert json.loads(json.dumps(result.to_json()))["rows"][1]["objective"] == "SCR"


def test_events_tell_whose_they_are(demo):
    _, events = demo
    for kind in (BatchDone, EpochDone):
        assert {event.phase.split(":")[0] for event in events if isinstance(event, kind)} == {"Baseline", "SCR"}


def test_what_lies_on_the_disk_can_be_opened(demo):
    out, events = demo
    result = events[-1].result
    project = Project.open(out / "project")
    assert len(project.cohort) == 5
    assert len(project.runs()) == 2
    assert len(result.maps) == 2
    for path in result.maps:
        prediction = io.read_map(path)
        assert prediction.predicted.any()
        found = io.read_regions(path.with_name(path.name.replace(".ome.zarr", ".geojson"))).regions
        assert set(found.classes) <= set(prediction.classes)
        truth = io.read_regions(out / "truth" / f"{prediction.slide_id}.geojson").regions
        assert set(truth.classes) == set(project.classes)
        assert not project.regions(prediction.slide_id).regions


def test_held_out_slides_neither_train_nor_validate(demo):
    out, events = demo
    predicted = {io.read_map(path).slide_id for path in events[-1].result.maps}
    for run in Project.open(out / "project").runs():
        spec = json.loads((run / "model.json").read_text())
        assert predicted.isdisjoint({*spec["train_slides"], *spec["validation_slides"]})
        assert set(spec["train_slides"]).isdisjoint(spec["validation_slides"])


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.texts = [], []

    def handle_starttag(self, _tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_summary_stands_alone_and_shows_the_table(demo):
    _, events = demo
    result = events[-1].result
    page = _Page()
    page.feed(result.summary.read_text("utf-8"))
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for row in result.rows:
        assert set(row.cells().values()) <= set(page.texts)


def test_a_second_time_gives_the_same_numbers_and_keeps_the_first(demo):
    out, events = demo
    first = events[-1].result.rows
    (out / "project" / "note.txt").write_text("mine")
    second = drain(run_demo(out, **SMALL)).rows
    assert [replace(row, seconds=0) for row in second] == [replace(row, seconds=0) for row in first]
    assert (out / "earlier-1" / "project" / "note.txt").read_text() == "mine"


def test_it_can_be_stopped_anywhere_and_started_again(tmp_path):
    threads = torch.get_num_threads()
    events = run_demo(tmp_path, **SMALL)
    for event in events:
        if isinstance(event, BatchDone):
            break
    events.close()
    assert torch.get_num_threads() == threads
    assert not (tmp_path / "summary.html").exists()
    assert "earlier-1" in next(run_demo(tmp_path, **SMALL)).message


def test_a_project_of_somebody_else_is_left_alone(tmp_path):
    Project.create(tmp_path / "project")
    with pytest.raises(ProjectError, match="choose another folder"):
        run_demo(tmp_path, **SMALL)


def test_an_unknown_kind_is_told_at_the_call(tmp_path):
    with pytest.raises(ConfigError, match="'few'"):
        run_demo(tmp_path, "few")


def square(name, y, x, side, uid):
    return Region(name, shapely.box(y, x, y + side, x + side), uid)


def test_truth_of_cells_is_the_class_that_covers_half():
    truth = RegionSet((square("a", 0, 0, 40, "1"), square("b", 40, 40, 26, "2")))
    found = truth_cells(truth, Grid((4, 4), (0, 0), (20, 20), (20, 20)), ("a", "b"))
    assert found.tolist() == [[0, 0, -1, -1], [0, 0, -1, -1], [-1, -1, 1, -1], [-1, -1, -1, -1]]


def test_truth_of_cells_follows_the_drawn_cell_when_patches_overlap():
    truth = RegionSet((square("a", 0, 0, 40, "1"), square("b", 40, 40, 40, "2")))
    apart = Grid.over((80, 80), (20, 20), (20, 20))
    overlapping = Grid.over((80, 80), (40, 40), (20, 20))
    assert (truth_cells(truth, apart, ("a", "b")) == truth_cells(truth, overlapping, ("a", "b"))).all()


def test_held_out_auc_counts_predicted_cells_with_a_truth_only(tmp_path):
    truth = RegionSet((square("a", 0, 0, 40, "1"), square("b", 40, 40, 40, "2")))
    sample = SampleSlide("s", tmp_path, RegionSet(), truth, held_out=True, group="g")
    grid = Grid((2, 2), (0, 0), (40, 40), (40, 40))
    of_b = np.asarray([[0.2, 0.99], [0.0, 0.8]], np.float32)
    prediction = PredictionMap(np.stack([1 - of_b, of_b]), ("a", "b"), grid, "s", "m")
    assert held_out_auc([prediction], [sample]) == 1
    reversed_map = replace(prediction, probabilities=prediction.probabilities[::-1].copy())
    assert held_out_auc([reversed_map], [sample]) == 0
