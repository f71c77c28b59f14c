"""The classes of a project: added, renamed, recoloured, merged, deleted, and what is drawn of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QGroupBox, QInputDialog, QLabel, QMessageBox, QSizePolicy, QVBoxLayout

from napari_slidecorr._napari import class_job, layers
from napari_slidecorr._napari.class_table import ClassTable, Tally, tally, warnings_about
from napari_slidecorr._napari.desk import Desk
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.parts import button, row
from napari_slidecorr._napari.region_editor import RegionEditor
from napari_slidecorr.class_changes import reclassed, without
from napari_slidecorr.errors import ProjectError, SlideCorrError
from napari_slidecorr.events import Event
from napari_slidecorr.regions import IGNORE

if TYPE_CHECKING:
    from napari_slidecorr.project import Project


class ClassBox(QGroupBox):
    """Table of classes, buttons to change them, and a warning where a class is on too few slides.

    Parameters
    ----------
    desk : Desk
    attempt
        Calls an action and shows its error; False when there was one.
    tell
        Shows a sentence.
    """

    def __init__(self, desk: Desk, attempt: Callable[[Callable[[], Any]], bool], tell: Callable[[str], None]) -> None:
        super().__init__("Classes")
        self.desk, self.session = desk, desk.session
        self._attempt, self._tell = attempt, tell
        self._errands = Errands(self)
        self._tallies: dict[str, Tally] = {}
        self._of: Project | None = None
        self._again = False
        self.table = ClassTable()
        self.table.chosen.connect(partial(setattr, desk, "current_class"))
        self.add_button = button("Add ...", "Add a class.", self._ask_add)
        self.rename_button = button("Rename ...", "Rename the chosen class on all slides.", self._ask_rename)
        self.color_button = button("Colour ...", "Give the chosen class another colour.", self._ask_color)
        self.merge_button = button(
            "Merge ...", "Let the chosen class become another one, on all slides.", self._ask_merge
        )
        self.delete_button = button(
            "Delete ...", "Delete the chosen class, with or without its regions.", self._ask_delete
        )
        self.job = JobBar(desk.session, class_job.TITLE)
        self.warning = QLabel()
        self.warning.setWordWrap(True)
        self.warning.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        layout = QVBoxLayout(self)
        every = (self.add_button, self.rename_button, self.color_button, self.merge_button, self.delete_button)
        for each in every:
            each.setMinimumWidth(40)
        self.buttons = row(*every)
        self.buttons.layout().setSpacing(4)
        for widget in (self.table, self.buttons, self.job, self.warning):
            layout.addWidget(widget)
        self._show_job()

    def add_class(self, name: str) -> bool:
        """Add a class and make it the current one."""
        name = name.strip()

        def add() -> None:
            project = self.session.require_project()
            _check_new(project, name)
            project.set_classes([*project.classes, name])
            self.desk.take_class(name)
            self.fill()

        return self._attempt(add)

    def rename_class(self, old: str, new: str) -> bool:
        """Start to give a class another name, on all slides; the regions of all are written, or none."""

        def rename() -> None:
            _check_new(self.session.require_project(), new.strip())
            self._replace(old, new.strip())

        return new.strip() == old or self._attempt(rename)

    def merge_classes(self, old: str, into: str) -> bool:
        """Start to let a class become another one of the project; the regions of all slides are written, or none."""

        def merge() -> None:
            if into == old or into not in (*self.session.require_project().classes, IGNORE):
                raise ProjectError(
                    f"There is no other class {into!r} that {old!r} could become; choose one of the table."
                )
            self._replace(old, into)

        return self._attempt(merge)

    def delete_class(self, name: str, *, with_regions: bool = False) -> bool:
        """Start to delete a class; its regions on all slides go too, or stay without a class."""
        return self._attempt(lambda: self._delete(name) if with_regions else self._replace(name, ""))

    def recolour_class(self, name: str, color: tuple[int, int, int]) -> bool:
        """Give a class another colour."""

        def change() -> None:
            project = self.session.require_project()
            project.set_classes(project.classes, {name: color})
            self.desk.refresh_classes()
            self.fill()

        return self._attempt(change)

    def count_all(self) -> None:
        """Count anew, in a thread: the regions of all slides are read for it."""
        project = self.session.project
        ids = [slide.id for slide in project.cohort] if project and project is self._of else []
        self._of = project
        self._tallies = {slide_id: each for slide_id, each in self._tallies.items() if slide_id in ids}
        self.fill()
        self._again = self._errands.running > 0
        if project is not None and not self._again:
            classes = project.classes
            self._errands.run(
                lambda: _count_all(project), partial(self._on_counted, project, classes), self._on_not_counted
            )

    def show_event(self, event: Event) -> None:
        """Show how far the change of a class is."""
        if self.job.is_running:
            self.job.show_event(event)

    def on_job(self, _told: object) -> None:
        """A job has begun, or ended; one that changed a class has made the counts wrong."""
        if self._show_job():
            self._tallies.clear()
            self.count_all()

    def _show_job(self) -> bool:
        """Show the job if it is one of ours; whether one of ours was shown and is over."""
        over = not self.job.isHidden() and not self.job.is_running
        self.buttons.setEnabled(not self.job.is_running)
        self.job.setVisible(self.job.is_running)
        (self.job.begin if self.job.is_running else self.job.rest)()
        return over

    def _on_counted(self, project: Project, classes: tuple[str, ...], tallies: dict[str, Tally]) -> None:
        """Take over what was counted, unless the classes are others now."""
        if project is self.session.project and classes == project.classes:
            self._tallies = tallies
            for editor in self.desk.editors():
                self._count_open(editor)
            self.fill()
        else:
            self._again = True
        if self._again:
            self.count_all()

    def _on_not_counted(self, error: BaseException) -> None:
        self.session.report(error)
        if self._again:
            self.count_all()

    @property
    def _is_counted(self) -> bool:
        project = self.session.project
        return project is not None and all(slide.id in self._tallies for slide in project.cohort)

    def count(self, slide_id: str) -> None:
        """Count a slide anew whose regions changed."""
        editor = self.desk.editor_of(slide_id)
        if editor is None:
            self.count_all()
        else:
            self._count_open(editor)
            self.fill()

    def _count_open(self, editor: RegionEditor) -> None:
        mpp = layers.identity(editor.layer)["mpp"]
        groups = {slide.id: slide.group for slide in editor.project.cohort}
        if editor.slide_id in groups:
            self._tallies[editor.slide_id] = tally(editor.regions, mpp, groups[editor.slide_id])

    def fill(self) -> None:
        """Show the classes and what is known of them."""
        project = self.session.project
        classes, colors = (project.classes, project.colors) if project else ((), {})
        here = self._tallies.get(self.session.current_slide or "")
        self.table.fill(classes, colors, here, self._tallies.values())
        self.table.choose(self.desk.current_class)
        warning = warnings_about(classes, self._tallies.values()) if self._is_counted else ""
        self.warning.setText(warning)
        self.warning.setVisible(bool(warning))

    def _ask_add(self) -> None:
        name, accepted = QInputDialog.getText(self, "New class", "Name of the new class, tumour for example:")
        if accepted and name.strip():
            self.add_class(name)

    def _ask_rename(self) -> None:
        if (old := self._chosen()) is None:
            return
        new, accepted = QInputDialog.getText(self, "Rename class", f"New name of {old}, on all slides:", text=old)
        if accepted and new.strip() and new.strip() != old:
            self.rename_class(old, new)

    def _ask_color(self) -> None:
        if (name := self._chosen()) is None:
            return
        color = QColorDialog.getColor(QColor(*self.session.require_project().colors[name]), self, f"Colour of {name}")
        if color.isValid():
            self.recolour_class(name, (color.red(), color.green(), color.blue()))

    def _ask_merge(self) -> None:
        if (old := self._chosen()) is None:
            return
        others = [name for name in (*self.session.require_project().classes, IGNORE) if name != old]
        text = f"{old} has {self._amount(old)}. Let them become regions of:\n(this cannot be undone)"
        into, accepted = QInputDialog.getItem(self, "Merge classes", text, others, 0, editable=False)
        if accepted:
            self.merge_classes(old, into)

    def _ask_delete(self) -> None:
        if (name := self._chosen()) is None:
            return
        question = QMessageBox(self)
        question.setIcon(QMessageBox.Icon.Question)
        question.setWindowTitle("Delete class")
        question.setText(f"Delete the class {name}? It has {self._amount(name)}.")
        keep = question.addButton("Keep its regions, without a class", QMessageBox.ButtonRole.AcceptRole)
        also = question.addButton("Delete its regions too", QMessageBox.ButtonRole.DestructiveRole)
        question.setDefaultButton(question.addButton(QMessageBox.StandardButton.Cancel))
        question.exec()
        if question.clickedButton() in (keep, also):
            self.delete_class(name, with_regions=question.clickedButton() is also)

    def _amount(self, name: str) -> str:
        if not self._is_counted:
            return "an unknown number of regions: the slides are still being counted"
        slides = [each for each in self._tallies.values() if name in each.amounts]
        count = sum(each.amounts[name].regions for each in slides)
        return f"{count:,} regions on {len(slides)} slides"

    def _chosen(self) -> str | None:
        name = self.table.current
        if name in (None, "", IGNORE):
            self._tell("Choose one of your own classes in the table first.")
            return None
        return name

    def _replace(self, old: str, new: str) -> None:
        """Give the regions of a class another one, or none, everywhere."""
        class_job.change_class(
            self.desk,
            old,
            new,
            lambda regions: reclassed(regions, old, new),
            lambda editor: editor.rename_class(old, new),
        )

    def _delete(self, name: str) -> None:
        """Take a class and its regions away; on open slides that can be undone, which brings the class back too."""
        class_job.change_class(
            self.desk,
            name,
            "",
            lambda regions: without(regions, name),
            lambda editor: editor.set_regions(without(editor.regions, name)),
        )


def _count_all(project: Project) -> dict[str, Tally]:
    """In a thread: tally all slides; one that cannot be opened is tallied in pixels, the Slides dock tells why."""
    tallies = {}
    for known in project.cohort:
        try:
            mpp = project.slide(known.id).mpp
        except SlideCorrError:
            mpp = known.mpp
        try:
            tallies[known.id] = tally(project.regions(known.id), mpp, known.group)
        except SlideCorrError:
            tallies[known.id] = Tally(known.group)
    return tallies


def _check_new(project: Project, name: str) -> None:
    if name in (*project.classes, IGNORE):
        raise ProjectError(f"There is a class {name!r} already; give the regions that one instead.")
