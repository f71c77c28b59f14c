"""The README does what it says: its blocks are there, its links lead somewhere, its examples run."""

import glob
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.io import read_map, write_regions
from napari_slidecorr.sample_data import make_cohort

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def block_after(line):
    (found,) = re.findall(rf"^{re.escape(line)}\n```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize("name", ["demo", "test"])
def test_a_command_to_run_is_one_or_two_lines(name):
    block = block_after(f"<!-- run: {name} -->")
    assert len(block.splitlines()) in (1, 2)
    assert "pip install" in block


@pytest.mark.parametrize("name", ["demo", "test"])
def test_ci_takes_the_very_block(name):
    taken = subprocess.run(["bash", ROOT / ".ci" / "readme-block", name], capture_output=True, text=True, check=True)
    assert taken.stdout == block_after(f"<!-- run: {name} -->")


def test_ci_refuses_a_block_that_is_not_there():
    assert (
        subprocess.run(["bash", ROOT / ".ci" / "readme-block", "x"], capture_output=True, check=False).returncode == 2
    )


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(\s*([^)\s]+)\s*\)", page.read_text("utf-8"))
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_messages_that_are_explained_are_messages():
    page = (ROOT / "docs" / "how-to-label-train-predict.md").read_text("utf-8")
    rows = page.split("| message | what to do |")[1].strip().splitlines()[1:]
    messages = [row.split("|")[1].strip() for row in rows]
    code = " ".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert len(messages) > 2
    for message in messages:
        assert message in code


@pytest.fixture
def slides_folder(tmp_path, monkeypatch):
    """A folder as the examples have it: slides/ with regions beside, and a new slide."""
    *_, made = make_cohort(tmp_path / "slides", slides=4, size_px=512)
    *known, new = made.result
    for slide, name in zip(known, "abc", strict=True):
        slide.path.rename(tmp_path / "slides" / f"{name}.tif")
        write_regions(tmp_path / "slides" / f"{name}.geojson", slide.regions)
    new.path.rename(tmp_path / "new.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_example_runs(slides_folder, capsys):
    code = block_after("<!-- example: notebook -->")
    assert len([line for line in code.splitlines() if line]) <= 12
    quick = code.replace(".svs", ".tif").replace("size_px=224", "size_px=32")
    quick = quick.replace(
        "TrainConfig(objective",
        "TrainConfig(backbone='test_resnet', weights='random', epochs=1, device='cpu', objective",
    )
    assert quick.count("epochs=1") == 1
    exec(compile(quick, "README.md", "exec"), {"__name__": "notebook"})  # noqa: S102 - the README's own example
    assert "tumour" in capsys.readouterr().out
    assert (slides_folder / "new.geojson").is_file()


@pytest.mark.slow
def test_the_shell_example_runs(slides_folder):
    for line in block_after("<!-- example: shell -->").replace(".svs", ".tif").splitlines():
        name, *arguments = shlex.split(line, comments=True)
        assert name == "slidecorr"
        expanded = [path for one in arguments for path in (sorted(glob.glob(one)) if "*" in one else [one])]  # noqa: PTH207
        trains = arguments[0] in ("train", "fast-train", "compare")
        small = ["--backbone", "test_resnet", "--weights", "random", "--size-px", "32", "--device", "cpu"]
        quick = small if trains else []
        quick = [*quick, "--epochs", "1"] if arguments[0] == "compare" else quick
        expanded = ["1" if one in ("10", "3") else one for one in expanded]
        outcome = CliRunner().invoke(app, [*expanded, *quick], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        if arguments[:2] == ["regions", "import"]:
            for other in ("b", "c"):
                CliRunner().invoke(
                    app, ["regions", "import", "study", f"slides/{other}.geojson"], catch_exceptions=False
                )
    assert (slides_folder / "a.geojson").is_file()
    (made,) = Path("study/maps/a").glob("*.ome.zarr")
    assert read_map(made).slide_id == "a"
