import json
from dataclasses import replace
from importlib.metadata import version

from napari_slidecorr.config import ScrConfig
from napari_slidecorr.events import drain
from napari_slidecorr.learning.model_card import slide_facts
from napari_slidecorr.learning.training import train


def test_the_card_tells_what_the_model_is_and_is_not_for(tables, slides, config, tmp_path):
    result = drain(train(*tables, slides, replace(config, objective=ScrConfig(beta=0.3)), run=tmp_path / "run"))
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text("utf-8")
    assert "| tumour | 72 | 36 |" in card
    assert "Trained on 4: s0, s1, s2, s3" in card
    assert "Held out 2: s4, s5" in card
    assert "Weights of epoch 2 of 2: the last epoch." in card
    assert f"| held-out AUC | {result.epochs[-1].validation_auc:.4g} |" in card
    assert "| objective.beta | 0.3 |" in card
    assert "| patches.mpp | 0.5 |" in card
    assert f"| torch | {version('torch')} |" in card
    assert "not for diagnosis" in card
    assert "MIDL 2021" in card


def test_the_card_of_a_model_without_held_out_slides(table, slides, config, tmp_path):
    config = replace(config, validation_fraction=0.0, epochs=1)
    drain(train(table, table.of_slides(()), slides, config, run=tmp_path / "run"))
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text("utf-8")
    assert "Held out 0: none" in card
    assert "Nothing was held out" in card
    assert "nan" not in card


def test_the_run_records_versions_and_slide_files(tables, slides, config, tmp_path, monkeypatch):
    path = tmp_path / "s0.tif"
    path.write_bytes(b"12345")
    monkeypatch.setattr(slides["s0"].source, "path", path)
    assert slide_facts([slides["s0"]])["s0"]["bytes"] == 5
    events = train(*tables, slides, config, run=tmp_path / "run")
    while not (tmp_path / "run" / "config.json").exists():
        next(events)
    events.close()
    told = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert told["versions"]["timm"] == version("timm")
    assert told["slides"]["s0"]["bytes"] == 5
    assert told["slides"]["s0"]["changed"].endswith("+00:00")
