"""What can go wrong, told in one sentence: what, which file or field, what to do.

Every error a user can cause is a `SlideCorrError`, and is also the built-in error that a Python user would expect.
"""

from __future__ import annotations


class SlideCorrError(Exception):
    """Parent of all errors that this package raises on purpose."""


class SlideError(SlideCorrError, OSError):
    """A slide cannot be opened or read; the message names the file."""


class DamagedTileError(SlideError):
    """One tile cannot be decoded; the rest of the slide can be read."""


class RegionsError(SlideCorrError, ValueError):
    """A file of regions cannot be understood, or a region is not a valid polygon."""


class ConfigError(SlideCorrError, ValueError):
    """A setting has a value that it cannot take; the message names the field and the value."""


class CohortError(SlideCorrError, ValueError):
    """The slides, groups and labels at hand do not allow what was asked."""


class ModelError(SlideCorrError, ValueError):
    """A model or its weights cannot be made, read or used on this slide."""


class TorchError(SlideCorrError, ImportError):
    """PyTorch is missing or its installation is broken; only training, prediction and what builds on them need it."""


class TrainingError(SlideCorrError, RuntimeError):
    """Training cannot go on, for example because the loss is not a number."""


class MapError(SlideCorrError, ValueError):
    """A prediction map cannot be read or written, or is not complete."""


class ProjectError(SlideCorrError, OSError):
    """A project folder cannot be made, read or written."""


def sentence(error: BaseException) -> str:
    """Give what an error says; one that was not raised on purpose carries its type, as its text alone seldom helps."""
    text = str(error).strip()
    if isinstance(error, SlideCorrError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
