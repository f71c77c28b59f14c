import dataclasses

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from napari_slidecorr.cli_options import NONE, config_from, flag, options_from, settings_of
from napari_slidecorr.config import (
    CrossEntropyConfig,
    PatchConfig,
    PredictConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
    TrainConfig,
)
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.settings import fields_of, to_json


def parse(config_type, arguments):
    """Give the config that a command with this config's options receives."""
    app, received = typer.Typer(), []

    @app.command()
    @options_from(config_type)
    def command(config: config_type) -> None:
        received.append(config)

    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return received[0]


def as_arguments(values):
    arguments = []
    for name, value in values.items():
        if name == "objective":
            arguments += [flag(name), value["kind"], *as_arguments({k: v for k, v in value.items() if k != "kind"})]
        elif isinstance(value, dict):
            arguments += as_arguments(value)
        elif isinstance(value, bool):
            arguments.append(flag(name) if value else flag(f"no_{name}"))
        else:
            arguments += [flag(name), NONE if value is None else str(value)]
    return arguments


def numbers(field):
    told = field.setting
    low = told.ge if told.ge is not None else told.gt
    high = told.le if told.le is not None else told.lt
    if field.plain_types == (int,):
        return st.integers(int(low if low is not None else 0), int(high if high is not None else 1000))
    return st.floats(
        low if low is not None else 0,
        high if high is not None else 1e6,
        exclude_min=told.gt is not None,
        exclude_max=told.lt is not None,
    )


def values_of(field):
    if field.nested:
        return st.one_of(*(configs(member) for member in field.nested))
    if field.choices:
        return st.sampled_from(field.choices)
    if field.plain_types == (bool,):
        return st.booleans()
    if field.plain_types == (str,):
        return st.text("abc./_", min_size=1, max_size=8)
    return st.none() | numbers(field) if field.optional else numbers(field)


@st.composite
def configs(draw, config_type):
    made = {field.name: draw(values_of(field)) for field in fields_of(config_type)}
    if config_type is TrainConfig:
        made["patches_per_slide"] = max(2, made["patches_per_slide"])
        if made["validation_fraction"] == 0:
            made |= {"keep": "last", "patience": 0, "split": "slides"}
        if made["continue_from"]:
            made["split"] = "slides"
    return config_type(**made)


@pytest.mark.parametrize("config_type", [TrainConfig, PredictConfig])
def test_without_options_a_command_gets_the_defaults(config_type):
    assert parse(config_type, []) == config_type()


@pytest.mark.parametrize("config_type", [TrainConfig, PredictConfig])
def test_every_setting_has_one_option_of_its_own(config_type):
    names = [field.name for field, _ in settings_of(config_type)]
    assert len(names) == len(set(names))
    nested = [inner.name for inner in fields_of(PatchConfig)] if config_type is TrainConfig else []
    plain = [field.name for field in fields_of(config_type) if field.name != "patches"]
    assert set(names) >= {*plain, *nested}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(TrainConfig))
def test_what_is_given_as_options_arrives_as_config(config):
    assert parse(TrainConfig, as_arguments(to_json(config))) == config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"beta": 0.7}, ScrConfig(beta=0.7), id="of the default kind"),
        pytest.param({"objective": "ce"}, CrossEntropyConfig(), id="without settings"),
        pytest.param({"objective": "sce", "beta": 0.1}, SceConfig(beta=0.1), id="shared with another kind"),
        pytest.param({"objective": "sda", "strength": 0.5}, SdaConfig(strength=0.5), id="of one kind only"),
    ],
)
def test_options_of_an_objective(given, expected):
    assert config_from(TrainConfig, given).objective == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"objective": "ce", "beta": 0.3}, ["--beta", "'ce'", "scr or sce"], id="ce has no beta"),
        pytest.param({"objective": "sda", "beta": 0.3}, ["--beta", "'sda'", "scr or sce"], id="sda has no beta"),
        pytest.param({"strength": 0.3}, ["--strength", "'scr'", "--objective sda"], id="scr has no strength"),
        pytest.param({"objective": "scx"}, ["--objective", "'scx'", "scr, ce, sce, sda"], id="no such objective"),
        pytest.param({"mpp": "half"}, ["--mpp", "'half'", "none"], id="mpp is no number"),
        pytest.param({"mpp": "-1"}, ["mpp", "-1", "above 0"], id="mpp below zero"),
        pytest.param({"optimizer": "adam"}, ["optimizer", "'adam'", "sgd, adamw"], id="no such optimizer"),
        pytest.param({"patches_per_slide": 1}, ["patches_per_slide", "at least 2"], id="scr needs pairs"),
    ],
)
def test_a_wrong_option_is_told(given, words):
    with pytest.raises(ConfigError) as told:
        config_from(TrainConfig, given)
    for word in words:
        assert word in str(told.value)


def test_none_empties_a_setting():
    assert config_from(TrainConfig, {"mpp": NONE}).patches == PatchConfig(mpp=None)


def test_a_setting_added_to_a_config_becomes_an_option():
    from napari_slidecorr.settings import setting

    extended = dataclasses.make_dataclass(
        "Extended",
        [("warm_up", int, setting(3, "Warm-up", "Epochs before it counts.", ge=0))],
        bases=(PredictConfig,),
        frozen=True,
        kw_only=True,
    )
    assert parse(extended, ["--warm-up", "5", "--batch-size", "2"]) == extended(warm_up=5, batch_size=2)


def test_a_command_may_take_some_settings_and_hear_which_were_given():
    app, received = typer.Typer(), []

    @app.command()
    @options_from(TrainConfig, only={"epochs", "seed"})
    def command(config: TrainConfig, given: frozenset[str]) -> None:
        received.append((config, given))

    for arguments in ([], ["--epochs", str(TrainConfig().epochs)]):
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert received == [(TrainConfig(), frozenset()), (TrainConfig(), frozenset({"epochs"}))]
    assert "No such option" in CliRunner().invoke(app, ["--beta", "1"]).output
