"""Conversations for supervised fine-tuning: chat-format files or hub sets, and a set made here.

A conversation is a list of messages {"role", "content"}, as `{"messages": […]}` in a line of a
`.jsonl`. The set made here asks what a function of the standard library does, and its docstring
answers.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lesa.errors import UserError
from lesa.files import key_of
from lesa.params import AtLeastTwo, Count, HubRows, LocalFiles, Positive, Rate, Strict
from lesa.text.documents import local_file
from lesa.text.python_source import standard_library
from lesa.text.rows import READERS, hub_rows, rows

ROLES = ("system", "user", "assistant")
Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """id: unique. group: what is split as a whole; of a file or hub set, the conversation alone."""

    id: str
    group: str
    messages: list[Message]


class Docstrings(Strict):
    """Functions, methods and classes of the running interpreter's standard library."""

    source: Literal["docstrings"]
    min_characters: Positive  # of a docstring
    max_characters: Positive  # longer ones are left out
    license: str

    @property
    def described(self) -> str:
        return f"docstrings of Python {sysconfig.get_python_version()}'s standard library"


class Chats(Strict):
    conversations: Annotated[Docstrings | LocalFiles | HubRows, Field(discriminator="source")]
    heldout_share: Rate  # of the groups
    max_conversations: Positive | None  # of those trained on; None: all
    heldout_conversations: Positive  # of the held-out groups, those that are scored
    block_size: AtLeastTwo  # tokens; a longer conversation is left out
    seed: Count  # of the split and the order


def conversations(source: Docstrings | LocalFiles | HubRows, key: str) -> Iterator[Conversation]:
    """The conversations of the source, none twice, in its own order; `key` names the parameters in
    errors."""
    if isinstance(source, Docstrings):
        yield from docstrings(source)
    elif isinstance(source, HubRows):
        chats = enumerate(hub_rows(source, key))
        yield from distinct(conversation(row, where, str(i)) for i, (where, row) in chats)
    else:
        yield from distinct(of_files(source, key))


def of_files(source: LocalFiles, key: str) -> Iterator[Conversation]:
    """Every conversation of the files. Of files of one name the later ones get a number."""
    names: Counter[str] = Counter()
    for path in (local_file(name, f"{key}.paths", list(READERS)) for name in source.paths):
        names[path.name] += 1
        file = path.name if names[path.name] == 1 else f"{path.name} ({names[path.name]})"
        for number, (where, row) in enumerate(rows(path, ("messages",))):
            yield conversation(row, where, f"{file}:{number}")


def distinct(found: Iterable[Conversation]) -> Iterator[Conversation]:
    """Each the first time: a copy could be held out of what is trained on."""
    seen: set[str] = set()  # digests, not texts
    for entry in found:
        if (digest := key_of(entry.messages)) not in seen:
            seen.add(digest)
            yield entry


def conversation(row: Any, where: str, name: str) -> Conversation:
    """A row in chat format. Raises UserError, one line with its place, for what is not."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{where}: no chat; expected {{"messages": [{{"role", "content"}}, …]}}')
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES or not isinstance(message.get("content"), str):
            raise UserError(
                f"{where}: message {number} must have a role ({', '.join(ROLES)}) and a text, "
                "`content`"
            )
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise UserError(f"{where}: no message of the assistant after another; nothing to learn")
    kept = [{"role": message["role"], "content": message["content"]} for message in messages]
    return Conversation(name, name, kept)


def docstrings(source: Docstrings) -> Iterator[Conversation]:
    """A question about each public function, method and class with a docstring of fitting length.

    The source is parsed and not run, so a module has the name of its file: `posixpath.join`, which
    a user knows as `os.path.join`. Groups are top-level modules and packages. Of equal docstrings,
    such as those of `ntpath` and `posixpath`, the first alone is asked for.
    """
    seen: set[str] = set()
    for file in standard_library():
        path = Path(file["id"]).with_suffix("")
        parts = [part for part in path.parts[1:] if part != "__init__"]
        if any(part.startswith("_") or not part.isidentifier() for part in parts) or not parts:
            continue
        try:
            tree = ast.parse(file["text"])
        except SyntaxError:  # a file that shows one, as of lib2to3
            continue
        for name, text in documented(tree, ".".join(parts)):
            if source.min_characters <= len(text) <= source.max_characters and text not in seen:
                seen.add(text)
                question = {"role": "user", "content": f"What does `{name}` do?"}
                answer = {"role": "assistant", "content": text}
                yield Conversation(name, parts[0], [question, answer])


def documented(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted names and docstrings of a module's or class's public definitions, once a name."""
    seen: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_") or node.name in seen:
            continue
        seen.add(node.name)
        name = f"{prefix}.{node.name}"
        if text := ast.get_docstring(node, clean=False):
            yield name, cleandoc(text)
        if isinstance(node, ast.ClassDef):
            yield from documented(node, name)


def split(found: list[Conversation], chats: Chats, key: str) -> dict[str, list[Conversation]]:
    """Shuffle, and hold out whole groups: "train" and "heldout" share none.

    Raises UserError if either would be empty; `key` names the parameters.
    """
    generator = random.Random(chats.seed)
    groups = sorted({entry.group for entry in found})
    generator.shuffle(groups)
    held = set(groups[: round(len(groups) * chats.heldout_share)])
    shuffled = generator.sample(found, len(found))
    train = [entry for entry in shuffled if entry.group not in held]
    heldout = [entry for entry in shuffled if entry.group in held]
    if not train or not heldout:
        raise UserError(
            f"{key}.heldout_share: {chats.heldout_share} of {len(groups)} groups leaves "
            f"{len(train)} conversations to train on and {len(heldout)} to hold out"
        )
    return {"train": train[: chats.max_conversations], "heldout": heldout}
