"""Metrics measured again beside the recorded ones: how far a number may lie apart, and why."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "(nothing)"
TIMINGS = frozenset({"seconds", "prefix_seconds", "tokens_per_second"})  # what a clock measured


@dataclass(frozen=True)
class Kind:
    """Two numbers of this kind agree if they differ by at most `relative` times the recorded one,
    or by `absolute`. `reason`: what makes them differ at all."""

    name: str
    relative: float
    absolute: float
    reason: str


TIMED = Kind("timed", math.inf, math.inf, "a clock's reading: not compared")
EXACT = Kind("exact", 0, 0, "counts, names, settings and digests do not depend on the machine")
ROUNDING = Kind(
    "rounding", 2e-3, 0, "another processor, number of cores or precision adds in another order"
)
SHARE = Kind("share", 0, 2e-3, "as rounding, of cosines and shares, which may be near zero")
TRAINED = Kind("trained", 5e-3, 0, "AdamW's steps amplify rounding")
CHAOTIC = Kind(
    "chaotic", 8e-2, 0, "the predictors' training from one seed amplifies rounding: on one text "
    "five records of LESA's first perplexity, preset `paper`, lie from 28.0 to 28.8 with seed 0 "
    "and from 28.9 to 30.9 with seed 1"
)  # fmt: skip
CHAOTIC_SHARE = Kind("chaotic share", 0, 0.1, "as chaotic, of cosines and shares")
CHAOTIC_EXAMPLE = Kind("chaotic example", 0, 0.5, "as chaotic, of one example's nats")
WILD = Kind(
    "wild", 3, 0, "as chaotic, of a start with preset `official_code`: of 11 draws made again "
    "where the SVD has other last digits (study `start`) the perplexity moves by up to a factor of "
    "4"
)  # fmt: skip
EXAMPLE = Kind("example", 0, 1, "an example whose answers are almost tied falls to the other side")
SCORE = Kind("score", 0, 0.07, "as its examples: of 32 two may fall to the other side")

SHARES = r"\.(mean_cosine|cosine|rank_one_share|explained_variance|norm_ratio)$|\.top_rows\."
SETTINGS = r"[.:](learning_rate|best|max_steps)$"
NATS = r"\.metrics\.perplexity\.examples\."
ACCURACY = r"\.metrics\.(acc\w*|exact_match|pass@\w+)\."
# Of a number that is not timed or a setting, the first kind whose pattern is in its place.
KINDS = (
    (ACCURACY + r"examples\.", EXAMPLE),
    (ACCURACY, SCORE),
    (SHARES, SHARE),
    (r"^(pretrain|budget)/.*:steps\.0\.", ROUNDING),
    (r"^(pretrain|budget|evaluate/trained)/.*", TRAINED),
)


@dataclass(frozen=True)
class Difference:
    """A place, `pretrain/lesa.json:steps.0.heldout_loss`, at which two metrics trees differ.

    `recorded` and `again`: the values, ABSENT where one tree has nothing there. `within`: do they
    agree as far as numbers of this kind can?
    """

    place: str
    kind: Kind
    recorded: Any
    again: Any

    @property
    def within(self) -> bool:
        if ABSENT in (self.recorded, self.again):
            return False
        if self.kind is TIMED:
            return True
        if not (is_number(self.recorded) and is_number(self.again)):
            return bool(self.recorded == self.again)
        allowed = max(self.kind.absolute, self.kind.relative * abs(self.recorded))
        return bool(abs(self.again - self.recorded) <= allowed)

    @property
    def apart(self) -> float:
        """Absolute difference where the kind's tolerance is absolute, else relative to the
        recorded number; infinite between things that are no numbers and not equal."""
        if self.recorded == self.again:
            return 0.0
        if not (is_number(self.recorded) and is_number(self.again)):
            return math.inf
        size = 1 if self.kind.absolute else abs(self.recorded)
        return abs(self.again - self.recorded) / size if size else math.inf


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def untimed(value: Any) -> Any:
    """A metrics tree without what a clock measured."""
    if isinstance(value, Mapping):
        return {key: untimed(inner) for key, inner in value.items() if key not in TIMINGS}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every number, word or empty part of a metrics tree by its place, keys joined by dots."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, child in inner:
        name = f"{place}{'' if place.endswith(':') else '.'}{key}"
        if isinstance(child, Mapping | list) and child:
            yield from leaves(child, name)
        else:
            yield name, child


def kind_of(place: str, value: Any, preset: str | None) -> Kind:
    """What the number at `place` is compared as; `preset`: of the predictors that it comes from."""
    if re.split(r"[.:]", place)[-1] in TIMINGS:
        return TIMED
    if re.search(ACCURACY, place) is None and not isinstance(value, float):
        return EXACT
    if re.search(SETTINGS, place):
        return EXACT
    found = next((kind for pattern, kind in KINDS if re.search(pattern, place)), ROUNDING)
    if preset is None:
        return found
    start = WILD if preset == "official_code" else CHAOTIC
    if found is ROUNDING and re.search(NATS, place):
        return CHAOTIC_EXAMPLE
    return {SHARE: CHAOTIC_SHARE, TRAINED: CHAOTIC, ROUNDING: start}.get(found, found)


def compare(
    name: str, recorded: Mapping[str, Any], again: Mapping[str, Any], presets: Mapping[str, str]
) -> list[Difference]:
    """Every place of the metrics file `name`, such as `pretrain/lesa.json`, in two runs.

    `presets`: of each model that predictors made, whose numbers are chaotic, the preset.
    """
    preset = recorded.get("preset") or presets.get(str(recorded.get("model")))
    before, after = (dict(leaves(tree, f"{name}:")) for tree in (recorded, again))
    return [
        Difference(
            place,
            kind_of(place, before.get(place, after.get(place)), preset),
            before.get(place, ABSENT),
            after.get(place, ABSENT),
        )
        for place in before | after
    ]
