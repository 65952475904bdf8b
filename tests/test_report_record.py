"""What is refused of the metrics folder, and what the committed one is."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, get_origin

import pytest
from typing_extensions import get_type_hints

from lesa.errors import UserError
from lesa.params import load
from reports import (
    budget,
    claims,
    controls,
    measured,
    official,
    outcome,
    paper_tables,
    scale,
    summary,
    tables,
)
from reports.record import SHAPES, shape_of, wrong
from tests.test_report_synthetic import (
    change,
    machine,
    params,
    rates_study,
    save,
    scale_study,
    write,
)

METRICS = Path(__file__).parents[1] / "metrics"
FILES = sorted(path.relative_to(METRICS).with_suffix("") for path in METRICS.rglob("*.json"))
# A file of each shape.
SAMPLES = (
    "base", "corpus", "svd", "tasks", "fit/paper-0", "fits/paper-1", "expand/lesa", "pretrain/lesa",
    "evaluate/init/lesa", "grid/lesa", "rates/scale-lesa", "start/llama_pro", "budget/lesa-0",
    "scale/lesa-0", "code/lesa", "humaneval/lesa", "sft/lesa", "official/lesa-trained",
    "removal/base", "benchmarks/training_steps", "provenance/budget-lesa-0",
    "variants/parity-layer-own",
)  # fmt: skip


def parts(name: str) -> tuple[str, str]:
    stage, _, inner = name.partition("/")
    return stage, inner


def content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((METRICS / f"{name}.json").read_text())
    return found


def test_the_committed_record_is_whole() -> None:
    said = {str(name): wrong(*parts(str(name)), content(str(name))) for name in FILES}
    assert {name: line for name, line in said.items() if line} == {}
    assert {parts(name)[0] for name in SAMPLES} == SHAPES.keys() | {"variants"}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_key_that_is_read_is_of_its_kind(name: str) -> None:
    """Without the key, and with what no key of a file holds."""
    whole = content(name)
    shape = shape_of(parts(name)[0], whole)
    keys = dict.fromkeys(whole)
    if name != "svd":
        keys = get_type_hints(shape, include_extras=True)
    assert keys
    for key, kind in keys.items():
        said = wrong(*parts(name), whole | {key: [[]]})
        assert said is not None
        assert said.startswith(key), key
        # A file of the study variants without `split` is of a training, which is not read.
        if name != "svd" and key != "split" and get_origin(kind) is not NotRequired:
            said = wrong(*parts(name), {k: v for k, v in whole.items() if k != key})
            assert said == f"lacks the key {key!r}"


def at(*place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def damage(tree: Any) -> None:
        *inner, last = place
        for key in inner:
            tree = tree[key]
        tree[last] = value

    return damage


def without(*place: Any) -> Callable[[dict[str, Any]], None]:
    def damage(tree: Any) -> None:
        *inner, last = place
        for key in inner:
            tree = tree[key]
        del tree[last]

    return damage


DAMAGES: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "number as text": ("base", at("num_hidden_layers", value="30"), "num_hidden_layers: "),
    "no layers": ("base", at("num_hidden_layers", value=0), "num_hidden_layers: "),
    "truth for a number": ("budget/lesa-0", at("seed", value=True), "seed: "),
    "inside": ("fit/paper-0", without("kinds", "q_proj", "heldout", "fitted", "mse"),
               "kinds.q_proj.heldout.fitted lacks the key 'mse'"),
    "a loss that is none": ("pretrain/lesa", at("steps", 2, "block_losses", 3, value=None),
                            "steps.2.block_losses.3: "),
    "cut short": ("budget/lesa-0", lambda run: run["steps"].pop(),
                  "steps end at 40, and max_steps is 48"),
    "backwards": ("pretrain/lesa", lambda run: run["steps"].reverse(), "steps must rise from 0"),
    "no start": ("scale/lesa-0", lambda run: run["steps"].pop(0), "steps must rise from 0"),
    "second text": ("budget/lesa-0", lambda run: run["second_text_documents"].pop(),
                    "step 0 must have 2 second_text_block_losses"),
    "fewer blocks": ("start/llama_pro", lambda row: row["block_losses"].pop(), "equally long"),
    "another seed": ("fit/paper-0", at("seed", value=1), "belongs into fit/paper-1.json"),
    "another run": ("budget/lesa-0", at("run", value="solar-0"), "belongs into budget/solar-0"),
    "another row": ("start/llama_pro", at("row", value="x"), "belongs into start/x.json"),
    "another phase": ("evaluate/init/lesa", at("phase", value="trained"),
                      "belongs into evaluate/trained/lesa.json"),
    "run's seed": ("budget/lesa_256-0", at("seed", value=1), "seed is 1 in lesa_256-0"),
    "study": ("rates/scale-lesa", at("study", value="code"), "study: "),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_named(case: str) -> None:
    name, damage, says = DAMAGES[case]
    tree = copy.deepcopy(content(name))
    damage(tree)
    said = wrong(*parts(name), tree)
    assert said
    assert says in said
    assert "\n" not in said


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "[" * 100_000])
def test_what_is_no_json_is_one_line(text: str, tmp_path: Path) -> None:
    metrics = write(tmp_path)
    (metrics / "corpus.json").write_text(f'{{"tokens": {text}}}')
    with pytest.raises(UserError, match=r"corpus\.json: not JSON \(.*\); run stage corpus"):
        measured.load(metrics, params())


def test_a_copy_is_no_other_run(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    run = (metrics / "budget/lesa-0.json").read_bytes()
    (metrics / "budget/lesa-0 copy.json").write_bytes(run)
    with pytest.raises(UserError, match=re.escape("lesa-0 copy.json: holds what belongs into")):
        measured.load(metrics, params())


def test_metrics_of_another_profile_are_not_this_one_s(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    change(metrics, "base", "profile", value="default")
    with pytest.raises(UserError, match=r"base\.json: is of profile 'default', and params\.yaml"):
        measured.load(metrics, params())


def test_texts_of_code_are_the_same_for_all(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for model in ("lesa", "solar"):
        save(metrics, f"code/{model}", content(f"code/{model}") | {"profile": "made-up"})
    measured.load(metrics, params())
    change(metrics, "code/solar", "heldout", "ids", 0, value="another")
    with pytest.raises(UserError, match=r"code/solar\.json: ids must be those of lesa\.json"):
        measured.load(metrics, params())


def test_seconds_are_of_the_study_s_own_machine(tmp_path: Path) -> None:
    """Study scale has runs of the same names, on a GPU."""
    metrics = write(tmp_path)
    scale_study(metrics)
    rates_study(metrics)
    for seed in range(3):
        machine(metrics, f"budget-lesa-{seed}", "cpu")
    m = measured.load(metrics, params())
    seconds = {row["run"]: row["whole seconds"] for row in budget.table(m).rows}
    assert seconds["lesa"] is not None
    assert {row["whole seconds"] for row in scale.table(m).rows} == {None}


def test_an_average_is_of_all_tasks(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    solar = json.loads((metrics / "official/lesa-trained.json").read_text()) | {"model": "solar"}
    solar["tasks"].pop("piqa")
    save(metrics, "official/solar-trained", solar)
    m = measured.load(metrics, params())
    rows = {(row["model"], row["phase"]): row for row in official.table(m).rows}
    trained = tables.PHASE_NAMES["trained"]
    assert rows["solar", trained]["average"] is None
    assert rows["solar", trained]["minus trained LESA's"] is None
    assert paper_tables.average(m, "solar", "trained") is None
    assert rows["lesa", trained]["average"] == 100.0


def test_the_summary_counts_what_the_first_screen_says() -> None:
    m = measured.load(METRICS, load(METRICS.parent / "params.yaml"))
    judged = claims.judge(m)
    counts = outcome.numbers(m, judged)["claims"]
    line, rows = summary.by_verdict(judged), claims.in_brief(judged).rows
    for verdict, words in summary.WORDS.items():
        said = re.search(rf" {re.escape(words)}: (\d+) \((.*?)\)", line)
        named = [of.split(" ")[0] for of in said[2].split(", ")] if said else []
        of = [row["id"] for row in rows if str(row["verdict here"]).split(", ")[0] == verdict]
        assert named == of, words
        count = counts[outcome.VERDICTS.get(verdict, "differ")]
        assert count == len(named) == (int(said[1]) if said else 0), words


def test_seeds_of_a_control_are_those_that_it_shares(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for name, seeds in (("lesa", (0, 1)), ("noise", (1, 2))):
        for seed in seeds:
            run = json.loads((metrics / f"budget/lesa-{seed}.json").read_text())
            run["steps"][-1]["step"] = run["max_steps"] = 120
            run["steps"][-1]["tokens"] *= 3
            save(metrics, f"budget/{name}_120-{seed}", run)
    rows = {row["model"]: row for row in controls.table(measured.load(metrics, params())).rows}
    assert rows["noise"]["seeds"] == 1
