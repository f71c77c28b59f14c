"""The drawing desk of a viewer: which class is current, and an editor for each regions layer that is open.

The Slides dock lays slides on it, the Regions dock works on it; either may be closed while the other goes on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QCoreApplication

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.job import session_of
from napari_slidecorr._napari.keys import CLASS_KEYS, bound, napari_key
from napari_slidecorr._napari.patch_preview import PatchPreview
from napari_slidecorr._napari.region_editor import RegionEditor
from napari_slidecorr._napari.region_tools import RegionTools
from napari_slidecorr._napari.region_view import FEW
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.regions import IGNORE, RegionSet

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_slidecorr.project import Project
    from napari_slidecorr.session import Session
    from napari_slidecorr.slide import Slide

__all__ = ["CLASS_KEYS", "Desk", "desk_of"]


class Desk:
    """What the docks share about drawing.

    Attributes
    ----------
    class_changed
        Carries the name of the class that new shapes get.
    edited
        Carries the id of a slide whose regions changed, before they are saved.
    opened
        Carries the id of a slide whose regions layer was laid into the viewer.
    step_asked
        Carries how many slides to go on in the project's order; negative: back.
    tools : RegionTools
        Which tool is in the hand.
    patches : PatchPreview
        The patches that a training would cut, while they are shown.
    wanted : str or None
        Id of the slide that was asked for last, from whatever dock, while it is being opened.
    srgb : bool
        Whether slides with an ICC profile are shown in sRGB; for the eye alone.
    """

    class_changed = Signal(str)
    edited = Signal(str)
    opened = Signal(str)
    step_asked = Signal(int)

    def __init__(self, viewer: Any, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self._editors: dict[str, RegionEditor] = {}
        self._current_class = ""
        self.wanted: str | None = None
        self.srgb = False
        self.tools: RegionTools = RegionTools(self)
        self.patches = PatchPreview(self)
        viewer.layers.events.removed.connect(self._on_removed)
        session.job_started.connect(self._on_job_started)
        flush = weakref.WeakMethod(self.flush)  # Qt would keep desk and viewer for ever
        QCoreApplication.instance().aboutToQuit.connect(lambda: (alive := flush()) and alive())

    @property
    def editor(self) -> RegionEditor | None:
        """The editor of the slide in view; None when its regions are not open."""
        return self._editors.get(self.session.current_slide or "")

    @property
    def current_class(self) -> str:
        """The class that new shapes get: the chosen one, or the project's first; empty without any."""
        project = self.session.project
        if project is None or self._current_class in (*project.classes, IGNORE):
            return self._current_class
        return project.classes[0] if project.classes else ""

    @current_class.setter
    def current_class(self, name: str) -> None:
        """Choose a class; selected shapes get it too, unless a tool of ours makes regions one by one."""
        if self.tools.own and self.tools.draws:
            self.take_class(name)
            return
        self._current_class = name
        if self.editor is not None:
            self.editor.choose_class(name)
        self.class_changed.emit(name)

    def take_class(self, name: str) -> None:
        """Choose a class for what is drawn next only."""
        self._current_class = name
        self.refresh_classes()
        self.class_changed.emit(self.current_class)

    def open_regions(self, slide: Slide) -> Shapes:
        """Lay the regions of a slide over it, or give the layer that does already; the layer is edited from then on."""
        shown = layers.find_layer(self.viewer, "regions", slide.id)
        if shown is not None and slide.id in self._editors:
            return shown
        project = self.session.require_project()
        regions = project.regions(slide.id)
        few = regions if len(regions) <= FEW else RegionSet()
        layer = layers.add_regions(self.viewer, slide, few, project.classes, project.colors)
        self._editors[slide.id] = editor = self._edit(layer, slide.id, project, regions)
        layers.set_class(layer, self.current_class)
        layers.recolour(layer, project.colors)
        self.tools.attach(editor)
        self._bind_keys(layer)
        self.opened.emit(slide.id)
        return layer

    def regions(self, slide_id: str) -> RegionSet:
        """The regions of a slide as they are now, drawn ones that are not yet saved included."""
        editor = self._editors.get(slide_id)
        return editor.regions if editor else self.session.require_project().regions(slide_id)

    def flush(self) -> None:
        """Read and save now what is pending on any slide."""
        for editor in list(self._editors.values()):
            editor.flush()

    def refresh_classes(self) -> None:
        """Let the open layers know the project's classes and colours after these have changed."""
        for editor in self._editors.values():
            layers.set_class(editor.layer, self.current_class)
            editor.recolour()
        self.session.classes_changed.emit()

    def editors(self) -> list[RegionEditor]:
        """All open editors."""
        return list(self._editors.values())

    def editor_of(self, slide_id: str) -> RegionEditor | None:
        """The editor of a slide; None when its regions are not open."""
        return self._editors.get(slide_id)

    def _edit(self, layer: Shapes, slide_id: str, project: Project, regions: RegionSet) -> RegionEditor:
        return RegionEditor(
            layer,
            slide_id,
            project,
            changed=self.edited.emit,
            saved=partial(self._on_saved, project),
            tell=self.session.message.emit,
            regions=regions,
            viewer=self.viewer,
        )

    def _on_saved(self, project: Project, slide_id: str) -> None:
        if project is self.session.project:
            self.session.regions_changed.emit(slide_id)

    def _bind_keys(self, layer: Shapes) -> None:
        """Bind on the layer itself, which comes before napari's own keys of all Shapes layers.

        The bindings also keep desk and editor alive as long as the layer can be edited, whichever docks are closed.
        """
        for key, action in bound():
            layer.bind_key(napari_key(key), _key(partial(self.act, action)), overwrite=True)
        layer.bind_key("Space", self.tools.move_view, overwrite=True)
        layer.bind_key("Shift", _key(lambda: None), overwrite=True)  # adds to a region, and makes no square of it

    def act(self, action: Callable[[Desk], None]) -> None:
        """Do what a key asks for; a mistake of the user is told."""
        try:
            action(self)
        except SlideCorrError as error:
            self.session.report(error)

    def step(self, slides: int) -> None:
        """Ask for the next slide, or another one further on or back."""
        if len(self.step_asked):
            self.step_asked.emit(slides)
        else:
            self.session.message.emit("Open the Slides dock, from which slides are shown.", False)

    def choose(self, key: int) -> None:
        """Choose a class by its key: 1 to 9 in the project's order, 0 for ``ignore``."""
        classes = self.session.project.classes if self.session.project else ()
        if key == 0:
            self.current_class = IGNORE
        elif key <= len(classes):
            self.current_class = classes[key - 1]
        else:
            self.session.message.emit(f"There is no class {key}. Add classes in the Regions dock.", False)

    def _on_removed(self, event: Any) -> None:
        for slide_id, editor in list(self._editors.items()):
            if editor.layer is event.value:
                editor.close()
                del self._editors[slide_id]

    def _on_job_started(self, _title: str) -> None:
        self.flush()


def _key(action: Callable[[], None]) -> Callable[[Any], None]:
    def pressed(_layer: Any) -> None:
        action()

    return pressed


_desks: weakref.WeakValueDictionary[int, Desk] = weakref.WeakValueDictionary()


def desk_of(viewer: Any) -> Desk:
    """Give the one desk of a viewer, which may come wrapped in a proxy; it lives while a dock or layer needs it."""
    inner = getattr(viewer, "__wrapped__", viewer)
    if id(inner) not in _desks:
        desk = _desks[id(inner)] = Desk(inner, session_of(viewer))
        return desk
    return _desks[id(inner)]
