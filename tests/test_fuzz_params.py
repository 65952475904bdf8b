"""Parameters and launch words that went wrong: a right result or one line, never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from baselines import check_methods
from lesa import params
from lesa.errors import UserError
from lesa.planning.launch import Launch, launch
from tests.fuzzing import ODD_NAMES, VALUES, answered, damaged, examples

DEFAULT = Path("conf/default.yaml").read_bytes()
TREE: dict[str, Any] = yaml.safe_load(DEFAULT)
RANDOM = {
    "source": "random", "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 2, "num_key_value_heads": 1, "seed": 0, "license": "none",
}  # fmt: skip
FILES = {"source": "files", "paths": ["a.txt"], "text_field": "text", "license": "none"}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value of a nested dict, mappings among them."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


TREES = [TREE, TREE | {"base": RANDOM}, TREE | {"corpus": TREE["corpus"] | {"text": FILES}}]
CHANGES = [(tree, path) for tree in TREES for path in places(tree)]


def has_known_methods(found: params.Params) -> bool:
    check_methods(found)
    return True


def is_sound(found: params.Params) -> None:
    """What is accepted can be written and read again, and no count in it is beyond bounds."""
    if answered(lambda: has_known_methods(found)):
        dumped = json.dumps(found.model_dump(mode="json"), allow_nan=False)
        assert params.parse(json.loads(dumped), "again") == found
        assert all(abs(count) < 2**31 for count in counts(json.loads(dumped)))


def counts(tree: Any) -> Iterator[int]:
    """All integers of a nested value."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from counts(value)
    elif isinstance(tree, int):
        yield tree


@examples(300)
@given(st.sampled_from(CHANGES), VALUES, st.sampled_from(["set", "remove", "add"]))
def test_a_wrong_value(change: tuple[Any, tuple[Any, ...]], value: Any, how: str) -> None:
    tree, path = copy.deepcopy(change[0]), change[1]
    place = tree
    for key in path[:-1]:
        place = place[key]
    if how == "remove":
        del place[path[-1]]
    elif how == "set":
        place[path[-1]] = value
    else:
        place["surprise"] = value
    if found := answered(lambda: params.parse(tree, "params.yaml")):
        is_sound(found)


@examples(200)
@given(damaged(DEFAULT))
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    if found := answered(lambda: params.load(path)):
        is_sound(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gaps: {first: 1, last: 2}\ngaps: {first: 2, last: 3}\n", "'gaps' stands there twice"),
        ("corpus: {seed: 2026-13-45}\n", "not YAML: month must be in"),
        (f"corpus: {{seed: {'9' * 5000}}}\n", "not YAML: Exceeds the limit"),
        ("corpus: " + "[" * 3000 + "\n", "not YAML"),
        ("profile: &a [*a]\n", r"profile: .*\(got \[\[\[\.\.\.\]\]\]\)"),
        ("profile: default\nbase: \ud800\n", "not YAML"),
    ],
)
def test_yaml_that_means_nothing(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=says) as raised:
        params.load(path)
    assert len(str(raised.value)) < 600


def test_aliases_of_aliases_make_no_endless_line() -> None:
    """Ten lists of the one before, ten times each: a billion values if written out."""
    text = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
    )
    tree = TREE | {"evaluate": TREE["evaluate"] | {"launch": yaml.safe_load(text)["a9"]}}
    with pytest.raises(UserError, match=r"evaluate\.launch") as raised:
        params.parse(tree, "params.yaml")
    assert len(str(raised.value)) < 600


def test_an_option_that_holds_itself() -> None:
    entry: dict[str, Any] = {"method": "solar"}
    entry["option"] = entry
    with pytest.raises(UserError, match="without end"):
        params.parse(TREE | {"methods": TREE["methods"] | {"x": entry}}, "params.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_attention_heads": 3}, r"hidden_size \(16\) must be an even multiple of num_att"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"num_hidden_layers": 2**20, "hidden_size": 2**16}, "has at most 1000000000"),
    ],
)
def test_a_random_base_that_cannot_be_made(change: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=rf"^x: base: .*{says}"):
        params.parse(TREE | {"base": RANDOM | change}, "x")


WORDS = st.lists(
    st.sampled_from(["accelerate", "launch", "--config_file", "'", '"', "\\", "x.yaml", *ODD_NAMES])
)


@examples(100)
@given(WORDS, VALUES)
def test_launch_words(tmp_path: Path, words: list[str], config: Any) -> None:
    path = tmp_path / "x.yaml"
    whole = {"num_processes": 4, "num_machines": 2, "distributed_type": "MULTI_GPU"}
    path.write_text(json.dumps(whole | config if isinstance(config, dict) else config))
    line = " ".join(words).replace("x.yaml", str(path))
    found = answered(lambda: launch(line, "train.launch"))
    assert found is None or (found.processes, found.nodes) in {(1, 1), (4, 2)}


@examples(100)
@given(st.sampled_from(["num_processes", "num_machines", "fsdp_config"]), VALUES)
def test_launch_configurations(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "x.yaml"
    whole = {"num_processes": 4, "num_machines": 2, "distributed_type": "FSDP"}
    path.write_text(json.dumps(whole | {key: value}))
    found = answered(lambda: launch(f"accelerate launch --config_file {path}", "train.launch"))
    if found is not None:
        assert isinstance(found, Launch)
        assert found.local * found.nodes == found.processes > 0
