"""One line of the report's Markdown as HTML, Typst, LaTeX or plain text.

Sentences, captions and cells are written once, in CommonMark's inline syntax (`code`, **strong**,
*emphasis*, [links](target)), and mean the same in every format. They carry names and values out of
metrics files, so HTML, images and links out of the repository are text like any other.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from pylatexenc.latexencode import UnicodeToLatexEncoder

MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable(["image", "autolink", "html_inline"])
# A scheme or a host would lead out of the repository.
MARKDOWN.validateLink = lambda url: not re.match(r"[\w.+-]*:|//", url)  # type: ignore[method-assign]
# Paths as `reports.measured.files` writes them, metrics/pretrain/{base,lesa}.json and
# metrics/start/*.json; the inputs beside them; and `code` and [links](target), which stay.
SOURCE = re.compile(
    r"`[^`]*`|\[[^\]]*\]\([^)]*\)"
    r"|\b(?P<folder>metrics(?:/[\w.-]+)*/)"
    r"(?:\{(?P<names>[\w.,-]+)\}|\*|(?P<one>[\w.-]+))\.json"
    r"|\breports/(?P<input>[\w-]+\.(?:yaml|csv|json))"
    r"|(?<![\w/])(?P<params>params\.yaml)"
)


def unwrapped(text: str) -> str:
    """The text without line breaks and without the template's indentation."""
    return " ".join(str(text).split())


@dataclass(frozen=True)
class Format:
    """How a format writes plain text, and what it puts before and after what is marked."""

    text: Callable[[str], str]
    code: Callable[[str], str]
    strong: tuple[str, str] = ("", "")
    em: tuple[str, str] = ("", "")
    anchor: tuple[str, str] = ("", "")  # of a link within the report; `{}` stands for its name

    def __call__(self, text: str) -> str:
        (tokens,) = MARKDOWN.parseInline(unwrapped(starred(text)))
        out: list[str] = []
        ends: list[str] = []  # what closes the links that are open
        for token in tokens.children or []:
            href = str(token.attrGet("href") or "")
            match token.type:
                case "code_inline":
                    out.append(self.code(token.content))
                case "strong_open" | "strong_close":
                    out.append(self.strong[token.type == "strong_close"])
                case "em_open" | "em_close":
                    out.append(self.em[token.type == "em_close"])
                case "link_open":
                    start, end = self.anchor if href.startswith("#") else ("", "")
                    out.append(start.replace("{}", href[1:]))
                    ends.append(end)
                case "link_close":
                    out.append(ends.pop())
                case _:
                    out.append(self.text(token.content))
        return "".join(out)


def quoted(text: str) -> str:
    """A string of Typst: nothing in it is markup."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_encode = UnicodeToLatexEncoder(unknown_char_policy="replace", unknown_char_warning=False)
_to_latex: Callable[[str], str] = _encode.unicode_to_latex

plain = Format(str, str)
typst = Format(
    lambda text: f"#{quoted(text)};",
    lambda text: f"#raw({quoted(text)});",
    strong=("#strong[", "];"),
    em=("#emph[", "];"),
    anchor=('#within("{}")[', "];"),
)
latex = Format(
    _to_latex,
    lambda text: f"\\texttt{{{_to_latex(text)}}}",
    strong=("\\textbf{", "}"),
    em=("\\emph{", "}"),
)


def html(text: str) -> str:
    """Inline HTML; whatever is not CommonMark's own markup is escaped."""
    return str(MARKDOWN.renderInline(unwrapped(text)))


def head_lines(name: str) -> list[str]:
    """A column's head in short lines, so that its numbers and not its name set its width."""
    return textwrap.wrap(name, 16) or [""]


def slug(text: str) -> str:
    """The anchor that code hosts give a heading: lower case, hyphens for spaces, no punctuation."""
    return re.sub(r"[^\w -]", "", plain(text).lower()).replace(" ", "-")


def target(source: str, metrics: Path) -> str:
    """Where a link to one file, or to `metrics/start/*.json`, leads, relative to reports/.

    Empty for any other text, and for what is not below `metrics`.
    """
    if (match := SOURCE.fullmatch(source)) is None or source[0] in "`[" or match["names"]:
        return ""
    if match["input"]:
        return match["input"]
    if match["params"]:
        return f"../{source}"
    below = metrics.joinpath(*match["folder"].split("/")[1:])
    if match["one"]:
        return f"../{source}" if (below / f"{match['one']}.json").is_file() else ""
    return f"../{match['folder']}" if below.is_dir() else ""


def literal(text: str) -> str:
    """Markdown in which stars are stars: two of them would set what is between them in italics."""
    return text.replace("*", r"\*")


def starred(text: str) -> str:
    """Markdown in which those of `metrics/start/*.json` are, wherever files are named."""
    return SOURCE.sub(lambda match: match[0] if match[0][0] in "`[" else literal(match[0]), text)


def linked(text: str, metrics: Path) -> str:
    """Make links of the metrics files that the text names and that are below `metrics`.

    Links are relative to reports/, where the report lies in the repository.
    """

    def link(match: re.Match[str]) -> str:
        if (found := match.groupdict(default=""))["names"]:
            folder = found["folder"]
            names = [name for name in found["names"].split(",") if name]
            targets = [target(f"{folder}{name}.json", metrics) for name in names]
            if not all(targets):
                return match[0]
            links = (f"[{name}]({where})" for name, where in zip(names, targets, strict=True))
            return f"{folder}{{{','.join(links)}}}.json"
        where = target(match[0], metrics)
        return f"[{match[0]}]({where})" if where else match[0]

    return SOURCE.sub(lambda match: match[0] if match[0][0] in "`[" else link(match), text)
