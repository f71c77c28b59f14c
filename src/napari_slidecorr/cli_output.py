"""How a command ends: its result on standard output, a mistake as one sentence on standard error, an exit code."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json as json_format
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.torch_trouble import torch_trouble_told

MISTAKE = 2
"""Exit code when the input was wrong, or the disk is full or closed to us."""

STOPPED = 130
"""Exit code after Ctrl-C."""

_OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def told_in_one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command end with a sentence and an exit code instead of a traceback, where it is not a bug."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        try:
            with torch_trouble_told():
                command(**values)
        except SlideCorrError as error:
            _end(str(error), MISTAKE, error)
        except OSError as error:
            if error.errno not in _OUTSIDE:
                raise
            _end(
                f"{error.filename or 'The disk'}: {error.strerror}; make room or choose another place.", MISTAKE, error
            )
        except KeyboardInterrupt as error:
            _end("Stopped; what was finished is kept.", STOPPED, error)

    return run


def print_result(result: Any, text: str, *, json: bool) -> None:
    """Print a result for a person, or as one JSON object for a script (numbers that are not finite become null)."""
    typer.echo(json_format.dumps(_jsonable(result), indent=2, allow_nan=False) if json else text)


def _end(sentence: str, code: int, cause: BaseException) -> None:
    typer.echo(f"slidecorr: {sentence}", err=True)
    raise typer.Exit(code) from cause


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _jsonable(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
