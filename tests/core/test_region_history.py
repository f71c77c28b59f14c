"""States of regions on the disk: which are kept, how they come back, what damage does."""

import errno
import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from shapely import Polygon, box
from typer.testing import CliRunner

from napari_slidecorr import region_history
from napari_slidecorr.cli import app
from napari_slidecorr.errors import ProjectError, RegionsError
from napari_slidecorr.io import read_regions
from napari_slidecorr.project import Project
from napari_slidecorr.region_history import RegionHistory, change_of
from napari_slidecorr.region_store import find_state
from napari_slidecorr.regions import IGNORE, Region, RegionSet


def region(n, name="tumour"):
    return Region(name, box(n / 3, n, n + 7, n + 9), f"uid {n}")


def first(count):
    return RegionSet(tuple(region(n) for n in range(count)))


HOLED = Region("Größe \u2028µ", Polygon([(0, 0), (0, 9), (9, 9)], [[(2, 3), (2, 4), (3, 4)]]), "holed")
ODD = RegionSet((HOLED, Region("", box(0, 0, 1e-9, 1e6), "no class"), Region(IGNORE, box(0, 0, 1 / 3, 5), "i")))


@pytest.fixture
def history(tmp_path):
    return RegionHistory(tmp_path / "slide")


def keep_all(history, sets):
    for before, now in pairwise(sets):
        history.keep(now, before)


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_every_state_comes_back_exactly(history):
    sets = [RegionSet(), ODD, ODD.added(first(5)), RegionSet((*first(5), *ODD)), first(2), RegionSet(), first(40)]
    sets += [RegionSet((*first(40).regions[:n], *first(40).regions[n + 1 :], region(99 + n))) for n in range(30)]
    keep_all(history, sets)
    states = history.states()
    assert [history.read(state.name) for state in states] == sets[:0:-1]
    assert [RegionHistory(history.folder).read(state.name) for state in states] == sets[:0:-1]
    assert [state.regions for state in states] == [len(regions) for regions in sets[:0:-1]]
    assert states == RegionHistory(history.folder).states()
    assert states[0].time <= datetime.now(UTC)


def test_a_change_of_one_region_is_small(history):
    many = first(2000)
    history.keep(many)
    history.keep(many.added([region(5000)]), many)
    small, large = (path.stat().st_size for path in history._files())
    assert small < 1000 < large


def test_what_is_the_same_is_no_state(history):
    history.keep(first(2))
    history.keep(first(2), first(2))
    RegionHistory(history.folder).keep(first(2), first(2))
    assert len(history.states()) == 1


def test_what_another_program_wrote_is_a_state(history):
    history.keep(first(2))
    history.keep(first(3), RegionSet((HOLED,)))
    assert [history.read(state.name) for state in history.states()] == [first(3), RegionSet((HOLED,)), first(2)]
    assert history.states()[1].summary == "1 region: as it was found"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (first(0), first(2), "+2 tumour"),
        (first(3), first(1), "-2 tumour"),
        (first(1), RegionSet((region(0, "stroma"),)), "1 tumour now stroma"),
        (first(1), RegionSet((Region("tumour", box(0, 0, 1, 1), "uid 0"),)), "1 tumour reshaped"),
        (first(2), RegionSet(first(2).regions[::-1]), "another order"),
        (first(1), RegionSet((region(7, ""),)), "+1 no class, -1 tumour"),
        (first(0), RegionSet((Region("{}", box(0, 0, 1, 1)),)), "+1 {}"),
    ],
)
def test_what_changed_is_told_by_class(before, now, told):
    assert change_of(before, now) == told


# -- how much is kept --------------------------------------------------------------------------------------------------


def test_fifty_states_are_kept_and_can_be_read(history):
    keep_all(history, [first(n) for n in range(131)])
    states = history.states()
    assert [state.regions for state in states] == list(range(130, 80, -1))
    assert [len(history.read(state.name)) for state in states] == list(range(130, 80, -1))
    assert len(list(history.folder.iterdir())) <= 51


def test_bytes_are_bounded_but_the_newest_stays(history, monkeypatch):
    monkeypatch.setattr(region_history, "MOST_BYTES", 15_000)
    keep_all(history, [first(n) for n in range(0, 400, 10)])
    assert sum(path.stat().st_size for path in history.folder.iterdir()) <= 15_000
    assert len(history.states()) > 1
    monkeypatch.setattr(region_history, "MOST_BYTES", 1)
    history.keep(first(500), first(390))
    assert len(list(history.folder.iterdir())) <= 2
    assert history.read(history.states()[0].name) == first(500)


def test_what_a_killed_program_left_half_written_goes(history):
    history.keep(first(1))
    part = history.folder / "20200101T000000.000000Z.json.gz.part"
    part.write_bytes(b"half")
    history.keep(first(2), first(1))
    assert not part.exists()
    assert len(history.states()) == 2


def test_a_clock_set_back_does_not_mix_the_order(history):
    history.folder.mkdir()
    history.keep(first(1))
    (path,) = history.folder.iterdir()
    path.rename(path.with_name("20991231T235959.999999Z.json.gz"))
    again = RegionHistory(history.folder)
    again.keep(first(2), first(1))
    assert [state.regions for state in again.states()] == [2, 1]


# -- damage ------------------------------------------------------------------------------------------------------------


def test_damage_is_told_and_takes_few_along(history):
    keep_all(history, [first(n) for n in range(40)])
    whole = [
        path
        for path in history._files()
        if json.loads(gzip.decompress(path.read_bytes()).splitlines()[0])["base"] is None
    ]
    assert len(whole) >= 3
    whole[0].write_bytes(whole[0].read_bytes()[:-9])
    good = []
    for state in history.states():
        try:
            good.append(history.read(state.name))
        except RegionsError as error:
            assert "damaged" in str(error)  # noqa: PT017 - some are good
    assert len(good) >= 39 - 17
    assert history.newest_good() is not None
    history.keep(first(60), first(39))
    assert history.newest_good() == history.states()[0]


def test_a_file_that_says_nothing_is_listed_as_damaged(history):
    keep_all(history, [first(n) for n in range(4)])
    newest = history._files()[0]
    for content in (b"", b"no gzip", gzip.compress(b""), gzip.compress(b"[]\n"), gzip.compress(b"{}\n")):
        newest.write_bytes(content)
        state, *_ = history.states()
        assert (state.damaged, state.summary) == (True, "damaged, cannot be restored")
        with pytest.raises(RegionsError, match="damaged"):
            history.read(state.name)
        assert history.newest_good() == history.states()[1]


@pytest.mark.parametrize("name", ["", "..", "../slide", "20200101T000000.000000Z", "1"])
def test_a_state_that_is_not_there(history, name):
    history.keep(first(1))
    with pytest.raises(RegionsError, match="There is no state"):
        history.read(name)
    if name != "1":
        with pytest.raises(RegionsError, match="There is no state"):
            find_state(history.states(), name)


# -- in a project ------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    import numpy as np
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((64, 64, 3), 200, np.uint8), tile=(64, 64), photometric="rgb", metadata=None)
    made = Project.create(tmp_path / "project", ["tumour"])
    made.add_slides([path], mpp=0.5)
    return made


def test_restoring_can_be_undone(project):
    for n in (1, 2, 3):
        project.save_regions("a", first(n))
    third, _second, one = project.region_states("a")
    assert project.restore_regions("a", one) == project.regions("a") == first(1)
    assert Project.open(project.folder).regions("a") == first(1)
    assert project.regions_at("a", third) == first(3)
    assert project.restore_regions("a", third.name) == first(3)
    assert [state.regions for state in project.region_states("a")] == [3, 1, 3, 2, 1]


def test_a_damaged_file_names_the_way_back(project):
    project.save_regions("a", first(2))
    project.save_regions("a", first(3))
    file = project.folder / "regions" / "a.geojson"
    file.write_bytes(file.read_bytes()[:-30])
    found = Project.open(project.folder)
    newest = found.region_states("a")[0]
    with pytest.raises(RegionsError, match=r"a\.geojson.*newest whole state.*\(3 regions\).*regions restore") as caught:
        found.regions("a")
    assert str(caught.value).endswith(f"regions restore {project.folder} --slide a {newest.name}")
    damaged = file.read_bytes()
    assert found.restore_regions("a", newest) == found.regions("a") == first(3)
    assert (file.parent / "a.geojson.damaged").read_bytes() == damaged


def test_a_removed_slide_takes_its_states_along(project):
    project.save_regions("a", first(2))
    project.remove_slide("a")
    project.add_slides([project.folder.parent / "a.tif"])
    assert project.region_states("a") == ()
    assert len(list((project.folder / "removed" / "history" / "1-a").iterdir())) == 1


def test_a_project_from_before_states_keeps_what_it_had(project):
    project.save_regions("a", first(2))
    for path in (project.folder / "regions" / "history" / "a").iterdir():
        path.unlink()
    found = Project.open(project.folder)
    found.save_regions("a", first(5))
    assert [found.regions_at("a", state) for state in found.region_states("a")] == [first(5), first(2)]


def test_states_that_cannot_be_written_are_told_and_regions_are_saved(project):
    (project.folder / "regions").mkdir()
    (project.folder / "regions" / "history").write_text("a file in the way")
    project.save_regions("a", first(2))
    assert "not their state" in project.history_trouble
    assert Project.open(project.folder).regions("a") == first(2)
    (project.folder / "regions" / "history").unlink()
    project.save_regions("a", first(3))
    assert project.history_trouble == ""


LIMITED = """
import sys
from shapely import box
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.project import Project
from napari_slidecorr.regions import Region, RegionSet
import resource, signal
project = Project.open(sys.argv[1])
project.regions("a")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
many = RegionSet(tuple(Region("tumour", box(n, n, n + 7, n + 9), f"uid {n}") for n in range(200)))
try:
    project.save_regions("a", many)
except ProjectError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [100, 1000, 5000])
def test_a_disk_that_is_full_in_the_middle_of_a_file_breaks_nothing(project, room):
    project.save_regions("a", first(2))
    before = {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, str(project.folder), str(room)], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in told.stdout
    assert {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_told_and_the_same_change_saved_later(project, monkeypatch):
    project.save_regions("a", first(2))

    def refuse(_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(ProjectError, match="no space left"):
            project.save_regions("a", first(3))
    assert project.regions("a") == read_regions(project.folder / "regions" / "a.geojson").regions == first(2)
    project.save_regions("a", first(3))
    assert [state.regions for state in project.region_states("a")] == [3, 2]


def test_states_on_the_command_line(project):
    for n in (1, 2):
        project.save_regions("a", first(n))
    folder = str(project.folder)
    listed = CliRunner().invoke(app, ["regions", "states", folder, "--slide", "a", "--json"])
    states = json.loads(listed.stdout)["states"]
    assert [(one["number"], one["regions"], one["change"]) for one in states] == [
        (1, 2, "+1 tumour"),
        (2, 1, "+1 tumour"),
    ]
    text = CliRunner().invoke(app, ["regions", "states", folder, "--slide", "a"]).stdout
    assert "2 regions: +1 tumour" in text
    done = CliRunner().invoke(app, ["regions", "restore", folder, "--slide", "a", states[1]["name"], "--json"])
    assert json.loads(done.stdout)["regions"] == 1
    assert project.regions("a") == first(1)
    assert CliRunner().invoke(app, ["regions", "restore", folder, "--slide", "a", "2"]).exit_code == 0
    assert project.regions("a") == first(2)
    wrong = CliRunner().invoke(app, ["regions", "restore", folder, "--slide", "a", "77"])
    assert wrong.exit_code == 2
    assert "There is no state '77'" in wrong.stderr
