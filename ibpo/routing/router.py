"""What would each response group gain on this prompt, and cost? Learned from logs.

Letters: N prompts, G response groups.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ibpo.data import read_number
from ibpo.errors import IbpoError
from ibpo.routing.features import COUNTED, NUM_HASHES, FloatArray, as_text, counts, hashed
from ibpo.routing.neighbours import mean_of_nearest
from ibpo.runs import read_document, write_text_atomic

_KIND = "ibpo.router"
_VERSION = 3
ARRAYS = (
    *("bends", "bend_of", "centre", "scale", "dense", "text", "intercept", "range", "floor"),
    *("near", "near_target", "num_near"),
)

MOST_NUMBER = 1e100
"""A number that is given with a prompt is no larger: squares of larger ones are no floats."""

Embed = Callable[[Sequence[str]], FloatArray]
"""Prompts -> `[N, E]` embeddings."""


class Scores(NamedTuple):
    """What N prompts are expected to gain and cost, per response group in the order of `Router.groups`."""

    gain: FloatArray
    """`[N, G]` expected reward above that of the first response group, whose column is 0."""
    cost: FloatArray
    """`[N, G]` expected cost, above 0, in the log's unit."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Router:
    r"""Two linear functions per response group of cheap features of a prompt.

    With z the features that can be counted (`ibpo.routing.features.counts`, columns of numbers, an embedding), each
    bent at a few of its quantiles and standardised, and h the hashed n-grams,

        gain_g = z . dense_g + h . text_g + intercept_g,     cost_g = max(floor_g, the same with weights of its own).

    A gain is held between the least and the largest one that the log has (`range`), however unlike its prompts one is.
    Where the prompts are embedded, the mean over the nearest problems (`ibpo.routing.neighbours`) may be added, each
    of the two with its weight.

    Made by `ibpo.routing.fit.fit_router`, read by `load_router`.
    """

    groups: tuple[str, ...]
    """The response groups, from the cheapest on average to the most expensive."""
    cost_name: str
    """What the cost is, e.g. "tokens": the name of the column that it was read from."""
    number_names: tuple[str, ...]
    """Columns of numbers that are given with each prompt, e.g. a level."""
    uses_text: bool
    """Whether prompts are looked at."""
    embedding: Mapping[str, str]
    """Where prompts are embedded: `base_url` and `model` of an endpoint, or `model` and `sha256` of an encoder
    in the process, with `layers` if it is cut; empty: nowhere."""
    arrays: Mapping[str, FloatArray]
    """The weights: all of `ARRAYS`."""
    source: Mapping[str, Any]
    """Provenance: file, its SHA-256, columns, numbers of problems and responses, versions, seed."""
    report: Mapping[str, Any]
    """What the router was worth on problems that it had not seen: see `ibpo.routing.evaluate.evaluate_router`."""
    first: Mapping[str, Any] = field(default_factory=dict)
    """Empty: decides by the prompt. If not, it decides once `answers` (1 or 2) of the cheapest response group are there
    (`ibpo.routing.escalation`): `shown` names the numbers among `number_names` that are read off them, gains are over
    those answers, and costs hold what they cost."""
    embed: Embed | None = None
    """Asks the endpoint for embeddings; see `load_router`."""

    @property
    def is_mix(self) -> bool:
        """Whether it predicts the same for every prompt, so that it needs no text and no numbers."""
        weights = self.arrays
        return not (weights["dense"].any() or len(weights["text"]) or weights["num_near"].any())

    def scores(self, prompts: Sequence[Any], numbers: Mapping[str, Sequence[float]] | None = None) -> Scores:
        """Expected gain and cost of every response group.

        Args:
            prompts: N texts, or lists of chat messages.
            numbers: Column -> N numbers, for a router with `number_names`.

        Returns:
            `gain` and `cost`, each `[N, G]`.

        Raises:
            IbpoError: Something that is no prompt, a column of numbers that is missing, an endpoint that fails.
        """
        if isinstance(prompts, str):
            raise IbpoError("prompts: is one text; give a list of them, [prompt]")
        texts = [as_text(prompt) for prompt in prompts]
        weights = self.arrays
        if self.is_mix:
            return self._split(np.tile(weights["intercept"], (len(texts), 1)))
        embedded = self._embedded(texts)
        raw = raw_features(texts, self.number_names, numbers, self.uses_text, embedded)
        bent = bend(raw, weights["bends"], weights["bend_of"])
        found = ((bent - weights["centre"]) / weights["scale"]) @ weights["dense"] + weights["intercept"]
        if len(weights["text"]):
            found = found + hashed(texts) @ weights["text"]
        by_near = np.flatnonzero(weights["num_near"])
        if len(by_near) and embedded is not None:
            found[:, by_near] += mean_of_nearest(
                weights["near"], weights["near_target"][:, by_near], weights["num_near"][by_near], embedded
            )
        return self._split(found)

    def _split(self, found: FloatArray) -> Scores:
        """Gains, of which the first response group has none, and costs, of what was predicted."""
        size = len(self.groups)
        gain = np.hstack([np.zeros((len(found), 1)), np.clip(found[:, : size - 1], *self.arrays["range"])])
        return Scores(gain, np.maximum(self.arrays["floor"], found[:, size - 1 :]))

    def _embedded(self, texts: Sequence[str]) -> FloatArray | None:
        if not self.embedding:
            return None
        if self.embed is None:
            raise IbpoError(
                f"this router was fitted on embeddings by {self.embedding.get('model')!r}; give the endpoint to "
                "load_router()"
            )
        known = len(COUNTED) * self.uses_text + len(self.number_names)
        wanted = (len(texts), len(self.arrays["centre"]) - len(self.arrays["bends"]) - known)
        if not texts:
            return np.zeros(wanted)
        found = np.asarray(self.embed(texts), float)
        if found.shape != wanted or not np.isfinite(found).all():
            raise IbpoError(
                f"embeddings of {len(texts)} prompts are {found.shape}, not {wanted} finite numbers: this router was "
                f"fitted on those by {self.embedding.get('model')!r}; give that model, or fit it again"
            )
        return found

    def to_json(self) -> str:
        """One JSON object, numbers to the last bit, with a SHA-256 over everything in it."""
        row = {
            "kind": _KIND,
            "version": _VERSION,
            "groups": list(self.groups),
            "cost_name": self.cost_name,
            "number_names": list(self.number_names),
            "uses_text": self.uses_text,
            "embedding": dict(self.embedding),
            "first": dict(self.first),
            "source": dict(self.source),
            "report": dict(self.report),
            "arrays": {name: _encode(self.arrays[name], "<f4" if name == "near" else "<f8") for name in ARRAYS},
        }
        return json.dumps({**row, "sha256": _digest(row)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "router") -> Router:
        """The inverse of `to_json`.

        Args:
            text: The JSON.
            where: Names it in errors.

        Raises:
            IbpoError: Something else, of another version, damaged or changed by hand.
        """
        row = read_document(text, where, _KIND, _VERSION, "ibpo route fit")
        if row.pop("sha256", None) != _digest(row):
            raise IbpoError(f"{where}: has been changed since it was written (SHA-256); fit it again")
        try:
            _check_kinds(row)
            router = cls(
                groups=tuple(row["groups"]),
                cost_name=row["cost_name"],
                number_names=tuple(row["number_names"]),
                uses_text=row["uses_text"],
                embedding=row["embedding"],
                first=row["first"],
                source=row["source"],
                report=row["report"],
                arrays={name: _decode(row["arrays"][name]) for name in ARRAYS},
            )
            router._check()
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise IbpoError(f"{where}: damaged: {error!r}; fit it again") from None
        return router

    def _check(self) -> None:
        """Shapes that belong together, and finite numbers.

        Raises:
            ValueError: Says which array.
        """
        arrays, targets = self.arrays, 2 * len(self.groups) - 1
        if self.first and not (self.first["answers"] in (1, 2) and set(self.first["shown"]) <= set(self.number_names)):
            raise ValueError(f"decides after {self.first!r}")
        num_bent = len(arrays["centre"])
        num_raw = num_bent - len(arrays["bends"])
        wanted = {
            "bends": arrays["bend_of"].shape,
            "scale": (num_bent,),
            "dense": (num_bent, targets),
            "text": (len(arrays["text"]) and NUM_HASHES, targets),
            "intercept": (targets,),
            "range": (2, len(self.groups) - 1),
            "floor": (len(self.groups),),
            "near": (len(arrays["near_target"]), *arrays["near"].shape[1:]),
            "near_target": (len(arrays["near"]), targets),
            "num_near": (targets,),
        }
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(f"array {name} is {arrays[name].shape}, not {shape}")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"array {name} holds a number that is not finite")
        place = arrays["bend_of"]
        if not self.embedding and num_raw != len(COUNTED) * self.uses_text + len(self.number_names):
            raise ValueError(f"{num_raw} features, not those of this version")
        if ((place != np.floor(place)) | (place < 0) | (place >= num_raw)).any() or (arrays["scale"] <= 0).any():
            raise ValueError("array bend_of or scale is out of range")
        if arrays["near"].ndim != 2 or (arrays["num_near"] < 0).any() or not (len(arrays["near"]) or self._is_ridge()):
            raise ValueError("array near or num_near is out of range")

    def _is_ridge(self) -> bool:
        return not self.arrays["num_near"].any()


def raw_features(
    texts: Sequence[str],
    number_names: Sequence[str],
    numbers: Mapping[str, Sequence[float]] | None,
    uses_text: bool,
    embedded: FloatArray | None,
) -> FloatArray:
    """`[N, F]`: what is counted, then the columns of numbers, then the embedding.

    Raises:
        IbpoError: A column of numbers that is missing, too short, not finite or too large.
    """
    size = len(texts)
    blocks = [counts(texts)] if uses_text else []
    for name in number_names:
        if numbers is None or name not in numbers:
            raise IbpoError(f"this router needs the number {name!r} of every prompt; give numbers={{{name!r}: [...]}}")
        try:
            column = np.asarray([read_number(value) for value in numbers[name]], float)
        except (TypeError, ValueError, OverflowError):
            column = np.full(size, np.nan)
        if column.shape != (size,) or not (np.abs(column) <= MOST_NUMBER).all():
            raise IbpoError(
                f"number {name!r}: needs one finite number for each of {size} prompts, {MOST_NUMBER:g} at most in size"
            )
        blocks.append(column[:, None])
    if embedded is not None:
        blocks.append(embedded)
    return np.hstack(blocks) if blocks else np.zeros((size, 0))


def bend(raw: FloatArray, bends: FloatArray, bend_of: FloatArray) -> FloatArray:
    """`[N, F + B]`: the features `[N, F]`, and how far each is above each of its bends."""
    return np.hstack([raw, np.maximum(0.0, raw[:, bend_of.astype(int)] - bends)])


def save_router(router: Router, path: str | Path) -> None:
    """Write a router; the file is whole or absent.

    Raises:
        IbpoError: The file cannot be written.
    """
    write_text_atomic(Path(path), router.to_json())


def load_router(path: str | Path, embed: Embed | None = None) -> Router:
    """Read a router. Nothing in the file is run: it holds JSON and numbers.

    Args:
        path: As `save_router` or `ibpo route fit` wrote it.
        embed: For a router that was fitted on embeddings: e.g. `ibpo.routing.fit.embedder(endpoint)`.

    Raises:
        IbpoError: No such file, or no router.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise IbpoError(f"{path}: cannot be read: {error}; make it with ibpo route fit") from None
    router = Router.from_json(text, str(path))
    return router if embed is None else replace(router, embed=embed)


_KINDS = {
    "groups": list,
    "cost_name": str,
    "number_names": list,
    "uses_text": bool,
    "embedding": dict,
    "first": dict,
    "source": dict,
    "report": dict,
    "arrays": dict,
}
"""What each part of a file is."""


def _check_kinds(row: Mapping[str, Any]) -> None:
    """Raises `TypeError` for a part of another kind."""
    names = row["groups"], row["number_names"]
    for part, kind in _KINDS.items():
        if not isinstance(row[part], kind):
            raise TypeError(f"{part} is {row[part]!r:.80}")
    for texts in (*names, row["embedding"].values()):
        if not all(isinstance(x, str) for x in texts):
            raise TypeError(f"{texts!r:.80} are not texts")
    if len(set(row["groups"])) < max(2, len(row["groups"])):
        raise ValueError(f"groups are {row['groups']!r:.80}")


_TYPES = {"<f8": "float64", "<f4": "float32"}


def _encode(array: FloatArray, kind: str) -> dict[str, Any]:
    """Shape, and little-endian numbers in base64."""
    data = np.ascontiguousarray(array, kind).tobytes()
    return {"shape": list(array.shape), _TYPES[kind]: base64.b64encode(data).decode()}


def _decode(row: Mapping[str, Any]) -> FloatArray:
    kind = "<f4" if "float32" in row else "<f8"
    data = base64.b64decode(row[_TYPES[kind]], validate=True)
    return np.frombuffer(data, kind).reshape(row["shape"]).astype(np.float64)


def _digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
