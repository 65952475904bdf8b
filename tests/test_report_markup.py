"""One sentence in every format, and tables as LaTeX that reads back as the table."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import typst
from matplotlib.figure import Figure
from pylatexenc.latex2text import LatexNodes2Text

from reports import hover, latex, markup
from reports.paired import Interval
from reports.tables import Measured, Table

SAID = "a < b & `c_d`  **e** *f* [g](#table-main) [h](https://example.org) <b>"


def test_a_sentence_in_html() -> None:
    assert markup.html(SAID) == (
        "a &lt; b &amp; <code>c_d</code> <strong>e</strong> <em>f</em> "
        '<a href="#table-main">g</a> [h](https://example.org) &lt;b&gt;'
    )


def test_a_sentence_in_latex_and_plain() -> None:
    assert markup.plain(SAID) == "a < b & c_d e f g [h](https://example.org) <b>"
    text = LatexNodes2Text().latex_to_text(markup.latex(SAID).replace("\\texttt", ""))
    assert text == "a < b & c_d e f g [h](https://example.org) <b>"
    assert "\\textbf{e} \\emph{f}" in markup.latex(SAID)
    assert "\\texttt{c\\_d}" in markup.latex(SAID)


@pytest.mark.parametrize(
    "text", [SAID, '"#panic()"', "\\", "= $x$ #eval(1) @y ~ // z", "[low, high]"]
)
def test_nothing_in_a_sentence_is_typst(text: str) -> None:
    source = "#let within(name, body) = body\n" + markup.typst(text)
    page = typst.compile(source.encode(), format="html", ignore_system_fonts=True).decode()
    shown = re.sub(r"<[^>]*>", "", re.search(r"<body>(.*)</body>", page, re.S)[1])  # type: ignore[index]
    for escaped, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(escaped, letter)
    assert " ".join(shown.split()) == markup.plain(text)


@pytest.mark.parametrize("form", [markup.plain, markup.typst, markup.latex])
def test_stars_of_files_set_nothing_in_italics(form: markup.Format) -> None:
    """A cell names files as a source does, and means its own emphasis elsewhere."""
    said = form("*so* in metrics/budget/*.json, metrics/start/*.json, `a*b*c`")
    assert said.count("/*.json") == 2
    assert said.replace("a*b*c", "").count(form.em[0] or "emph") == bool(form.em[0])


def test_anchors_are_those_of_code_hosts() -> None:
    assert markup.slug("The paper's claims: `C1`–C11") == "the-papers-claims-c1c11"
    assert markup.slug("Published numbers (published, Llama-3-8B)") == (
        "published-numbers-published-llama-3-8b"
    )


def test_only_files_that_exist_become_links(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    for name in ("base", "lesa"):
        (tmp_path / "pretrain" / f"{name}.json").touch()

    def linked(text: str) -> str:
        return markup.linked(text, tmp_path)

    one = "metrics/pretrain/base.json"
    assert linked(f"from {one}.") == f"from [{one}](../{one})."
    assert linked("metrics/pretrain/{base,lesa}.json") == (
        "metrics/pretrain/{[base](../metrics/pretrain/base.json),"
        "[lesa](../metrics/pretrain/lesa.json)}.json"
    )
    assert linked("metrics/pretrain/*.json") == "[metrics/pretrain/*.json](../metrics/pretrain/)"
    assert linked("reports/published.yaml") == "[reports/published.yaml](published.yaml)"
    assert linked("params.yaml") == "[params.yaml](../params.yaml)"
    assert linked("pipelines/studies/code/params.yaml") == "pipelines/studies/code/params.yaml"
    for stays in (
        "metrics/pretrain/{base,solar}.json",
        "metrics/start/*.json",
        f"`{one}`",
        f"[{one}](../{one})",
    ):
        assert linked(stays) == stays


def test_a_table_reads_back_from_latex() -> None:
    table = Table(
        "name",
        "A caption with 100% of `code`",
        "",
        [
            {"method_name": "llama_pro", "σ₁²/‖W‖² & more of a long head": Measured(-0.5, 0.03)},
            {"method_name": "a & b # c $ d", "σ₁²/‖W‖² & more of a long head": None},
            {"method_name": "≥ 1", "σ₁²/‖W‖² & more of a long head": Interval(-1.0, -2.0, 3.0, 9)},
            {"method_name": "word " * 12, "σ₁²/‖W‖² & more of a long head": math.inf},
        ],
    )
    text = latex.table(table)
    rules = [text.index(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule")]
    assert rules == sorted(rules)
    assert "\\begin{tabular}{p{.3\\linewidth}r}" in text
    lines = text[rules[1] : rules[2]].splitlines()[1:]
    to_text = LatexNodes2Text().latex_to_text
    read = []
    for line in lines:
        assert line.endswith(" \\\\")
        cells = re.split(r"(?<!\\)&", line.removesuffix("\\\\"))
        read.append([to_text(re.sub(r"\$-\$", "-", cell)).strip() for cell in cells])
    assert read == [[cell.strip() for cell in row] for row in table.cells]
    assert "100\\% of \\texttt{code}" in text


def test_points_of_a_figure_say_what_was_drawn() -> None:
    figure = Figure(figsize=(4, 2), dpi=150)
    axes = figure.add_axes((0.25, 0.25, 0.5, 0.5))  # of 288 x 144 points: 72..216 and 36..108
    axes.plot([0, 5, 10, 20], [0.0, 0.5, 1.0, 2.0], "o-", label="one & only")
    axes.plot([0, 10], [1, 0], "o", label="_hidden")
    axes.plot([0, 10], [1, 0], "-", label="no points")
    axes.set(xlim=(0, 10), ylim=(0, 1), xlabel="tokens")
    found = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', hover.layer(figure))
    # By hand; y counts from the top, and (20, 2) lies out of the axes.
    assert found == [("72.0", "108.0"), ("144.0", "72.0"), ("216.0", "36.0")]
    said = re.findall(r"<tspan[^>]*>([^<]*)<", hover.layer(figure))
    assert said == [
        "one &amp; only",
        "tokens: 0",
        "one &amp; only",
        "tokens: 5",
        "one &amp; only",
        "tokens: 10",
    ]


def test_a_long_curve_keeps_its_ends_and_few_points() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot(np.arange(1000.0), np.arange(1000.0), "o", label="line")
    axes.set(xlabel="x", xlim=(0, 999), ylim=(0, 999))
    said = re.findall(r">x: ([\d.,]+)<", hover.layer(figure))
    assert (said[0], said[-1]) == ("0", "999")
    assert len(said) == hover.MOST
