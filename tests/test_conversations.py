"""Conversations: read from files, made of docstrings, tokenised with the prompts masked."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lesa.checkpoints.base import byte_tokenizer
from lesa.errors import UserError
from lesa.params import LocalFiles
from lesa.text.completions import IGNORED, completion_bytes, pack, tokens
from lesa.text.conversations import (
    Chats,
    Conversation,
    Docstrings,
    conversations,
    docstrings,
    split,
)
from lesa.training.blocks import collate

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = {"role": "user", "content": "Wie?"}
SAID = {"role": "assistant", "content": "Sö."}


def chat(*messages: dict[str, str]) -> Conversation:
    return Conversation("x", "x", list(messages))


@pytest.mark.parametrize(
    ("template", "whole", "predicted"),
    [
        (CHATML, "<user>Wie?</><assistant>Sö.</>" * 2, "Sö.</>" * 2),
        (None, "user: Wie?{eos}\nassistant: Sö.{eos}\n" * 2, "Sö.{eos}\n" * 2),
    ],
)
def test_only_the_assistants_turns_are_targets(
    template: str | None, whole: str, predicted: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    ids, labels = tokens(tokenizer, chat(ASKED, SAID, ASKED, SAID))
    eos = tokenizer.eos_token
    assert tokenizer.decode(ids) == whole.replace("{eos}", eos)
    kept = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(kept) == predicted.replace("{eos}", eos)
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
    size = len(predicted.replace("{eos}", eos).encode())
    assert completion_bytes(tokenizer, chat(ASKED, SAID, ASKED, SAID)) == size


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(UserError, match=r"^x: the tokenizer's chat template changes what came"):
        tokens(tokenizer, chat(ASKED, SAID, ASKED, SAID))


ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (ALTERNATE, "roles must alternate"),
        ("{% for %}", "Expected an expression"),
        ("{{ messages[0].name.first }}", "has no attribute 'name'"),
        ({"tool_use": "x"}, "multiple chat templates with no default"),
    ],
)
def test_a_template_that_takes_no_such_conversation_is_one_line(template: Any, said: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    roles = ("system", "user", "assistant")
    entry = Conversation("a.jsonl:3", "x", [{"role": r, "content": "hi"} for r in roles])
    expected = rf"^a\.jsonl:3: the tokenizer's chat template does not take .*{said}"
    with pytest.raises(UserError, match=expected):
        tokens(tokenizer, entry)


def test_a_text_of_the_assistant_before_all_others_is_no_target() -> None:
    """It is taken as a chat, for what follows: `conversation` looks behind it for a target."""
    roles = ("assistant", "user", "assistant")
    entry = Conversation("x", "x", [{"role": r, "content": r} for r in roles])
    tokenizer = byte_tokenizer()
    ids, labels = tokens(tokenizer, entry)
    assert tokenizer.decode(ids).startswith("assistant: assistant")
    wanted = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(wanted) == "assistant<|endoftext|>\n"
    assert completion_bytes(tokenizer, entry) == len("assistant<|endoftext|>\n")


lengths = st.lists(st.integers(1, 8), min_size=1, max_size=12)


@given(lengths)
def test_packing_keeps_every_conversation_whole_and_in_order(sizes: list[int]) -> None:
    made = [([number] * size, [number] * size) for number, size in enumerate(sizes, start=1)]
    blocks = pack(made, 8, padding=0)
    assert all(len(ids) == len(labels) == 8 for ids, labels in blocks)
    flat = [token for ids, _ in blocks for token in ids if token]
    assert flat == [token for ids, _ in made for token in ids]
    for number, size in enumerate(sizes, start=1):
        assert sum(ids.count(number) == size for ids, _ in blocks) == 1
    for ids, labels in blocks:
        assert all(
            (label == IGNORED) == (token == 0) for token, label in zip(ids, labels, strict=True)
        )


def test_a_batch_has_the_rows_own_labels() -> None:
    ids, labels = torch.arange(4), torch.tensor([IGNORED, 1, IGNORED, 3])
    batch = collate([{"input_ids": ids, "labels": labels}] * 2, None)
    assert torch.equal(batch["labels"], torch.stack([labels] * 2))
    assert torch.equal(batch["input_ids"], torch.stack([ids] * 2))
    states = collate([{"input_ids": ids, "labels": labels}], lambda block: block[:, None].float())
    assert torch.equal(states["labels"], labels[None])
    assert torch.equal(collate([{"input_ids": ids}], None)["labels"], ids[None])


def files(tmp_path: Path, *rows: Any) -> LocalFiles:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LocalFiles(source="files", paths=[str(path)], license="none")


def test_chats_are_read_from_files(tmp_path: Path) -> None:
    chats = [[ASKED, SAID], [ASKED, SAID | {"content": "So."}]]
    source = files(tmp_path, {"messages": chats[0], "more": 1}, {"messages": chats[1]})
    found = list(conversations(source, "key"))
    assert [entry.messages for entry in found] == chats
    assert [entry.id for entry in found] == ["chats.jsonl:0", "chats.jsonl:1"]


def test_no_chat_is_there_twice_and_no_name(tmp_path: Path) -> None:
    """A copy could be held out of what is trained on; losses are kept by a chat's name."""
    sources = []
    for name, answers in (("a", "1213"), ("b", "3454")):
        (tmp_path / name).mkdir()
        chats = [{"messages": [ASKED, SAID | {"content": answer}]} for answer in answers]
        sources += files(tmp_path / name, *chats).paths
    found = list(conversations(LocalFiles(source="files", paths=sources, license="none"), "key"))
    assert [entry.messages[1]["content"] for entry in found] == ["1", "2", "3", "4", "5"]
    names = ["chats.jsonl:0", "chats.jsonl:1", "chats.jsonl:3"]
    names += ["chats.jsonl (2):1", "chats.jsonl (2):2"]
    assert [entry.id for entry in found] == [entry.group for entry in found] == names


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "no chat; expected"),
        ({"messages": []}, "no chat; expected"),
        (["x"], "no chat; expected"),
        ({"messages": [{"role": "bot", "content": "x"}, SAID]}, "message 1 must have a role"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "message 2 must have"),
        ({"messages": [ASKED]}, "no message of the assistant after another"),
        ({"messages": [SAID]}, "no message of the assistant after another"),
    ],
)
def test_what_is_no_chat_is_told_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    source = files(tmp_path, {"messages": [ASKED, SAID]}, row)
    with pytest.raises(UserError, match=rf"chats\.jsonl, line 2: {said}") as error:
        list(conversations(source, "key"))
    assert "\n" not in str(error.value)


def test_docstrings_are_those_that_python_gives() -> None:
    source = Docstrings(source="docstrings", min_characters=80, max_characters=1200, license="x")
    found = {entry.id: entry for entry in docstrings(source)}
    for name in ("json.decoder.JSONDecoder.decode", "textwrap.fill", "posixpath.realpath"):
        module, _, rest = name.rpartition(".")
        while True:
            try:
                thing: Any = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, _, middle = module.rpartition(".")
                rest = f"{middle}.{rest}"
        for part in rest.split("."):
            thing = getattr(thing, part)
        wanted = inspect.getdoc(thing) or ""
        if 80 <= len(wanted) <= 1200:
            question, answer = found[name].messages
            assert question["content"] == f"What does `{name}` do?"
            assert answer["content"] == wanted
    answers = [entry.messages[1]["content"] for entry in found.values()]
    assert len(set(answers)) == len(answers) > 1000
    assert "textwrap.fill" in found
    assert not [name for name in found if any(part.startswith("_") for part in name.split("."))]


def chats(**changes: Any) -> Chats:
    settings: dict[str, Any] = {
        "conversations": {"source": "files", "paths": ["x"], "license": "none"},
        "heldout_share": 0.25,
        "max_conversations": None,
        "heldout_conversations": 2,
        "block_size": 8,
        "seed": 0,
    }
    return Chats.model_validate(settings | changes)


def test_groups_are_held_out_whole() -> None:
    made = [Conversation(f"{g}{i}", str(g), [ASKED, SAID]) for g in range(8) for i in range(3)]
    found = split(made, chats(), "key")
    groups = {name: {entry.group for entry in part} for name, part in found.items()}
    assert len(groups["heldout"]) == 2
    assert not groups["train"] & groups["heldout"]
    assert {entry.id for part in found.values() for entry in part} == {entry.id for entry in made}
    assert split(made, chats(), "key") == found
    assert split(made, chats(seed=1), "key") != found
    assert split(made, chats(max_conversations=5), "key")["train"] == found["train"][:5]
    with pytest.raises(UserError, match=r"^key\.heldout_share: 0\.25 of 1 groups"):
        split(made[:3], chats(), "key")


def test_a_file_of_another_kind_is_refused_by_the_key_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "chats.txt"
    path.write_text("Hello.")
    source = LocalFiles(source="files", paths=[str(path)], license="none")
    with pytest.raises(UserError, match=r"^text\.paths: .*chats\.txt: must end in \.jsonl or"):
        list(conversations(source, "text"))
