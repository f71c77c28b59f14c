"""However a dock is opened, from napari's menu or by a button of another dock, there is one of it, as a tab."""

import pytest

from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.open_dock import holder_of, open_dock


@pytest.fixture
def viewer(make_napari_viewer):
    made = make_napari_viewer(show=True)
    made.window._qt_window.resize(1366, 768)
    return made


def from_menu(viewer, name):
    found = viewer.window._qt_window.menuBar().actions()
    for word in ("Plugins", "Slide correlation", name):
        action = next(each for each in found if each.text().replace("&", "") == word)
        found = action.menu().actions() if action.menu() is not None else []
    action.trigger()


def docks(viewer):
    return viewer.window._qt_window.findChildren(Dock)


def test_what_the_menu_opened_is_not_opened_twice(viewer, qtbot):
    from_menu(viewer, "Regions")
    qtbot.waitUntil(lambda: len(docks(viewer)) == 1)
    opened = open_dock(viewer, "Regions")
    assert opened is holder_of(docks(viewer)[0])
    assert len(docks(viewer)) == 1


def test_what_a_button_opened_is_not_opened_twice_by_the_menu(viewer, qtbot):
    open_dock(viewer, "Regions")
    from_menu(viewer, "Regions")
    qtbot.wait(50)
    assert [type(dock) for dock in docks(viewer)] == [RegionsDock]


def test_docks_of_the_menu_are_tabs_of_a_short_name_and_the_new_one_is_in_front(viewer, qtbot):
    for name in ("Slides", "Regions"):
        from_menu(viewer, name)
    qtbot.waitUntil(lambda: len(docks(viewer)) == 2)
    window = viewer.window._qt_window
    slides, regions = (holder_of(dock) for dock in docks(viewer))
    qtbot.waitUntil(lambda: window.tabifiedDockWidgets(slides) == [regions])
    assert [slides.windowTitle(), regions.windowTitle()] == ["Slides", "Regions"]
    qtbot.waitUntil(lambda: not regions.visibleRegion().isEmpty() and slides.visibleRegion().isEmpty())


def test_of_docks_that_are_opened_in_one_go_the_last_is_in_front(viewer, qtbot):
    names = ("Slides", "Regions", "Training")
    made = [viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)[1] for name in names]
    slides, regions, training = map(holder_of, made)
    training.raise_()
    qtbot.wait(300)
    assert not training.visibleRegion().isEmpty()
    assert slides.visibleRegion().isEmpty()
    slides.raise_()
    qtbot.wait(300)
    assert training.visibleRegion().isEmpty()
    assert regions.visibleRegion().isEmpty()
