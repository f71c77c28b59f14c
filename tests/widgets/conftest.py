"""What every test with a window needs: torch before the first viewer, own settings, and no thread left behind."""

import os
import tempfile

os.environ.setdefault("NAPARI_CONFIG", os.path.join(tempfile.mkdtemp(), "settings.yaml"))  # noqa: PTH118

import threading

import pytest

from napari_slidecorr._napari.job import THREAD_NAME
from napari_slidecorr._napari.torch_door import load_torch

load_torch().set_num_threads(1)


@pytest.fixture(autouse=True)
def no_job_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    for thread in left:
        thread.join(10)
    assert not left, "a job's thread was still running at the end of the test"
