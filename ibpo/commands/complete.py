"""What the shell may complete behind an option: words of a closed set, and keys of `KEY=VALUE`.

A shell asks after each press of the tab key, so nothing here loads more than the words' own room. Where nothing fits,
shells go on with file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer


def words(*known: str) -> Callable[[str], list[str]]:
    """Completes one of these."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, known)

    return complete


def keys(*known: str) -> Callable[[str], list[str]]:
    """Completes a key of `KEY=VALUE,KEY=VALUE` up to its `=`."""

    def complete(incomplete: str) -> list[str]:
        return _keys(incomplete, known)

    return complete


def response_groups(incomplete: str) -> list[str]:
    """The shipped response groups."""
    from ibpo.responses import FORMATS

    return _beginning(incomplete, FORMATS)


def tasks(incomplete: str) -> list[str]:
    """The shipped tasks."""
    from ibpo.tasks import TASKS

    return _beginning(incomplete, TASKS)


def eval_tasks(incomplete: str) -> list[str]:
    """The shipped tasks and the embedded experiments."""
    from ibpo.tasks import TASKS

    return _beginning(incomplete, ["thinking", "voting", *TASKS])


def real_models(incomplete: str) -> list[str]:
    """The models of `ibpo models get`."""
    from ibpo.demo import REAL_MODELS

    return _beginning(incomplete, REAL_MODELS)


def engine_keys(incomplete: str) -> list[str]:
    """The keys of `--engine`."""
    from ibpo.commands.eval_setup import Engine

    return _keys(incomplete, Engine.model_fields)


def data_keys(incomplete: str) -> list[str]:
    """The keys of [data] and [judge] in a recipe."""
    from ibpo.config import DataRecipe

    return _keys(incomplete, _table_keys(DataRecipe, ("data", "judge")))


def recipe_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """The keys of a training's recipe, or of a cold start's."""
    if ctx.info_name == "cold-start":
        from ibpo.training import ColdStartConfig as Config
    else:
        from ibpo.config import RunConfig as Config
    return _keys(incomplete, _table_keys(Config, Config.model_fields))


def _table_keys(model: type, tables: Iterable[str]) -> list[str]:
    from pydantic import BaseModel

    assert issubclass(model, BaseModel)
    found: list[str] = []
    for table in tables:
        inner = model.model_fields[table].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{table}.{key}" for key in inner.model_fields]
    return found


def _keys(incomplete: str, known: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{key}=" for key in _beginning(last, known)]


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]
