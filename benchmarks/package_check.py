"""Build wheel and sdist from the tracked files and look at them as whoever gets them would. See ``--help``.

Contents (code and metadata only), sizes, `twine check`, the napari manifest, the licences of all that is installed with
the package, and how long the first imports take. Ends with exit code 1 if something is in there that should not be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "napari-slidecorr"
CODE = (".py", "/napari.yaml", "/py.typed")
SDIST_ONLY = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "setup.cfg",
}
COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
BORROWED = re.compile(rb"GNU (Affero |Lesser )?General Public License|SPDX-License-Identifier: *[AL]?GPL")
DOCKS = ("slides", "regions", "training", "prediction", "live", "diagnostics")


def tracked() -> list[str]:
    """Names of the files that git knows and that are still there."""
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in told.decode().split("\0") if name and (ROOT / name).is_file()]


def build(folder: Path) -> tuple[Path, Path]:
    """Build from what git tracks, as it lies here; gives the wheel and the sdist."""
    source, out = folder / "source", folder / "dist"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def wheel_files(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sdist_files(path: Path) -> dict[str, bytes]:
    """Files of a sdist without its top folder."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                found[member.name.partition("/")[2]] = content.read()
    return found


def strangers(wheel: dict[str, bytes], sdist: dict[str, bytes]) -> list[str]:
    """Say what lies in there and is neither our code nor what tells about it."""
    told = [
        f"wheel: {name}"
        for name in wheel
        if not (name.startswith("napari_slidecorr/") and name.endswith(CODE)) and ".dist-info/" not in name
    ]
    for name in sdist:
        inner = name.removeprefix("src/")
        ours = inner.startswith("napari_slidecorr/") and inner.endswith(CODE)
        if not ours and name not in SDIST_ONLY and not inner.startswith("napari_slidecorr.egg-info/"):
            told.append(f"sdist: {name}")
    both = {**wheel, **sdist}
    told += [f"{name}: speaks of a GNU licence" for name, content in both.items() if BORROWED.search(content)]
    modules = {name.removeprefix("src/") for name in tracked() if name.startswith("src/") and name.endswith(CODE)}
    return told + [f"wheel: {name} is missing" for name in sorted(modules - set(wheel))]


def installed_with(extras: set[str]) -> dict[str, str]:
    """Licence of each package that comes with ours and these extras, as far as it is installed here."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(PACKAGE, extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            known = distribution(name)
        except PackageNotFoundError:
            found[name] = "not installed here"
            continue
        found[name] = licence(known.metadata)
        for line in known.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(wanted.name), more) for more in ("", *wanted.extras)]
    found.pop(PACKAGE)
    return dict(sorted(found.items()))


def licence(metadata: Any) -> str:
    """The shortest that a package says of its licence."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    named = [
        line.rpartition("::")[2].strip() for line in metadata.get_all("Classifier", []) if line.startswith("License")
    ]
    text = (metadata.get("License") or "").strip().splitlines()
    return "; ".join(named) or (text[0][:80] if text else "none told")


def cpu_s(*command: str, times: int) -> float:
    """Least CPU seconds of a command in processes of its own."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return round(min(once() for _ in range(times)), 3)


def import_times(times: int) -> dict[str, float]:
    """CPU seconds of a fresh interpreter that does nothing, and with each first import."""
    python = sys.executable
    help_code = "import sys; sys.argv = ['slidecorr', '--help']; from napari_slidecorr.cli import main; main()"
    commands = {
        "python alone": "",
        "import napari_slidecorr": "import napari_slidecorr",
        "slidecorr --help": help_code,
        "import napari": "import napari",
    }
    commands |= {f"dock {name}": f"import napari; import napari_slidecorr._napari.dock_{name}" for name in DOCKS}
    return {name: cpu_s(python, "-c", code, times=times) for name, code in commands.items()}


def said_by(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "passed" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the result there.")
    parser.add_argument("--times", type=int, default=5, help="Processes a figure of the imports is the least of.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder))
        inside = wheel_files(wheel), sdist_files(sdist)
        twine = importlib.util.find_spec("twine") is not None
        result: dict[str, Any] = {
            "wheel": {"name": wheel.name, "bytes": wheel.stat().st_size, "files": len(inside[0])},
            "sdist": {"name": sdist.name, "bytes": sdist.stat().st_size, "files": len(inside[1])},
            "strangers": strangers(*inside),
            "twine check --strict": said_by(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
            if twine
            else "twine is not installed",
        }
    result["npe2 validate"] = said_by(sys.executable, "-m", "npe2", "validate", "src/napari_slidecorr/napari.yaml")
    needed, all_of_it = installed_with(set()), installed_with({"all"})
    result["packages"] = {"needed": len(needed), "with all extras": len(all_of_it)}
    result["copyleft needed"] = {name: told for name, told in needed.items() if COPYLEFT.search(told)}
    result["copyleft with extras"] = {name: told for name, told in all_of_it.items() if COPYLEFT.search(told)}
    result["no licence told"] = [name for name, told in all_of_it.items() if told == "none told"]
    result["CPU seconds"] = import_times(options.times)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps({**result, "licences": all_of_it}, indent=2) + "\n", "utf-8")
    fine = not result["strangers"] and not result["copyleft needed"]
    return 0 if fine and result["npe2 validate"] == "passed" and result["twine check --strict"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
