"""Every block of code in the docs runs, on tiny slides and a tiny network, or says in a comment before it why it cannot."""

import glob
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.config import PatchConfig, ScrConfig, TrainConfig
from napari_slidecorr.events import drain
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.io import write_regions
from napari_slidecorr.project import Project
from napari_slidecorr.sample_data import make_cohort

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if not page.name.startswith("results")]
BLOCK = re.compile(
    r"(?:^<!-- skip: (?P<why>.+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
GOOD_REASON = re.compile(r"install|cluster|GPU|hub")

RUN = "scr-resnet18-001"
PATCHES = PatchConfig(size_px=64)
TRAIN = TrainConfig(
    objective=ScrConfig(), backbone="test_resnet", weights="random", epochs=1, patches=PATCHES, device="cpu"
)
FAST = FastConfig(backbone="test_resnet", weights="random", patches=PATCHES, device="cpu")
FAST_OPTIONS = ["--backbone", "test_resnet", "--weights", "random", "--size-px", "64", "--device", "cpu"]
QUICK = {
    "train": ["--backbone", "test_resnet", "--size-px", "64", "--epochs", "1", "--device", "cpu"],
    "fast-train": FAST_OPTIONS,
    "features": FAST_OPTIONS,
    "remedies": [*FAST_OPTIONS, "--no-adapters"],
}


def blocks(page):
    return list(BLOCK.finditer(page.read_text("utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_stands_in_blocks_of_a_known_language(page):
    text = page.read_text("utf-8")
    indented = re.findall(r"^ {4}(?:slidecorr|python|pip|from|import) .*$", text, re.MULTILINE)
    assert not indented, "code that no test would run"
    assert {block["language"] for block in blocks(page)} <= {"python", "sh"}
    assert all(GOOD_REASON.search(block["why"]) for block in blocks(page) if block["why"])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder as the snippets have it: slides with regions beside, and a project with a training and a map."""
    folder = tmp_path_factory.mktemp("docs")
    samples = drain(make_cohort(folder / "slides", slides=4, size_px=512))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        project = Project.create("study", classes=["tumour", "lymphoid", "stroma"])
        for sample, name in zip(samples, "abcd", strict=True):
            path = sample.path.rename(folder / "slides" / f"{name}.tif")
            write_regions(path.with_suffix(".geojson"), sample.regions)
            project.add_slides([path])
            project.import_regions(name, path.with_suffix(".geojson"))
        drain(project.train(TRAIN, name=RUN))
        drain(project.predict(["a"]))
        yield folder


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page):
    for block in blocks(page):
        if not block["why"]:
            {"python": run_python, "sh": run_shell}[block["language"]](block["code"].replace(".svs", ".tif"))


def run_python(code):
    quick = code.replace("LiveConfig().fast", "FAST").replace("FastConfig()", "FAST")
    exec(compile(quick, "docs", "exec"), {"__name__": "docs", "FAST": FAST})  # noqa: S102 - the docs' own examples


def run_shell(code):
    for line in code.splitlines():
        name, *arguments = shlex.split(line, comments=True)
        assert name == "slidecorr", line
        expanded = [path for one in arguments for path in (sorted(glob.glob(one)) if "*" in one else [one])]  # noqa: PTH207
        quick = QUICK.get(arguments[0], [])
        if arguments[0] == "train" and "--weights" not in arguments:
            quick = [*quick, "--weights", "random"]
        outcome = CliRunner().invoke(app, [*expanded, *quick], catch_exceptions=False)
        assert outcome.exit_code == 0, f"{line}\n{outcome.output}"
