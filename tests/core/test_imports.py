"""Import times and laziness, each in a fresh process."""

import os
import resource
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "napari",
    "qtpy",
    "magicgui",
    "superqt",
    "PyQt6",
    "PyQt5",
    "PySide6",
    "PySide2",
)
CORE = [
    "napari_slidecorr",
    *(
        f"napari_slidecorr.{name}"
        for name in [
            "errors",
            "settings",
            "geometry",
            "config",
            "events",
            "slide",
            "regions",
            "cohort",
            "tissue",
            "patches",
            "sampling",
            "model_spec",
            "prediction_map",
            "metrics",
            "io",
            "sample_data",
            "project",
            "session",
            "cli",
        ]
    ),
]


def loaded_after(code):
    """Give which heavy modules a fresh process has loaded after running some code."""
    report = f"import sys\n{code}\nprint('loaded', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("module", CORE)
def test_the_core_loads_neither_torch_nor_qt_nor_napari(module):
    assert loaded_after(f"import {module}") == []


def test_the_test_would_notice():
    assert "qtpy" in loaded_after("import napari_slidecorr\nimport qtpy")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["regions", "import", "--help"]], ids=" ".join)
def test_help_loads_neither_torch_nor_qt_nor_napari(arguments):
    run_cli = (
        "from napari_slidecorr.cli import main\n"
        f"sys.argv = ['slidecorr', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert loaded_after(run_cli) == []


def cpu_seconds_of_help():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; sys.argv = ['slidecorr', '--help']; from napari_slidecorr.cli import main; main()"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment, timeout=120)
    assert b"train" in done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_less_than_half_a_second_of_cpu():
    assert min(cpu_seconds_of_help() for _ in range(3)) < 0.5
