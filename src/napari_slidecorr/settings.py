"""A setting is declared once; form, command line, JSON and error text are derived from it.

`setting` declares a dataclass field with its label, help and bounds. `fields_of` lists what was declared, and
`check` holds a value against it. Nothing here knows which settings exist.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from napari_slidecorr.errors import ConfigError

_KEY = "napari_slidecorr"
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a person sees of a field: label, help, bounds and whether it is for experts only."""

    label: str
    help: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    step: float | None = None
    advanced: bool = False


@dataclass(frozen=True)
class SettingField:
    """One declared field of a config: its name, type, default and `Setting`."""

    name: str
    annotation: Any
    default: Any
    setting: Setting

    @property
    def optional(self) -> bool:
        """Whether None is allowed."""
        return type(None) in _members(self.annotation)

    @property
    def plain_types(self) -> tuple[Any, ...]:
        """The members of the annotation without None; more than one for a choice of configs."""
        return tuple(member for member in _members(self.annotation) if member is not type(None))

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal annotation; empty for anything else."""
        (first, *rest) = self.plain_types
        return get_args(first) if not rest and get_origin(first) is Literal else ()

    @property
    def nested(self) -> tuple[type, ...]:
        """The config types that this field may hold; empty for a plain value."""
        return tuple(m for m in self.plain_types if isinstance(m, type) and dataclasses.is_dataclass(m))


def setting(
    default: Any,
    label: str,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    step: float | None = None,
    advanced: bool = False,
) -> Any:
    """Declare a dataclass field that a form, a command line and JSON can show.

    Parameters
    ----------
    default
        Its value when nothing is said; a config instance for a nested field.
    label, help
        A short name and one sentence with the unit.
    ge, gt, le, lt
        Bounds of a number.
    step
        The step of a spin box.
    advanced
        Shown folded away.
    """
    told = Setting(label=label, help=help, ge=ge, gt=gt, le=le, lt=lt, step=step, advanced=advanced)
    return dataclasses.field(default=default, metadata={_KEY: told})


def fields_of(config: Any) -> tuple[SettingField, ...]:
    """List the settings of a config type or instance, in the order of declaration."""
    config_type = config if isinstance(config, type) else type(config)
    hints = get_type_hints(config_type)
    return tuple(
        SettingField(field.name, hints[field.name], field.default, field.metadata[_KEY])
        for field in dataclasses.fields(config_type)
        if _KEY in field.metadata
    )


def check(config: Any) -> None:
    """Hold every field of a config against its declaration; call it from ``__post_init__``.

    Raises
    ------
    ConfigError
        For the first field whose type or value is not allowed; names field, value and what is allowed.
    """
    for field in fields_of(config):
        _check_value(field, getattr(config, field.name))


def to_json(config: Any) -> dict[str, Any]:
    """Give a config as JSON-ready dict; a nested config carries its ``kind``."""
    out: dict[str, Any] = {}
    if kind := getattr(config, "kind", None):
        out["kind"] = kind
    for field in fields_of(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_json(value)
        out[field.name] = str(value) if isinstance(value, Path) else value
    return out


def from_json(config_type: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Make a config from what `to_json` gave; unknown keys are errors, missing ones take their default.

    Raises
    ------
    ConfigError
        For an unknown key, an unknown ``kind`` or a value that is not allowed.
    """
    fields = {field.name: field for field in fields_of(config_type)}
    unknown = sorted(set(values) - set(fields) - {"kind"})
    if unknown:
        raise ConfigError(f"{config_type.__name__} has no setting named {unknown[0]!r}; it has {', '.join(fields)}.")
    made = {name: _from_json_value(fields[name], value) for name, value in values.items() if name != "kind"}
    return config_type(**made)


def _from_json_value(field: SettingField, value: Any) -> Any:
    if field.nested and isinstance(value, Mapping):
        return from_json(_nested_type(field, value), value)
    if value is not None and field.plain_types == (float,) and isinstance(value, int):
        return float(value)
    return value


def _nested_type(field: SettingField, value: Mapping[str, Any]) -> type:
    if len(field.nested) == 1:
        return field.nested[0]
    kinds = {str(getattr(config_type, "kind", config_type.__name__)): config_type for config_type in field.nested}
    kind = value.get("kind")
    if kind not in kinds:
        raise ConfigError(f"{field.name}: there is no kind {kind!r}; choose one of {', '.join(kinds)}.")
    return kinds[kind]


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _check_value(field: SettingField, value: Any) -> None:
    if value is None:
        if not field.optional:
            raise ConfigError(f"{field.name} is missing; give it.")
        return
    if field.choices:
        if value not in field.choices:
            allowed = ", ".join(map(str, field.choices))
            raise ConfigError(f"{field.name} is {value!r}; choose one of {allowed}.")
        return
    if not _has_type(field, value):
        names = " or ".join(getattr(member, "__name__", str(member)) for member in field.plain_types)
        raise ConfigError(f"{field.name} is {value!r}; it must be {names}.")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(field, value)


def _has_type(field: SettingField, value: Any) -> bool:
    accepted = tuple(typing.get_origin(member) or member for member in field.plain_types)
    if isinstance(value, bool):
        return bool in accepted
    return isinstance(value, (*accepted, int) if float in accepted else accepted)


def _check_bounds(field: SettingField, value: float) -> None:
    told = field.setting
    bounds = (
        (told.ge, "at least", operator.ge),
        (told.gt, "above", operator.gt),
        (told.le, "at most", operator.le),
        (told.lt, "below", operator.lt),
    )
    if not math.isfinite(value):
        raise ConfigError(f"{field.name} is {value}; it must be a finite number.")
    for bound, words, holds in bounds:
        if bound is not None and not holds(value, bound):
            raise ConfigError(f"{field.name} is {value:g}; it must be {words} {bound:g}.")
