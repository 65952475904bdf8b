"""Bad parameters end in one line that names the key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from baselines import check_methods
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
        ("fit.presets.paper.fitted_on", "nothing"),
        ("fit.heldout_every", 1),
        ("gaps.first", -1),
        ("svd.method", "exact"),
        ("svd.rank_tolerance", 1),
        ("corpus.block_size", "many"),
        ("corpus.block_size", 1),
        ("corpus.text.member", 3),
        ("base.sha256", 3),
        ("train.max_steps", -3),
        ("train.learning_rates", 0.1),
        ("train.max_grad_norm", 0),
        ("grid.learning_rates", []),
        ("train.prefix_cache", "sometimes"),
        ("train.launch", ""),
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


@pytest.mark.parametrize("key", ["seed", "gaps", "fit", "train.bf16", "methods", "base.member"])
def test_missing_key_is_named(key: str) -> None:
    tree = default_tree()
    *path, last = key.split(".")
    place = tree if not path else tree[path[0]]
    if key == "seed":
        place, path = tree["corpus"], ["corpus"]
    del place[last]
    with pytest.raises(UserError, match=rf"^x: {'.'.join([*path, last])}: Field required$"):
        params.parse(tree, "x")


@pytest.mark.parametrize(
    ("gaps", "says"),
    [
        ({"after": [3, 3]}, r"gaps: after \(\[3, 3\]\) must ascend"),
        ({"after": []}, r"gaps\.after: "),
        ({"after": [-1]}, r"gaps\.after\.0: .*-1"),
        ({"after": [1], "last": 2}, r"gaps\.last: Extra inputs"),
        ({"first": 1}, r"gaps\.last: Field required"),
        ([1, 2], "gaps: "),
    ],
)
def test_gaps_that_are_wrong_name_their_key(gaps: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"^params\.yaml: {says}"):
        params.parse(changed("gaps", gaps), "params.yaml")


def test_gaps_may_be_listed() -> None:
    found = params.parse(changed("gaps", {"after": [2, 5]}), "params.yaml").gaps
    assert (found.count, list(found.after)) == (2, [2, 5])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gaps.first", True),
        ("fit.presets.paper.norm_weight", True),
        ("grid.learning_rates", [1e-4, False]),
        ("evaluate.limit", True),
        ("train.max_grad_norm", True),
    ],
)
def test_yes_is_no_number(key: str, value: Any) -> None:
    """Python takes true for 1, and YAML reads `yes` as true."""
    with pytest.raises(UserError, match=rf"^x: {key}(\.1)?: must be a number \(got "):
        params.parse(changed(key, value), "x")


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ({"source": "path", "path": "/models/mine"}, "base.license: Field required"),
        ({"source": "path", "license": "MIT"}, "base.path: Field required"),
        ({"source": "path", "path": 3, "license": "MIT"}, "base.path: .*got 3"),
        ({"source": "path", "path": "x", "license": "MIT", "id": 1}, "base.id: Extra inputs"),
    ],
)
def test_a_source_called_as_one_of_its_keys(base: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^x: {says}"):
        params.parse(changed("base", base), "x")


def test_gaps_in_order() -> None:
    with pytest.raises(UserError, match=r"gaps: .*last \(13\) must not be below first \(14\)"):
        params.parse(changed("gaps.last", 13), "params.yaml")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"method": "absent"}, r"methods\.x\.method: unknown method 'absent'.*llama_pro"),
        ({"method": "lesa"}, r"methods\.x\.needs: lesa reads 1 of fit\.runs, not 0"),
        ({"method": "lesa", "needs": ["paper-0"]}, r"methods\.x\.unpredicted: Field required"),
        (
            {"method": "lesa", "needs": ["paper-0"], "unpredicted": "copied"},
            r"methods\.x\.unpredicted: .*'layer_0' or 'neighbours'",
        ),
        ({"method": "solar", "needs": ["paper-0"]}, r"methods\.x\.needs: solar reads 0"),
        ({"method": "average", "unpredicted": "layer_0"}, r"methods\.x\.unpredicted: .*none"),
        ({"method": "llama_pro", "seed": 1}, r"methods\.x\.seed: .*options of llama_pro: none"),
        (
            {"method": "lesa", "needs": ["paper-0"], "unpredicted": "layer_0", "seed": 1},
            r"methods\.x\.seed: ",
        ),
    ],
)
def test_what_a_method_does_not_use_is_refused(entry: dict[str, Any], says: str) -> None:
    loaded = params.parse(changed("methods.x", entry), "params.yaml")
    with pytest.raises(UserError, match=says) as error:
        check_methods(loaded)
    assert "\n" not in str(error.value)


def test_a_method_needs_fits_that_exist() -> None:
    entry = {"method": "lesa", "needs": ["nonesuch-0"], "unpredicted": "layer_0"}
    with pytest.raises(UserError, match=r"needs names 'nonesuch-0', which fit\.runs lacks"):
        params.parse(changed("methods.x", entry), "params.yaml")


@pytest.mark.parametrize(
    "name",
    ["lesa_1.5x", "../../x", '"><b>', "a b", "", "é", "-x", "a/b", "x" * 65, "${base}", "a\n"],
)
@pytest.mark.parametrize("key", ["methods", "fit.presets", "fit.runs", "profile"])
def test_names_that_become_paths_stages_and_anchors(key: str, name: str) -> None:
    tree = default_tree()
    if key == "methods":
        tree["methods"][name] = {"method": "solar"}
    elif key == "fit.presets":
        tree["fit"]["presets"][name] = tree["fit"]["presets"]["paper"]
    elif key == "fit.runs":
        tree["fit"]["runs"][name] = {"preset": "paper", "seed": 9}
    else:
        tree["profile"] = name.replace(".5", "$")  # a profile's name may have a dot
    with pytest.raises(UserError, match=rf"^x: {key}.*letters, digits, _ and -") as error:
        params.parse(tree, "x")
    assert "\n" not in str(error.value)


def test_a_run_is_called_as_its_files_are() -> None:
    tree = changed("fit.runs.other", {"preset": "paper", "seed": 5})
    with pytest.raises(UserError, match=r"runs\.other must be called paper-5"):
        params.parse(tree, "x")


@pytest.mark.parametrize(("steps", "every"), [(24, 24), (24, 10), (25, 5), (24, 48)])
def test_half_of_the_steps_is_measured(steps: int, every: int) -> None:
    tree = changed("train.max_steps", steps)
    tree["train"]["eval_every"] = every
    with pytest.raises(UserError, match=rf"train: .*eval_every \({every}\) must divide half"):
        params.parse(tree, "x")


@pytest.mark.parametrize("steps", [24, 25])
def test_warm_up_ends_before_the_steps_do(steps: int) -> None:
    with pytest.raises(UserError, match=r"train: warmup_steps \(\d+\) must be below max_steps"):
        params.parse(changed("train.warmup_steps", steps), "x")


def profile(folder: Path, text: str) -> Path:
    """A folder of profiles: the default and `mine`."""
    shutil.copy(ROOT / "conf" / "default.yaml", folder)
    (folder / "mine.yaml").write_text(text)
    return folder


def test_a_profile_chooses_and_adds_methods(tmp_path: Path) -> None:
    text = (
        "profile: mine\nmodels: [base, wide, lesa]\n"
        "methods: {wide: {method: lesa, needs: [paper-0], unpredicted: neighbours}}\n"
    )
    tree = compose("mine", profile(tmp_path, text))
    assert list(tree["methods"]) == ["base", "wide", "lesa"]
    assert "models" not in tree
    whole = compose("default", tmp_path)
    assert tree["methods"]["lesa"] == whole["methods"]["lesa"]
    assert len(whole["methods"]) > 3


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("{after: [3, 7, 11]}", {"after": [3, 7, 11]}),
        ("{last: 20}", {"first": 14, "last": 20}),
        ("{first: 2, last: 5}", {"first": 2, "last": 5}),
    ],
)
def test_gaps_of_a_profile(tmp_path: Path, said: str, wanted: dict[str, Any]) -> None:
    """Of the default's form they are laid over its own; of the other they take their place."""
    tree = compose("mine", profile(tmp_path, f"profile: mine\ngaps: {said}\n"))
    assert tree["gaps"] == wanted


def test_gaps_of_a_profiles_method(tmp_path: Path) -> None:
    text = "profile: mine\nmethods: {llama_pro: {gaps: {after: [3, 7]}}}\n"
    tree = compose("mine", profile(tmp_path, text))
    assert tree["methods"]["llama_pro"]["gaps"] == {"after": [3, 7]}
    default = OmegaConf.load(tmp_path / "default.yaml")
    default.methods.llama_pro.gaps = {"first": 0, "last": 14}
    OmegaConf.save(default, tmp_path / "default.yaml")
    tree = compose("mine", tmp_path)
    assert tree["methods"]["llama_pro"]["gaps"] == {"after": [3, 7]}


def test_a_profiles_name_of_any_length(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PROFILE: no profile 'aaa"):
        compose("a" * 300, tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("profile: mine\nmodels: [base, solaris]\n", "models: no method 'solaris'; there are base"),
        ("profile: mine\nmodels: lesa\n", "models: must be a list"),
        ("profile: mine\nmodels: []\n", "models: must be a list"),
        ("profile: mine\nmodels: [[lesa]]\n", "models: must be a list"),
        ("profile: mine\nmethods: null\nmodels: [lesa]\n", "models: no method 'lesa'"),
        ("profile: mine\ngrid: &a {learning_rates: [*a]}\n", "cannot be merged"),
        ("gaps: {first: 15}\n", r"mine\.yaml: profile: 'default'.*must be 'mine'"),
        ("profile: mine\nmodels: [base\n", "cannot be merged"),
        ("- a\n- b\n", "cannot be merged"),
        ("profile: mine\nmethods: base\nmodels: [base]\n", "methods: must be a mapping"),
        (
            "profile: mine\nmethods: {1: {method: average}}\nmodels: [foo]\n",
            "no method 'foo'; .* 1",
        ),
        ("5\n", r"mine\.yaml: cannot be merged"),
        ("profile: mine\nbase: {path: '${oc.env:NO_SUCH_NAME}'}\n", "NO_SUCH_NAME"),
        ("profile: mine\nmethods: {lesa: {seed: 3}}\n", r"^.*mine\.yaml: methods\.lesa\.seed"),
    ],
)
def test_a_bad_profile_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        compose("mine", profile(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_profile_may_name_what_the_environment_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", "/models")
    base = "base: {source: path, path: '${oc.env:MODELS}/mine', license: MIT}"
    merged = compose("mine", profile(tmp_path, f"profile: mine\n{base}\n"))
    assert merged["base"]["path"] == "/models/mine"


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
        loaded.corpus.seed = 3
