import dataclasses
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from napari_slidecorr.settings import check, fields_of, from_json, setting, to_json

objectives = st.one_of(
    st.builds(ScrConfig, beta=st.floats(0, 10)),
    st.builds(SceConfig, beta=st.floats(0, 10)),
    st.builds(SdaConfig, strength=st.floats(0, 10)),
    st.just(CrossEntropyConfig()),
)
patch_configs = st.builds(
    PatchConfig, size_px=st.integers(16, 2048), mpp=st.none() | st.floats(0.01, 100), overlap=st.floats(0, 0.99)
)
train_configs = st.builds(
    TrainConfig,
    objective=objectives,
    patches=patch_configs,
    epochs=st.integers(1, 100),
    learning_rate=st.floats(1e-9, 1),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    colour_jitter=st.booleans(),
    backbone=st.sampled_from(["resnet18", "vgg16"]),
)


@given(train_configs)
def test_json_and_back_is_the_same_config(config):
    assert from_json(TrainConfig, to_json(config)) == config


@pytest.mark.parametrize("config_type", [TrainConfig, PatchConfig, PredictConfig, ScrConfig, SceConfig, SdaConfig])
def test_every_field_of_a_config_is_declared_as_setting(config_type):
    assert [field.name for field in fields_of(config_type)] == [f.name for f in dataclasses.fields(config_type)]
    assert all(field.setting.help.endswith(".") for field in fields_of(config_type))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: ScrConfig(beta=-1), ["beta", "-1", "at least 0"], id="below a bound"),
        pytest.param(lambda: PatchConfig(overlap=1.0), ["overlap", "1", "below 1"], id="at an open bound"),
        pytest.param(lambda: PatchConfig(size_px=64.5), ["size_px", "64.5", "int"], id="float for int"),
        pytest.param(lambda: TrainConfig(optimizer="adam"), ["optimizer", "adam", "sgd, adamw"], id="no such choice"),
        pytest.param(lambda: TrainConfig(learning_rate=float("nan")), ["learning_rate", "finite"], id="not a number"),
        pytest.param(lambda: TrainConfig(epochs=True), ["epochs", "True"], id="bool for int"),
        pytest.param(lambda: TrainConfig(seed=None), ["seed is missing", "give it"], id="None where none is allowed"),
        pytest.param(lambda: TrainConfig(objective=3), ["objective", "3"], id="not an objective"),
        pytest.param(lambda: TrainConfig(patches_per_slide=1), ["patches_per_slide", "SCR"], id="SCR without pairs"),
        pytest.param(lambda: from_json(ScrConfig, {"betta": 1}), ["betta", "beta"], id="unknown key"),
        pytest.param(lambda: from_json(TrainConfig, {"objective": {"kind": "scx"}}), ["scx", "scr"], id="unknown kind"),
    ],
)
def test_a_wrong_value_is_told_with_field_and_value(make, words):
    with pytest.raises(ConfigError) as told:
        make()
    assert all(word in str(told.value) for word in words), str(told.value)


def test_a_whole_number_may_stand_for_a_float():
    assert from_json(ScrConfig, {"kind": "scr", "beta": 1}).beta == 1.0
    assert PatchConfig(mpp=None).mpp is None


def test_choices_and_nested_types_are_found():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Example:
        how: Literal["a", "b"] = setting("a", "How", "One of two.")
        maybe: float | None = setting(None, "Maybe", "Or not.")

        def __post_init__(self) -> None:
            check(self)

    globals()["Example"] = Example
    how, maybe = fields_of(Example)
    assert how.choices == ("a", "b")
    assert not how.optional
    assert maybe.optional
    assert maybe.choices == ()
    objective = next(field for field in fields_of(TrainConfig) if field.name == "objective")
    assert [config.kind for config in objective.nested] == ["scr", "ce", "sce", "sda", "coral", "groupdro"]
