"""*Keep this model*: a fast training on all labelled patches, with the remedy that somebody chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.parts import button, timer, while_alive
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.events import Event, JobEnd, TrainResult
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.session import Session

if TYPE_CHECKING:
    from napari_slidecorr.learning.remedy_table import Remedy

TITLE = "Keeping the model"
TEXT = "Keep this model"


class KeepBox(QWidget):
    """The button and the bar of its job.

    Parameters
    ----------
    session : Session
    config
        Gives the settings of the plain head.
    save
        Called before the job reads the regions.
    tell
        Shows a sentence.
    attempt
        Calls an action and shows its error.

    Attributes
    ----------
    remedy : Remedy or None
        What the model that is kept will have.
    """

    def __init__(
        self,
        session: Session,
        config: Callable[[], FastConfig],
        save: Callable[[], Any],
        tell: Callable[..., Any],
        attempt: Callable[[Callable[[], Any]], bool],
    ) -> None:
        super().__init__()
        self._session, self._plain, self._save, self._tell = session, config, save, tell
        self.remedy: Remedy | None = None
        self.keep_button = button(
            TEXT,
            "Train on all labelled patches and keep the model: Prediction and export use it.",
            lambda: attempt(self.keep),
        )
        self.job = JobBar(session, TITLE, self.keep_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.job)

    def config(self) -> FastConfig:
        """The settings of the model that would be kept.

        Raises
        ------
        ConfigError
            If a setting is not allowed, or does not go with the remedy.
        """
        config = self._plain()
        return self.remedy.applied_to(config) if self.remedy is not None else config

    def use(self, remedy: Remedy | None) -> None:
        """Choose a remedy; None for the plain head."""
        self.remedy = remedy
        self.keep_button.setText(TEXT if remedy is None else f"{TEXT}, {remedy.name}")
        if remedy is not None:
            self._tell(f"The model that is kept will have {remedy.name}; the live map shows the plain head.")

    def keep(self) -> bool:
        """Start the job; False, with a message, when another runs.

        Raises
        ------
        ProjectError, ConfigError
            If no project is open, or a setting is not allowed.
        """
        project, config = self._session.require_project(), self.config()

        def events() -> Iterator[Event]:
            load_torch_for_job()
            from napari_slidecorr.fast_project import fast_train

            return fast_train(project, config)

        self._save()
        return self._session.start(events, TITLE, on_end=while_alive(self, self._on_kept))

    def _on_kept(self, end: JobEnd) -> None:
        if isinstance(end.result, TrainResult):
            epoch = end.result.epochs[-1]
            name = end.result.spec_path.parent.name
            told = f"Kept as {name}: {epoch.scores}. The Prediction dock has it as its newest model."
            timer(0, lambda: self._tell(told), self).start()  # after the session's own word of the end
