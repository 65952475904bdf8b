"""Inputs that went wrong somewhere: strategies of hypothesis, and what an answer to one must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lesa.errors import UserError

T = TypeVar("T")
ODD_NAMES = (
    "", ".", "..", "../../etc/passwd", "/etc/passwd", "a/../../b.safetensors", "~nobody/x", "a\0b",
    "a\nb", "\x1b[2J", "*", "$HOME", "x" * 300, "é" * 200, "CON", "\ud800", "model.safetensors",
)  # fmt: skip
NUMBERS = (
    -1, 0, 1, 3, 2**31, 2**63, 10**30, -(10**30), 1e308, float("inf"), float("nan"), 0.5, True,
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(ODD_NAMES),
    st.text(max_size=12), st.integers(), st.floats(),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many inputs, the same ones in every run."""
    return settings(
        max_examples=number,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def answered(call: Callable[[], T]) -> T | None:
    """What `call` returns, or None where it answers bad input as it should: with one line."""
    try:
        return call()
    except UserError as error:
        said = str(error)
    assert said.strip()
    assert said.splitlines() == [said]
    return None


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file's content cut short, with bytes changed, put in or taken out, or a part twice."""
    size = len(whole)
    start = draw(st.integers(0, size))
    stop = draw(st.integers(start, min(size, start + 40)))
    change = draw(st.sampled_from(["cut", "change", "insert", "remove", "repeat", "flip"]))
    if change == "cut":
        return whole[:start]
    if change == "change":
        return whole[:start] + draw(st.binary(max_size=40)) + whole[stop:]
    if change == "insert":
        return whole[:start] + draw(st.binary(min_size=1, max_size=12)) + whole[start:]
    if change == "remove":
        return whole[:start] + whole[stop:]
    if change == "repeat":
        return whole[:stop] + whole[start:]
    flipped = bytearray(whole)
    for place in draw(st.lists(st.integers(0, size - 1), max_size=4)):
        flipped[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


def as_json(value: Any) -> str:
    """JSON as Python writes it: NaN and infinities too."""
    return json.dumps(value, ensure_ascii=True)
