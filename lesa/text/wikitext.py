"""Wikipedia's XML dump to plain text."""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell
from mwparserfromhell.nodes import Heading, Node, Tag, Wikilink
from mwparserfromhell.wikicode import Wikicode
from tqdm import tqdm

from lesa.errors import UserError

Document = dict[str, str]  # id, title, text

# No prose: footnotes, tables, and what MediaWiki renders as something other than text.
NON_PROSE_TAGS = {"ref", "references", "table", "gallery", "math", "timeline", "score", "imagemap"}
# Pictures and categories, and links to the same article in other languages.
NON_PROSE_LINK = re.compile(
    r"\s*(:?(file|image|media|category)\s*:|[a-z-]{2,12}:[^|]*$)", re.IGNORECASE
)
APPARATUS = {  # sections that list sources and links
    "bibliography", "citations", "external links", "footnotes", "further reading", "notes",
    "notes and references", "references", "see also", "sources", "works cited",
}  # fmt: skip
LEFTOVERS = [  # of markup that authors did not close, then of templates: ( ; , ), lone spaces
    (re.compile(r"<ref\b[^\n]*?(</ref>|/>)"), ""),
    (re.compile(r"^(\{\||\|).*$", re.MULTILINE), ""),
    (re.compile(r"\(\s*([,;:]\s*)+"), "("),
    (re.compile(r"\(\s*\)"), ""),
    (re.compile(r"__[A-Z]+__"), ""),
    (re.compile(r"[ \t\xa0]+"), " "),
    (re.compile(r" ([.,;:)])"), r"\1"),
    (re.compile(r" *\n *"), "\n"),
    (re.compile(r"\n{3,}"), "\n\n"),
]


def articles(dump: Path) -> Iterator[Document]:
    """Articles of a `.xml.bz2` dump as plain text: namespace 0, in dump order.

    Redirects and disambiguation pages, which are lists and no prose, are left out.
    """
    size = dump.stat().st_size
    with (
        open(dump, "rb") as raw,
        bz2.open(raw) as xml,
        tqdm(total=size, desc="wikitext", unit="B", unit_scale=True) as bar,
    ):
        try:
            for _, element in ElementTree.iterparse(xml):
                if not element.tag.endswith("}page"):
                    continue
                space = element.tag[: -len("page")]
                title = element.findtext(f"{space}title", "")
                is_article = (
                    element.findtext(f"{space}ns") == "0"
                    and element.find(f"{space}redirect") is None
                    and not title.endswith("(disambiguation)")
                )
                if is_article:
                    yield {
                        "id": element.findtext(f"{space}id", ""),
                        "title": title,
                        "text": plain(element.findtext(f"{space}revision/{space}text", "")),
                    }
                element.clear()  # the tree would grow to the whole dump
                bar.update(raw.tell() - bar.n)
        except (ElementTree.ParseError, EOFError, OSError, ValueError) as error:
            raise UserError(f"{dump}: not a whole Wikipedia .xml.bz2 dump ({error})") from None


def plain(wikitext: str) -> str:
    """Prose of one article; headings stay as lines, everything that needs rendering goes."""
    code = mwparserfromhell.parse(wikitext, skip_style_tags=False)
    code.nodes = list(without_apparatus(code.nodes))
    drop_non_prose(code)
    text = str(code.strip_code())
    for pattern, replacement in LEFTOVERS:
        text = pattern.sub(replacement, text)
    return text.strip()


def without_apparatus(nodes: list[Node]) -> Iterator[Node]:
    """Nodes of an article less its sections of sources and links."""
    skipped_level = 7  # deeper than any heading: nothing is skipped
    for node in nodes:
        if isinstance(node, Heading) and node.level <= skipped_level:
            listed = node.title.strip_code().strip().lower() in APPARATUS
            skipped_level = node.level if listed else 7
        if skipped_level == 7:
            yield node


def drop_non_prose(code: Wikicode | None) -> None:
    """Drop tags and links that are no prose, in place and at every depth.

    Rebuilds each list of nodes once: `Wikicode.remove` searches the whole article every time.
    """
    if code is None:
        return
    code.nodes = [node for node in code.nodes if not is_non_prose(node)]
    for node in code.nodes:
        if isinstance(node, Tag):
            drop_non_prose(node.contents)
        elif isinstance(node, Wikilink):
            drop_non_prose(node.text)


def is_non_prose(node: Node) -> bool:
    if isinstance(node, Tag):
        return str(node.tag).strip().lower() in NON_PROSE_TAGS
    if isinstance(node, Wikilink):
        target = str(node.title) if node.text is None else f"{node.title}|"
        return bool(NON_PROSE_LINK.match(target))
    return False
