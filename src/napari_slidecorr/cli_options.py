"""Command-line options made from a config's own settings, so that neither is typed twice.

`options_from` gives a command one option for each setting of a config, nested ones included, and hands the command the
finished config. An option that is not given keeps the setting's default, which only the config knows.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any

import typer

from napari_slidecorr.errors import ConfigError
from napari_slidecorr.settings import SettingField, fields_of, from_json

GIVEN = "given"
NONE = "none"
"""What one writes for a setting that may be empty, for example ``--mpp none``."""


def options_from(
    config_type: type, *, only: Collection[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's ``config`` parameter by options, one for each setting of a config type.

    A parameter ``given`` of the command, if it has one, receives the names of the settings that were given.

    Parameters
    ----------
    only : collection of str, optional
        The settings that matter to the command; all when left out.
    """
    fields = settings_of(config_type)
    options = {field.name: _option(field, kinds) for field, kinds in fields if only is None or field.name in only}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def with_config(**values: Any) -> None:
            given = {name: values.pop(name) for name in options}
            if GIVEN in signature.parameters:
                values[GIVEN] = frozenset(name for name, value in given.items() if value is not None)
            command(**values, config=config_from(config_type, given))

        own = [parameter for parameter in signature.parameters.values() if parameter.name not in ("config", GIVEN)]
        with_config.__signature__ = signature.replace(parameters=[*own, *options.values()])  # type: ignore[attr-defined]
        with_config.__annotations__ = {p.name: p.annotation for p in (*own, *options.values())}
        return with_config

    return decorate


def settings_of(config_type: type) -> Iterator[tuple[SettingField, tuple[str, ...]]]:
    """Walk the settings of a config type as one flat list.

    Yields
    ------
    (SettingField, tuple of str)
        A setting, and the kinds of nested config that have it (empty when it always applies). A setting that several
        kinds share comes once.
    """
    for field in fields_of(config_type):
        if len(field.nested) == 1:
            yield from settings_of(field.nested[0])
            continue
        yield field, ()
        shared: dict[str, SettingField] = {}
        for inner in (inner for kind in field.nested for inner in fields_of(kind)):
            shared.setdefault(inner.name, inner)
        for name, inner in shared.items():
            yield inner, tuple(_kind(kind) for kind in field.nested if name in _names(kind))


def config_from(config_type: type, given: Mapping[str, Any]) -> Any:
    """Make a config from the options that were given; None means not given.

    Raises
    ------
    ConfigError
        For a value that is not allowed, and for an option that the chosen kind does not have.
    """
    return from_json(config_type, _nested_values(config_type, given))


def check_same(given: Collection[str], config: Any, own: Any) -> None:
    """Make sure that what was given is what something was begun with.

    Parameters
    ----------
    given : collection of str
        Names of settings.
    config, own : config
        What they were given as, and what it was begun with.

    Raises
    ------
    ConfigError
        If one differs; names it and both values.
    """
    now, then = _flat(config), _flat(own)
    for name in sorted(given):
        if now.get(name) != then.get(name):
            raise ConfigError(
                f"It was begun with other settings ({name}: {then.get(name)} then, {now.get(name)} now); leave {flag(name)} "
                "out, or start anew."
            )


def _flat(config: Any) -> dict[str, Any]:
    """All settings of a config by the names of their options."""
    values: dict[str, Any] = {}
    for field in fields_of(type(config)):
        value = getattr(config, field.name)
        if len(field.nested) != 1:
            values[field.name] = _kind(type(value)) if field.nested else value
        if field.nested:
            values |= _flat(value)
    return values


def _nested_values(config_type: type, given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields_of(config_type):
        if len(field.nested) == 1:
            values[field.name] = _nested_values(field.nested[0], given)
        elif field.nested:
            values[field.name] = _choice_values(field, given)
        elif given.get(field.name) is not None:
            values[field.name] = _value(field, given[field.name])
    return values


def _choice_values(field: SettingField, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a field that holds one of several kinds of config; an option of another kind is an error."""
    kinds = {_kind(member): member for member in field.nested}
    chosen = given.get(field.name) or _kind(type(field.default))
    if chosen not in kinds:
        raise ConfigError(f"{flag(field.name)} is {chosen!r}; choose one of {', '.join(kinds)}.")
    values = _nested_values(kinds[chosen], given)
    for other in kinds.values():
        for name in _names(other):
            if given.get(name) is not None and name not in values:
                having = " or ".join(kind for kind, member in kinds.items() if name in _names(member))
                raise ConfigError(
                    f"{flag(name)} {given[name]} was given, but {field.name} {chosen!r} has no {name}; leave it out, or "
                    f"choose {flag(field.name)} {having}."
                )
    return {"kind": chosen, **values}


def _value(field: SettingField, value: Any) -> Any:
    if not (field.optional and isinstance(value, str)):
        return value
    if value.lower() == NONE:
        return None
    (plain,) = field.plain_types
    try:
        return plain(value)
    except ValueError as error:
        raise ConfigError(f"{flag(field.name)} is {value!r}; it must be {plain.__name__} or {NONE}.") from error


def _option(field: SettingField, kinds: tuple[str, ...]) -> inspect.Parameter:
    """Give the option of one setting; its default None means not given."""
    plain: Any = str if field.choices or field.nested or field.optional else field.plain_types[0]
    # A bool gets its --no- twin from typer.
    names = () if plain is bool else (flag(field.name),)
    told = typer.Option(*names, help=_help(field, kinds), metavar=_metavar(field), show_default=False)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[plain | None, told]
    )


def _help(field: SettingField, kinds: tuple[str, ...]) -> str:
    default = _kind(type(field.default)) if field.nested else field.default
    only = f" Only with {', '.join(kinds)}." if kinds else ""
    return f"{field.setting.help}{only} [{NONE if default is None else default}]"


def _metavar(field: SettingField) -> str | None:
    if field.nested:
        return "|".join(_kind(member) for member in field.nested)
    if field.choices:
        return "|".join(map(str, field.choices))
    if field.optional:
        return f"{field.plain_types[0].__name__.upper()}|{NONE}"
    return None


def flag(name: str) -> str:
    """Give the option's name of a setting, ``size_px`` -> ``--size-px``."""
    return "--" + name.replace("_", "-")


def _kind(config_type: type) -> str:
    return str(getattr(config_type, "kind", config_type.__name__))


def _names(config_type: type) -> list[str]:
    return [field.name for field in fields_of(config_type)]
