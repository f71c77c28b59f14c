"""Change the code in small ways, one at a time, and see whether a test notices (mutation testing, by mutmut).

    pip install "mutmut>=3.8"
    python benchmarks/mutation.py --json mutation.json

Works in a copy of the checkout, one module after the other: the objectives, sampling, geometry and `Grid`, patches, splits. Each
change runs the tests of that module alone, with the few examples of the hypothesis profile `quick`. Prints for each
module how many changes were made, how many a test noticed (a test that hangs counts), and the changes that nobody noticed as
diffs. ``score`` is noticed / made. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "objectives": (("learning/objectives.py", "learning/slide_terms.py"), ("tests/learning/test_objectives.py",)),
    "sampling": (("sampling.py",), ("tests/core/test_sampling.py",)),
    "geometry": (("geometry.py",), ("tests/core/test_geometry.py",)),
    "cohort": (("cohort.py",), ("tests/core/test_cohort.py",)),
    "patches": (("patches.py",), ("tests/core/test_patches.py",)),
    "training_plan": (("training_plan.py",), ("tests/core/test_training_plan.py",)),
}
CONFIG = """
[mutmut]
source_paths=
    src
only_mutate=
    {files}
pytest_add_cli_args=
    --no-xvfb
pytest_add_cli_args_test_selection=
    {tests}
also_copy=
    README.md
"""
NOTICED = (1, 3, -24, 24, 36, 152, 255, -9, -11)
"""Exit codes by which mutmut tells that a test failed, hung or was killed."""


def tested(name: str, folder: Path) -> dict[str, Any]:
    """Mutate one module in a copy of the checkout."""
    files, tests = MODULES[name]
    copy = folder / name
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "mutants", "*.pyc", ".*_cache"))
    with (copy / "setup.cfg").open("a") as config:
        under = [f"src/napari_slidecorr/{file}" for file in files]
        config.write(CONFIG.format(files="\n    ".join(under), tests="\n    ".join(tests)))
    settings = {
        "HYPOTHESIS_PROFILE": "quick",
        "OMP_NUM_THREADS": "1",
        "QT_QPA_PLATFORM": "offscreen",
        "PYTHONPATH": "src",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "run", "--max-children", "1"],
        cwd=copy,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
    )
    results = [one for file in files for one in _results(copy / "mutants/src/napari_slidecorr" / f"{file}.meta")]
    if done.returncode or not results:
        raise SystemExit(f"mutmut failed on {name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    survivors = [key for key, code in results if code not in NOTICED]
    return {
        "mutants": len(results),
        "survived": len(survivors),
        "score": 1 - len(survivors) / len(results),
        "survivors": {key: _diff(copy, key) for key in survivors},
    }


def _results(meta: Path) -> list[tuple[str, int | None]]:
    return list(json.loads(meta.read_text())["exit_code_by_key"].items()) if meta.exists() else []


def _diff(copy: Path, key: str) -> str:
    command = [sys.executable, "-m", "mutmut", "show", key]
    shown = subprocess.run(
        command, cwd=copy, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True
    ).stdout
    return "\n".join(line for line in shown.splitlines() if line[:1] in "+-@" and line[:3] not in ("+++", "---"))


def main(names: list[str]) -> dict[str, Any]:
    """Mutate one module after the other, and print what becomes of it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found[name] = tested(name, Path(folder))
            print("{0}: {mutants} changes, {survived} unnoticed, score {score:.3f}".format(name, **found[name]))
            for key, diff in found[name]["survivors"].items():
                print(f"  {key}\n{diff}", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar=f"{{{','.join(MODULES)}}}", help="all when left out")
    parser.add_argument("--quick", action="store_true", help="the sampling alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if unknown := set(given.modules) - set(MODULES):
        parser.error(f"no module is called {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    figures = main(["sampling"] if given.quick else given.modules or list(MODULES))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
