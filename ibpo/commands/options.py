"""Options that several commands share: which columns a log has, which part of it, which server embeds prompts."""

from __future__ import annotations

import math
import os
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ibpo.commands.completion import data_keys, keys, recipe_keys, response_groups
from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from ibpo.routing import Embed, Router

LOG_FIELDS = ("problem", "response_group", "reward", "cost")
"""Fields of a log of scored responses."""
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=COLUMN",
        autocompletion=keys("problem", "response_group", "reward", "cost"),
        help="Names columns that have other names: reward=correct,cost=tokens; repeat or join by commas. Fields: "
        "problem, response_group, reward, cost.",
    ),
]
BudgetsOfTraffic = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="BUDGET",
        autocompletion=keys("extended", "tokens"),
        help="extended=30%: largest share, in percent of the requests; or tokens=2000: mean tokens per request; "
        "repeat.",
    ),
]
PricesFile = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="Table of prices, money per million tokens, in the currency that you like (TOML, JSON, CSV, or "
        "LiteLLM's): model, input, cached_input, output, reasoning. The cost of each response is then money in that "
        "currency, by its tokens.",
    ),
]
ResponseGroups = Annotated[
    list[str] | None,
    typer.Option(
        "--response-group",
        metavar="NAME|RECIPE",
        autocompletion=response_groups,
        help="A shipped response group, e.g. standard, thinking_on, effort_low (repeat); or a recipe (FILE.toml), for "
        "its own.",
    ),
]
SetData = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        autocompletion=data_keys,
        help="A key of [data] or [judge], as in a recipe: data.path=FILE (a local copy), data.problem=COLUMN, "
        "data.judge=exact, judge.isolation=false (programs run with your own rights: on throw-away machines only); "
        "repeat.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        autocompletion=recipe_keys,
        help="A value in place of the recipe's, e.g. train.steps=20; repeat.",
    ),
]
RunFolder = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The run's folder. Default: runs/ and the recipe's name.")
]
OnError = Annotated[
    Literal["fail", "skip"], typer.Option(help="At a bad row: stop (fail), or leave the row out and go on (skip).")
]
PartOfLog = Annotated[
    str | None,
    typer.Option("--part", metavar="COLUMN=VALUE", help="Take only this part of the log, e.g. model=my-model."),
]
EmbedBy = Annotated[
    str | None,
    typer.Option(
        "--embed",
        metavar="KEY=VALUE|FOLDER",
        autocompletion=keys("url", "key_file", "model", "folder", "layers"),
        help="What embeds prompts: a server, url=http://127.0.0.1:8000/v1,key_file=FILE (for ibpo route fit also "
        "model=NAME); or the folder of a sentence encoder for this process, e.g. all-MiniLM-L6-v2 (for ibpo route fit "
        "also folder=DIR,layers=auto: its first layers only, as few as predict as well; or their number).",
    ),
]


def check_temperature(value: float | None) -> None:
    """Refuse what Typer takes for a number from 0 on, and no server does."""
    if value is not None and not math.isfinite(value):
        raise IbpoError(f"--temperature {value:g}: is not a temperature; write a number such as 1")


def read_pairs(texts: Iterable[str], known: tuple[str, ...], option: str) -> dict[str, str]:
    """`KEY=VALUE,KEY=VALUE` as a dictionary; a comma that no `KEY=` follows belongs to the value.

    Raises:
        IbpoError: names option, text and the keys that there are.

    Example:
        >>> read_pairs(["reward=is right, or not,cost=n"], ("reward", "cost"), "--columns")
        {'reward': 'is right, or not', 'cost': 'n'}
    """
    from ibpo.config import nearest

    found: dict[str, str] = {}
    for text in texts:
        for pair in re.split(r",(?=\s*\w+\s*=)", text):
            key, equals, value = (part.strip() for part in pair.partition("="))
            if not (equals and value):
                raise IbpoError(f"{option} {text}: needs {known[0]}=..., with any of {', '.join(known)}")
            if key not in known:
                raise IbpoError(f"{option} {text}: unknown field {key}; {nearest(key, known)}")
            found[key] = value
    return found


def split_recipe(names: Iterable[str]) -> tuple[list[str], Path | None]:
    """The names of `--response-group`, or the recipe that stands alone there.

    Raises:
        IbpoError: for a recipe beside other names.
    """
    named = list(dict.fromkeys(names))  # one that is named twice is sampled once, and counts once
    recipes = [name for name in named if name.endswith(".toml")]
    if recipes and len(named) > 1:
        raise IbpoError(f"--response-group {recipes[0]}: a recipe brings its own response groups; name it alone")
    return ([], Path(recipes[0])) if recipes else (named, None)


def run_command(name: str, recipe: Path, overrides: Iterable[str], out: Path) -> str:
    """The command that runs a recipe into a folder, for a shell."""
    return shlex.join(["ibpo", name, str(recipe), *(x for o in overrides for x in ("--set", o)), "--out", str(out)])


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the bars, news and telemetry of the libraries that train.

    Raises:
        IbpoError: where one of them is missing.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries' news about their own future
        try:
            import datasets
            import huggingface_hub
            import transformers
        except ModuleNotFoundError as error:
            raise IbpoError(f"training needs {error.name}: pip install 'ibpo[train]'") from None
        for library in (transformers.utils.logging, huggingface_hub.utils.logging, datasets.logging):
            library.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        yield


def read_part(text: str | None) -> tuple[str | None, str | None]:
    """Column and value of `--part`; the value may be left out where the column has one only."""
    column, _, value = (text or "").partition("=")
    return column or None, value or None


def read_embed(text: str | None, *keys: str) -> dict[str, str] | Path:
    """The keys of `--embed`, or the folder that it names.

    Raises:
        IbpoError: for other keys, or what is neither.
    """
    if text and "=" not in text:
        return Path(text)
    return read_pairs([text] if text else (), ("url", "key_file", *keys), "--embed")


def embed_by(
    url: str, model: str, key_file: str | None, *, max_retries: int = 5, timeout_seconds: float = 600.0
) -> Embed:
    """Asks a server for embeddings.

    Raises:
        IbpoError: The key cannot be read.
    """
    from ibpo.endpoint import Endpoint, read_api_key
    from ibpo.routing import embedder

    key = read_api_key(Path(key_file) if key_file else None, "--embed key_file")
    return embedder(
        Endpoint(base_url=url, model=model, api_key=key, max_retries=max_retries, timeout_seconds=timeout_seconds)
    )


def open_router(
    path: Path,
    embed: str | None,
    *,
    max_retries: int = 5,
    timeout_seconds: float = 600.0,
    first_answers: bool = False,
) -> Router:
    """A router with what it needs for embeddings: the folder of its encoder, or its server or that of `--embed`.

    Raises:
        IbpoError: No router, an address for one that looks at no embeddings, another encoder than it was fitted on, or
            (without `first_answers`) one that decides after an answer.
    """
    from ibpo.routing import load_router, open_encoder

    found, server = load_router(path), read_embed(embed)
    if found.first and not first_answers:
        raise IbpoError(
            f"{path}: decides once an answer of {found.groups[0]!r} is there, which only ibpo serve and the library "
            "have; fit it without --first-answers"
        )
    about = found.embedding
    if about and not ("model" in about and about.get("layers", "0").isdigit() and {"sha256", "base_url"} & set(about)):
        raise IbpoError(f"{path}: does not say where its embeddings come from; make it again with ibpo route fit")
    if "sha256" in found.embedding:
        if not isinstance(server, Path):
            raise IbpoError(
                f"{path}: was fitted on embeddings by {found.embedding['model']}; give its folder: --embed FOLDER"
            )
        encoder = open_encoder(server)
        if encoder.sha256 != found.embedding["sha256"]:
            raise IbpoError(f"{server}: is not the encoder that {path} was fitted on (SHA-256 of its weights differs)")
        layers = int(found.embedding.get("layers", encoder.num_layers))
        return load_router(path, encoder.cut(layers).embed)
    if isinstance(server, Path):
        raise IbpoError(f"--embed {server}: {path} was fitted without an encoder in the process; leave it out")
    if not found.embedding:
        if server:
            raise IbpoError(f"--embed: {path} was fitted without embeddings; leave it out")
        return found
    where, model = server.get("url") or found.embedding["base_url"], found.embedding["model"]
    embedding = embed_by(where, model, server.get("key_file"), max_retries=max_retries, timeout_seconds=timeout_seconds)
    return load_router(path, embedding)


NO_TOKENIZER = "there is none"


def load_tokenizer(model: str) -> Any:
    """A tokenizer of transformers, of a folder or a hub id.

    Raises:
        IbpoError: says what is wrong and what to do.
    """
    from ibpo.demo import resolve_model

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    folder = Path(resolve_model(model)).expanduser()
    if not folder.is_dir() and (model.startswith((".", "~", os.sep)) or model.count("/") > 1):
        raise IbpoError(f"{model}: there is no such folder; name one with a tokenizer, or a hub id")
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise IbpoError(f"a tokenizer needs {error.name}: pip install 'ibpo[train]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else model, trust_remote_code=False)
        if tokenizer("1 + 2 =")["input_ids"]:  # some of its settings are looked at only here
            return tokenizer
        said = NO_TOKENIZER  # made of the model's configuration alone
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        said = NO_TOKENIZER if said.rstrip().endswith(":") else said  # a list of what there might be follows
    raise IbpoError(
        f"{model}: the tokenizer cannot be loaded: {said.rstrip('.')}; name a folder made by save_pretrained"
    )
