"""Sentences, paragraphs and cuts of texts in several scripts and layouts."""

from __future__ import annotations

import textwrap

import pytest

from eval.sentences import paragraphs, sentences, separates_words, truncate

LONG = (
    "History\nDr. A. Smith met Mr. Jones (c. 1900) on the road from the harbour to the castle of "
    'the old town. They said "No." Then e.g. Rome fell.\nA list'
)


def stripped(text: str) -> list[list[str]]:
    return [[sentence.strip() for sentence in run] for run in sentences(text)]


def test_abbreviations_and_headings() -> None:
    first = "Dr. A. Smith met Mr. Jones (c. 1900) on the road from the harbour to the castle of"
    run = [f"{first} the old town.", 'They said "No."', "Then e.g. Rome fell."]
    assert stripped(LONG) == [run]
    with_blank_lines = LONG.replace("\n", "\n\n")
    wrapped = "\n".join(textwrap.fill(line, 40) for line in with_blank_lines.split("\n"))
    assert max(map(len, wrapped.splitlines())) <= 40
    assert stripped(wrapped) == [run]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the town grew. it fell again.", ["the town grew.", "it fell again."]),
        ("他是谁？他来自北京。天气很好！", ["他是谁？", "他来自北京。", "天气很好！"]),
        ("今日は晴れです。明日は雨でしょう！", ["今日は晴れです。", "明日は雨でしょう！"]),
        (
            "В 1990 г. он уехал. А. С. Пушкин жил здесь. «Нет», — сказал он.",
            ["В 1990 г. он уехал.", "А. С. Пушкин жил здесь.", "«Нет», — сказал он."],
        ),
        ("Πού πάει; Δεν ξέρω. Ίσως αύριο!", ["Πού πάει; Δεν ξέρω.", "Ίσως αύριο!"]),
        ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("هل أنت بخير؟ أنا بخير.", ["هل أنت بخير؟", "أنا بخير."]),
        ("오늘은 맑다. 내일은 비가 온다.", ["오늘은 맑다.", "내일은 비가 온다."]),
    ],
)
def test_sentences_end_as_their_script_ends_them(text: str, expected: list[str]) -> None:
    assert stripped(text) == [expected]
    assert "".join(sentences(text)[0]) == text


def test_paragraphs() -> None:
    long = "word " * 30
    assert paragraphs(f"A heading\n{long}\n{long}") == ["A heading", long.strip(), long.strip()]
    assert paragraphs("one\ntwo\n\n\n  three\nfour ") == ["one two", "three four"]
    assert paragraphs("今天天气\n很好。") == ["今天天气很好。"]
    assert paragraphs("오늘은\n맑다.") == ["오늘은 맑다."]
    assert paragraphs("") == []


@pytest.mark.parametrize(
    ("text", "limit", "cut"),
    [
        ("One two. Three four. Five.", 20, "One two. Three four."),
        ("One two. Three four. Five.", 19, "One two."),
        ("one two three", 9, "one two"),
        ("short", 9, "short"),
        ("unbreakable", 9, "unbreakab"),
        ("他来了。他走了。他又来了。", 9, "他来了。他走了。"),
        ("他说：「好。」然后走了很远的路", 9, "他说：「好。」"),
        ("x = 1.5\ny = 2.5\nz = 3.5", 19, "x = 1.5\ny = 2.5"),
        ("A. " + "x = 1\n" * 10, 40, ("A. " + "x = 1\n" * 10)[:38]),
    ],
)
def test_a_text_is_cut_at_the_last_sentence_line_or_word_that_fits(
    text: str, limit: int, cut: str
) -> None:
    assert truncate(text, limit) == cut


def test_separates_words() -> None:
    assert separates_words(["The council of the town paid for it.", "它"])
    assert separates_words(["Совет города заплатил за всё."])
    assert not separates_words(
        ["这座城市从那时起就以它的古老城堡和美丽的花园闻名于世，许多人喜欢。"]
    )
