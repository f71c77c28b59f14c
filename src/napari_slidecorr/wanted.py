"""What somebody looks at while a map is made: said in one thread, asked in another."""

from __future__ import annotations

from napari_slidecorr.geometry import Box


class Wanted:
    """The part of a slide that is to be predicted next; it may be changed at any time, from any thread.

    Parameters
    ----------
    slide_id : str
    box : Box or None
        Level-0 pixels, for example what the window shows; None when nobody looks.
    """

    def __init__(self, slide_id: str = "", box: Box | None = None) -> None:
        self._seen = slide_id, box

    def look(self, slide_id: str, box: Box | None) -> None:
        """Say where to look from now on; what is being computed ends first."""
        self._seen = slide_id, box  # one assignment: a reader sees the old pair or the new one

    def box_on(self, slide_id: str) -> Box | None:
        """Give the box if it lies on this slide."""
        seen, box = self._seen
        return box if seen == slide_id else None
