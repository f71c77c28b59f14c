"""Tells a PyTorch that cannot be loaded from a mistake of ours, in one sentence; loads nothing itself.

A broken installation shows up as whatever the system's loader says, in whichever room first asks for torch. Where the
error came from is written in its traceback: the code of torch's own files was still being loaded.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from napari_slidecorr.errors import SlideCorrError, TorchError

PACKAGES = frozenset({"torch", "torchvision", "timm", "triton"})
"""Whose loading may fail with a broken PyTorch; timm stands for what it loads."""


@contextmanager
def torch_trouble_told() -> Iterator[None]:
    """Let an error that comes from loading PyTorch leave the block as a `TorchError`, and any other as it is.

    Raises
    ------
    TorchError
        If PyTorch, or what it brings, is missing or cannot be loaded; says why and what to install.
    """
    try:
        yield
    except SlideCorrError:
        raise
    except Exception as error:
        if not _comes_from_loading_torch(error):
            raise
        raise TorchError(_told(error)) from error


def _comes_from_loading_torch(error: Exception) -> bool:
    if isinstance(error, ImportError) and _root(error.name) in PACKAGES:
        return True
    frames = (frame for frame, _line in traceback.walk_tb(error.__traceback__))
    return any(
        frame.f_code.co_name == "<module>" and _root(frame.f_globals.get("__name__")) in PACKAGES for frame in frames
    )


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _told(error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"PyTorch cannot be loaded ({reason}); slides and labels work without it, but to train or predict, remove it "
        "(pip uninstall torch torchvision) and install it again (pip install torch torchvision)."
    )
