"""Bad parameters end in one line that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lesa import params
from lesa.errors import UserError
from pipelines.profile import compose

ROOT = Path(__file__).parents[1]
PROFILES = sorted(path.stem for path in ROOT.glob("conf/*.yaml"))


def default_tree() -> Any:
    """The default experiment, whatever profile the working tree's params.yaml is at."""
    return yaml.safe_load((ROOT / "conf" / "default.yaml").read_text())


def changed(key: str, value: Any) -> Any:
    tree = default_tree()
    *path, last = key.split(".")
    place = tree
    for part in path:
        place = place[part]
    place[last] = value
    return tree


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str) -> None:
    loaded = params.parse(compose(profile, ROOT / "conf"), profile)
    assert loaded.profile == profile
    assert "base" in loaded.models


def test_the_written_parameters_are_valid() -> None:
    params.load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fit.presets.paper.norm_weight", -0.1),
        ("fit.presets.paper.norm_weight", 1.5),
        ("fit.presets.paper.norm_weight", float("nan")),
        ("fit.presets.paper.epochs", 0),
        ("fit.presets.paper.learning_rate", 0),
        ("fit.presets.paper.lambda", 5e-5),
        ("fit.heldout_every", 1),
        ("gaps.first", -1),
        ("svd.method", "exact"),
        ("svd.rank_tolerance", 1),
        ("corpus.block_size", "many"),
        ("corpus.text.member", 3),
        ("base.sha256", 3),
        ("train.max_steps", -3),
        ("train.learning_rates.lesa", "fast"),
        ("train.max_grad_norm", 0),
        ("train.prefix_cache", "sometimes"),
        ("train.launch", ""),
        ("methods.lesa.unpredicted", "zero"),
        ("evaluate.dtype", "float8"),
        ("evaluate.batchsize", 4),
        ("profil", "default"),
    ],
)
def test_bad_value_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        params.parse(changed(key, value), "params.yaml")
    line = str(error.value)
    assert line.startswith(f"params.yaml: {key}: ")
    assert repr(value) in line
    assert "\n" not in line


@pytest.mark.parametrize("key", ["seed", "gaps", "fit", "train.bf16", "models", "base.member"])
def test_missing_key_is_named(key: str) -> None:
    tree = default_tree()
    *path, last = key.split(".")
    place = tree if not path else tree[path[0]]
    if key == "seed":
        place, path = tree["corpus"], ["corpus"]
    del place[last]
    with pytest.raises(UserError, match=rf"^x: {'.'.join([*path, last])}: Field required$"):
        params.parse(tree, "x")


def test_gaps_in_order() -> None:
    with pytest.raises(UserError, match=r"gaps: .*last \(13\) must not be below first \(14\)"):
        params.parse(changed("gaps.last", 13), "params.yaml")


def test_models_must_exist_and_have_a_learning_rate() -> None:
    with pytest.raises(UserError, match="'opt_deus'"):
        params.parse(changed("models", ["base", "opt_deus"]), "params.yaml")
    tree = default_tree()
    del tree["train"]["learning_rates"]["noise"]
    with pytest.raises(UserError, match="learning_rates lacks 'noise'"):
        params.parse(tree, "params.yaml")


def test_unknown_base_source() -> None:
    with pytest.raises(UserError, match=r"params\.yaml: base") as error:
        params.parse(changed("base.source", "torrent"), "params.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tree", [None, [], "text", 3])
def test_not_a_mapping(tree: object) -> None:
    with pytest.raises(UserError, match=r"x: \(top level\)") as error:
        params.parse(tree, "x")
    assert "\n" not in str(error.value)


def test_file_missing_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1,\nb: }")
    with pytest.raises(UserError, match="not YAML") as error:
        params.load(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_parameters_cannot_change() -> None:
    loaded = params.parse(default_tree(), "x")
    with pytest.raises(ValueError, match="frozen"):
        loaded.gaps.first = 3  # type: ignore[misc]
