"""The one door through which widget code imports torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from types import ModuleType

NICENESS = 5


def load_torch() -> ModuleType:
    """Import torch, and keep triton's LLVM apart from the one of a software GL driver.

    Call it in the job's thread, before anything from `napari_slidecorr.learning` is imported.

    Notes
    -----
    Mesa's software driver puts its libLLVM into the global symbol table as soon as a window is drawn; triton, which torch
    imports, brings its own and would bind to the wrong one, which ends the process. Loaded with deep binding it does not.
    """
    importlib.import_module("napari_slidecorr.learning")  # sets how torch's threads wait, before torch is loaded
    if sys.platform == "linux" and "triton" not in sys.modules and importlib.util.find_spec("triton"):
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        try:
            with suppress(ImportError):  # torch does without a triton that cannot be loaded
                importlib.import_module("triton._C.libtriton")
        finally:
            sys.setdlopenflags(flags)
    return importlib.import_module("torch")


def load_torch_for_job() -> ModuleType:
    """Import torch in a job's thread, and leave one core and the right of way to the window.

    On Linux the thread, and those that it starts, give way to the window's: measured in a busy machine, 99 of 100 ticks
    of a 10 ms timer come within 30 ms instead of 60 to 110. torch's threads wait for each other at every step, so one that shares its core with the painting of the window,
    which without a GPU takes a core too, holds up all of them.
    """
    _give_way()
    torch = load_torch()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))
    return torch


def _give_way() -> None:
    if sys.platform != "linux" or threading.current_thread() is threading.main_thread():
        return  # elsewhere a thread has no niceness of its own
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
