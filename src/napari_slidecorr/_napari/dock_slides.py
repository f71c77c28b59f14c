"""The Slides dock: the project, its slides, and which of them is in view."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QCheckBox, QFileDialog, QInputDialog, QLabel, QMessageBox, QSizePolicy

from napari_slidecorr._napari.associated import AssociatedWindow, read_associated
from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock, MessageLine
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.next_step import NextStep
from napari_slidecorr._napari.parts import box, button, row, timer
from napari_slidecorr._napari.slide_table import Fact, SlideTable, look_at
from napari_slidecorr._napari.stage import Loose, Stage
from napari_slidecorr._napari.thumbnails import Thumbnails
from napari_slidecorr._napari.welcome import Welcome, is_project, slide_filter
from napari_slidecorr.errors import ProjectError, SlideCorrError
from napari_slidecorr.recent_projects import remember_project
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.session import sentence
from napari_slidecorr.wording import counted

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.project import Project


class _Added(NamedTuple):
    """Ids and paths of the slides that were added, and sentences about those that were not."""

    ids: list[str]
    paths: list[Path]
    refused: list[str]


class SlidesDock(Dock):
    """New or open project, add slides, look at one after the other.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    needs_project = False

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.desk = desk_of(napari_viewer)
        self.stage = Stage(self.desk, self)
        self.errands = Errands(self)
        self._asides = Errands(self)  # nothing waits for these, so no button is disabled meanwhile
        self._damages: dict[str, list[str]] = {}
        self.setMinimumWidth(375)
        self.welcome = Welcome(self, self._asides)
        self.body.addWidget(self.welcome)
        self._project_box()
        self.next_step = NextStep(self, self._asides)
        self.body.addWidget(self.next_step)
        self._slides_box()
        self._background_box()
        self.status, self.damage = MessageLine(), MessageLine()
        self.damage.setObjectName("damage")
        for line in (self.status, self.damage, self.message):
            self.body.addWidget(line)
        self.body.addStretch(1)
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        self.stage.opening.connect(lambda slide_id: self.status.tell(f"Opening {slide_id} ..."))
        self.stage.ended.connect(lambda: self.status.tell(""))
        self.stage.damaged.connect(self._on_damaged)
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.project_changed, self._on_project)
        self.listen(self.session.project_reopened, self._on_reopened)
        self.listen(self.session.slides_changed, self.refresh)
        self.listen(self.session.regions_changed, self._on_regions)
        self.listen(self.session.current_slide_changed, self._on_current)
        self.listen(self.desk.step_asked, self.step)
        self.welcome.slides_chosen.connect(self.start_with)
        self.welcome.project_chosen.connect(self.open_project)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def create_project(self, folder: str | Path) -> bool:
        """Make a project in an empty or new folder and open it; False, with the reason in the dock, when it cannot."""
        self.desk.flush()
        return self.attempt(lambda: self.session.create_project(Path(folder)))

    def open_project(self, folder: str | Path) -> bool:
        """Open a project folder and show its first slide; False, with the reason in the dock, when it cannot."""
        self.desk.flush()
        done = self.attempt(lambda: self.session.open_project(Path(folder)))
        if done and self.table.ids:
            self.stage.show(self.table.ids[0])
        return done

    def start_with(self, paths: Iterable[str | Path], folder: str | Path) -> bool:
        """Add slides to a project, which is made unless it is there; False, with the reason in the dock, when it cannot."""
        folder = Path(folder)
        done = self.open_project(folder) if is_project(folder) else self.create_project(folder)
        if done:
            self.add_slides(paths)
        return done

    def add_slides(self, paths: Iterable[str | Path]) -> None:
        """Add slides in a thread; those that cannot be opened are told, the others join the project."""
        self._add([Loose(Path(path), None, RegionSet()) for path in paths])

    def add_open_slides(self) -> None:
        """Add the slides that were dropped into the viewer or opened as samples, with the regions drawn on them."""
        found = self.stage.loose()
        if found:
            self._add(found)
        else:
            self.message.tell("All slides in the viewer are in the project; drop a slide file into it to open one.")

    def _add(self, wanted: list[Loose]) -> None:
        project = self.session.project
        if project is None:
            self.message.tell("Make or open a project first; slides are added to it.", is_error=True)
            return
        self.message.tell("")
        self.status.tell(f"Adding {counted(len(wanted), 'slide')} ...")
        self.errands.run(lambda: _add_each(project, wanted), self._on_added, self.session.report)
        self._enable()

    def show_slide(self, slide_id: str) -> None:
        """Show a slide, opened in a thread, with its regions; zoom, tool and class stay."""
        self.attempt(lambda: self.stage.show(slide_id))

    def step(self, by: int) -> None:
        """Show the slide that many places further in the table."""
        ids = self.table.ids
        now = self.desk.wanted or self.session.current_slide
        if ids:
            at = ids.index(now) + by if now in ids else 0
            self.show_slide(ids[min(max(at, 0), len(ids) - 1)])

    def set_mpp(self, slide_id: str, mpp: float | None) -> bool:
        """Give a slide the user's micrometres per pixel; None goes back to the file's."""
        if not self.attempt(lambda: self._idle_project().set_mpp(slide_id, mpp)):
            return False
        in_view = self.session.current_slide == slide_id
        self.session.slides_changed.emit()
        if in_view:
            self.stage.reopen(slide_id)
        return True

    def remove_slide(self, slide_id: str) -> bool:
        """Take a slide out of the project; its regions and maps move to the folder ``removed``, its file stays."""
        self.desk.flush()
        ids, in_view = self.table.ids, self.session.current_slide == slide_id
        if not self.attempt(lambda: self._idle_project().remove_slide(slide_id)):
            return False
        if in_view:
            self.stage.clear()
        self.session.slides_changed.emit()
        at = ids.index(slide_id)
        neighbours = (*ids[at + 1 :], *reversed(ids[:at]))
        if in_view and neighbours:
            self.stage.show(neighbours[0])
        self.message.tell(
            f"{slide_id} was taken out. Its regions and maps are kept in the project's folder 'removed'; its file was "
            "not touched."
        )
        return True

    def show_associated(self, slide_id: str) -> None:
        """Read the label and macro images of a slide in a thread and show them in a window."""
        project = self.session.require_project()
        self.message.tell("")
        self.errands.run(
            lambda: read_associated(project.slide(slide_id)),
            lambda images: self._on_associated(slide_id, images),
            self.session.report,
        )

    def selected(self) -> str | None:
        """Id of the selected row; else of the slide in view."""
        return self.table.selected or self.session.current_slide

    def _idle_project(self) -> Project:
        if self.session.busy:
            raise ProjectError(
                f"{self.session.job_title} still runs and may use this slide; wait for it, or cancel it."
            )
        return self.session.require_project()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _project_box(self) -> None:
        self.project_label = QLabel()
        self.project_label.setWordWrap(True)
        self.project_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.new_button = button("New ...", "Make a project in an empty folder.", self._ask_new)
        self.open_button = button("Open ...", "Open a project's folder.", self._ask_open)
        self.project_box = box("Project", self.project_label, row(self.new_button, self.open_button))
        self.body.addWidget(self.project_box)

    def _slides_box(self) -> None:
        self.add_button = button("Add slides ...", "Add one or more slide files.", self._ask_slides)
        self.add_zarr_button = button(
            "Add folder ...", "Add a slide that is a folder: OME-Zarr, or the files of one DICOM slide.", self._ask_zarr
        )
        self.add_open_button = button(
            "Add open ones",
            "Add the slides that were dropped into the viewer or opened as samples, with the regions drawn on them.",
            self.add_open_slides,
        )
        self.table = SlideTable()
        self.thumbnails = Thumbnails(self.table, self)
        self.table.group_edited.connect(self._on_group_edited)
        self.table.show_asked.connect(self.show_slide)
        self.table.mpp_asked.connect(self._ask_mpp)
        self.previous_button = button("Previous", "Show the slide before; zoom and class stay.", lambda: self.step(-1))
        self.show_button = button("Show", "Show the selected slide.", self._show_selected)
        self.next_button = button("Next", "Show the next slide; zoom and class stay.", lambda: self.step(1))
        self.mpp_button = button("Set µm per px ...", "Say how large its pixels are.", self._ask_mpp_of_selected)
        self.associated_button = button(
            "Label, macro ...",
            "Show the label and macro images of the selected slide in a window. They may name a patient; they are read "
            "only now, and never exported.",
            self._show_associated_of_selected,
        )
        self.remove_button = button("Remove ...", "Take the selected slide out of the project.", self._ask_remove)
        self.slides_box = box(
            "Slides",
            row(self.add_button, self.add_zarr_button, self.add_open_button),
            self.table,
            row(self.previous_button, self.show_button, self.next_button),
            row(self.mpp_button, self.associated_button, self.remove_button),
        )
        self.body.addWidget(self.slides_box)

    def _background_box(self) -> None:
        from napari.settings import get_settings

        self.async_box = QCheckBox("Load tiles in the background")
        self.async_box.setToolTip(
            "napari's asynchronous slicing, for all layers and for the next sessions too. Moving stays smooth while "
            "tiles are read, and what is not read yet is black for a moment. Off, moving waits for the tiles."
        )
        self.async_box.setChecked(bool(get_settings().experimental.async_))
        self.async_box.toggled.connect(_set_async)
        self.srgb_box = QCheckBox("Show colours as the scanner meant them")
        self.srgb_box.setToolTip(
            "Converts to sRGB where a slide has an ICC profile. For the eye alone: training and prediction always see "
            "the stored colours."
        )
        self.srgb_box.toggled.connect(self._set_srgb)
        self.body.addWidget(self.async_box)
        self.body.addWidget(self.srgb_box)

    def _enable(self) -> None:
        ready = self.session.project is not None and not self.errands.running
        for each in (self.add_button, self.add_zarr_button, self.add_open_button):
            each.setEnabled(ready)
        stepping = (self.previous_button, self.show_button, self.next_button)
        for each in (*stepping, self.mpp_button, self.associated_button, self.remove_button):
            each.setEnabled(bool(self.table.ids))

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask_new(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "An empty folder for the new project"):
            self.create_project(folder)

    def _ask_open(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "The folder of a project"):
            self.open_project(folder)

    def _ask_slides(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Slides", "", slide_filter())
        if paths:
            self.add_slides(paths)

    def _ask_zarr(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "The folder of a slide: OME-Zarr, or DICOM files"):
            self.add_slides([folder])

    def _ask_mpp_of_selected(self) -> None:
        if (slide_id := self.selected()) is not None:
            self._ask_mpp(slide_id)

    def _ask_mpp(self, slide_id: str) -> None:
        told = _users_mpp(self.session.require_project(), slide_id)
        text, accepted = QInputDialog.getText(
            self,
            "Micrometres per pixel",
            f"How many micrometres wide is a pixel of {slide_id}?\n"
            "Typically 0.25 for 40x and 0.5 for 20x; the scanner's software tells it. Empty: what the file says.\n"
            "Maps made with another size are moved to the project's folder 'removed'.",
            text=told,
        )
        if not accepted or text.strip() == told:
            return
        try:
            mpp = float(text.replace(",", ".")) if text.strip() else None
        except ValueError:
            self.message.tell(f"{text!r} is not a number of micrometres per pixel; 0.5 would be one.", is_error=True)
            return
        self.set_mpp(slide_id, mpp)

    def _show_associated_of_selected(self) -> None:
        if (slide_id := self.selected()) is not None:
            self.attempt(lambda: self.show_associated(slide_id))

    def _ask_remove(self) -> None:
        slide_id = self.selected()
        if slide_id is None:
            return
        answer = QMessageBox.question(
            self,
            "Remove slide",
            f"Take {slide_id} out of the project?\n\nIts regions and maps are moved to the project's folder 'removed'; "
            "the slide's file is not touched.",
        )
        if answer == QMessageBox.StandardButton.Yes:
            self.remove_slide(slide_id)

    def _show_selected(self) -> None:
        if (slide_id := self.selected()) is not None:
            self.show_slide(slide_id)

    # -- what happened ------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Fill the table from the project, then open each slide in a thread for the rest."""
        project = self.session.project
        self._show_welcome(on=project is None)
        self.project_label.setText(
            project.folder.name if project else "No project is open. Make a new one, or open one."
        )
        self.project_label.setToolTip(str(project.folder) if project else "")
        self.table.fill(project.cohort if project else ())
        self.table.mark(self.session.current_slide)
        self._enable()
        if project is not None and self.table.ids:
            ids = self.table.ids
            self.errands.run(lambda: [look_at(project, i) for i in ids], self._on_facts, self.session.report)

    def _show_welcome(self, *, on: bool) -> None:
        """Three doors in place of all else, as long as no project is open."""
        self.welcome.setVisible(on)
        for part in (self.project_box, self.slides_box, self.async_box, self.srgb_box):
            part.setVisible(not on)
        if on:
            self.welcome.refresh()

    def _on_facts(self, facts: list[Fact]) -> None:
        for fact in facts:
            self.table.show_fact(fact)
            if fact.trouble and fact.slide_id in self.table.ids:
                self.message.tell("\n".join(fact.trouble), is_error=True)
        self._enable()
        self.thumbnails.make([fact.slide for fact in facts if fact.slide is not None])

    def _on_associated(self, slide_id: str, images: dict[str, NDArray[np.uint8]]) -> None:
        self._enable()
        if images:
            AssociatedWindow(slide_id, images, self).show()
        else:
            self.message.tell(f"{slide_id} has no label or macro image.")

    def _set_srgb(self, on: bool) -> None:  # noqa: FBT001 - a Qt slot
        self.desk.srgb = on
        self.stage.recolour()

    def _on_project(self) -> None:
        self.stage.clear()
        self._damages.clear()
        self.damage.tell("")
        self.message.tell("")
        if (project := self.session.project) is not None:
            remember_project(project.folder)

    def _on_reopened(self, slide_id: str) -> None:
        if slide_id in self.table.ids:
            self.stage.show(slide_id)

    def _on_added(self, outcome: _Added) -> None:
        self.status.tell("")
        self.stage.remove_loose(outcome.paths)
        self.session.slides_changed.emit()
        if outcome.ids and self.session.current_slide is None:
            self.stage.show(outcome.ids[0])
        if outcome.refused:
            self.message.tell("\n".join(outcome.refused), is_error=True)

    def _on_current(self, _slide_id: str) -> None:
        self.table.mark(self.session.current_slide)

    def _on_regions(self, slide_id: str) -> None:
        self.table.show_count(slide_id, len(self.desk.regions(slide_id)))

    def _on_damaged(self, slide_id: str, message: str) -> None:
        known = self._damages.setdefault(slide_id, [])
        known.append(message)
        more = f" ({len(known)} places so far)" if len(known) > 1 else ""
        self.damage.tell(f"{slide_id}: what cannot be read is shown grey{more}. {known[0]}", is_error=True)

    def _on_group_edited(self, slide_id: str, group: str) -> None:
        self.attempt(lambda: self.session.require_project().set_group(slide_id, group))
        timer(0, self.session.slides_changed.emit, self).start()  # the table still holds the edited item


def _users_mpp(project: Project, slide_id: str) -> str:
    """Micrometres per pixel that the user gave; empty when it is the file's that count."""
    y, x = next(slide.mpp for slide in project.cohort if slide.id == slide_id) or ("", "")
    return str(x) if x == y else f"{y} x {x}"


def _add_each(project: Project, wanted: Iterable[Loose]) -> _Added:
    """Add slides one by one, in a thread, and with each the regions that were drawn on it."""
    outcome = _Added([], [], [])
    for each in wanted:
        try:
            (slide,) = project.add_slides([each.path])
            if slide.mpp is None and project.slide(slide.id).mpp is None:
                project.set_mpp(slide.id, each.mpp)
            if len(each.regions):
                project.save_regions(slide.id, each.regions)
        except SlideCorrError as error:
            outcome.refused.append(sentence(error))
        else:
            outcome.ids.append(slide.id)
            outcome.paths.append(each.path)
    return outcome


def _set_async(on: bool) -> None:  # noqa: FBT001 - a Qt slot
    from napari.settings import get_settings

    get_settings().experimental.async_ = on
