"""Sentences of plain text in any script, found by sentencex, and where to cut a text short."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import reduce
from itertools import groupby

from sentencex import segment

WRAP = 100  # columns: longer lines are whole paragraphs, shorter ones may be wrapped by hand
SPACED = ".!?…؟۔"  # marks that end a sentence before a space, and within a number or name do not
UNSPACED = "。！？｡।॥։።။"  # marks that end a sentence wherever they are
CLOSING = "\"')]”’»」』）》"  # marks that still belong to the sentence before them
ENDS = re.compile(rf"[{SPACED}][{re.escape(CLOSING)}]*(?=\s)|[{UNSPACED}][{re.escape(CLOSING)}]*")


def sentences(text: str) -> list[list[str]]:
    """Runs of sentences, each sentence with the white space that follows it in its paragraph.

    What ends in no sentence mark (a heading, a line of code) is no sentence and ends a run, so
    that neighbours in a run are neighbours in the text: joined they are the text again.
    """
    code = language(text)
    runs = []
    for paragraph in paragraphs(text):
        pieces = groupby(segment(code, paragraph), key=is_sentence)
        runs += [list(run) for whole, run in pieces if whole]
    return runs


def is_sentence(piece: str) -> bool:
    """Does it hold a letter and end in a sentence mark?"""
    end = piece.rstrip().rstrip(CLOSING)[-1:]
    return end != "" and end in SPACED + UNSPACED and any(map(str.isalpha, piece))


def language(text: str) -> str:
    """The code by which sentencex finds the sentences of a text.

    Under English it knows the marks of all scripts, and the abbreviations of English; those of
    Russian it knows under Russian alone.
    """
    letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
    cyrillic = sum(name.startswith("CYRILLIC") for name in letters)
    return "ru" if 2 * cyrillic > len(letters) else "en"


def paragraphs(text: str) -> list[str]:
    """Paragraphs, each in one line.

    Where more than half of the text is in lines longer than WRAP columns, each line is a
    paragraph. Otherwise the lines are taken as wrapped: a paragraph ends at an empty line.
    """
    lines = [line.strip() for line in text.splitlines()]
    long = sum(width for width in map(columns, lines) if width > WRAP)
    if 2 * long > sum(map(columns, lines)):
        return [line for line in lines if line]
    return [reduce(unwrap, group) for filled, group in groupby(lines, key=bool) if filled]


def columns(line: str) -> int:
    """Width in a terminal, where Chinese and Japanese characters take two columns each."""
    return len(line) + sum(map(is_wide, line))


def is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def unwrap(before: str, after: str) -> str:
    """Two lines as one: a space between words, none between Chinese or Japanese characters."""
    wide = is_wide(before[-1]) and is_wide(after[0])
    hangul = unicodedata.name(after[0], "").startswith("HANGUL")
    return before + ("" if wide and not hangul else " ") + after


def truncate(text: str, limit: int) -> str:
    """`text` up to the last sentence end within `limit` characters.

    Where no sentence ends in the last three quarters of them (code, verse): up to the last line
    end, or else the last space, or else all of them.
    """
    text = text.strip()
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    for ends in (
        (match.end() for match in ENDS.finditer(head)),
        (match.start() for match in re.finditer(r"\s*\n", head)),
        (match.start() for match in re.finditer(r"\s+", head)),
    ):
        end = last(ends, limit)
        if end >= limit // 4:
            return text[:end]
    return text[:limit]


def last(ends: Iterable[int], limit: int) -> int:
    """The last of ascending places that is not beyond `limit`, or 0."""
    return max((end for end in ends if end <= limit), default=0)


def separates_words(texts: Iterable[str]) -> bool:
    """Are words set apart by white space, as in most scripts but Chinese, Japanese or Thai?

    Said of texts whose pieces between spaces have at most 20 characters in the mean.
    """
    lengths = [len(word) for text in texts for word in text.split()]
    return sum(lengths) <= 20 * len(lengths)
