"""Whether there is a GPU to train on, told without loading torch."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LINUX_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/kfd")
"""Of NVIDIA's driver, the same inside a container, and AMD's."""


def has_gpu() -> bool:
    """Whether torch is likely to find a GPU: a look at a few files, in well under a millisecond.

    It decides only which way of training is offered first; the training itself asks torch, and says what it took.
    """
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if _torch_is_for_cpus():
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SystemRoot", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()  # noqa: SIM112
    return any(Path(driver).exists() for driver in LINUX_DRIVERS)


def _torch_is_for_cpus() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True
