"""The paper's tables beside this run's numbers, each recomputed from its files in another way."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from lesa import params as parameters
from lesa.files import write_json
from reports import (
    claims,
    contest,
    headline,
    measured,
    opt_deus,
    paper_figures,
    paper_tables,
    summary,
    training_runs,
)
from reports.claims import Finding, Verdict
from reports.markup import slug
from reports.measured import Metrics
from reports.paired import Interval, document_means, interval, shares_apart
from reports.render import HERE
from reports.tables import Measured, show_interval
from tests.test_report_synthetic import KINDS, MODELS, SEEDS, blocks, change, checked, params, write

ROOT = Path(__file__).parents[1]
PUBLISHED = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    folder = write(tmp_path_factory.mktemp("paper"))
    return folder, measured.load(folder, params())


@pytest.fixture(scope="module")
def committed() -> Metrics:
    return measured.load(ROOT / "metrics", parameters.load(ROOT / "params.yaml"))


def content(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


# --- the independent re-run


def by_hand() -> dict[tuple[str, ...], tuple[float, float, float]]:
    """Mean accuracy, its error and the word perplexity of every result file."""
    accuracies, errors, words = defaultdict(list), defaultdict(list), {}
    with (HERE / "opt_deus.csv").open() as lines:
        for row in csv.DictReader(lines):
            key = tuple(row[name] for name in ("model", "phase", "method", "step"))
            if row["metric"] == "acc":
                accuracies[key].append(float(row["value"]))
                errors[key].append(float(row["stderr"]))
            else:
                words[key] = float(row["value"])
    return {
        key: (
            100 * sum(values) / 7,
            100 * math.sqrt(sum(error * error for error in errors[key])) / 7,
            words[key],
        )
        for key, values in accuracies.items()
    }


def test_every_result_of_the_re_run_is_there() -> None:
    expected = by_hand()
    rows = opt_deus.every().rows
    assert len(rows) == len(expected) == 87
    names = {shown: method for method, shown in opt_deus.NAMES.items()}
    for row in rows:
        key = (row["model"], row["phase"], names[str(row["method"])], str(row["step"]))
        accuracy, error, words = expected[key]  # type: ignore[index]
        assert isinstance(row["accuracy"], Measured)
        assert row["accuracy"].value == pytest.approx(accuracy)
        assert row["accuracy"].stderr == pytest.approx(error)
        assert row["word perplexity"] == pytest.approx(words)


def test_differences_to_lesa_have_the_error_of_two_independent_means() -> None:
    expected = by_hand()
    ours = expected["11.5B", "pretrain", "llama_pro", "12100"]
    lesa = expected["11.5B", "pretrain", "lesa_official", "12100"]
    row = next(row for row in opt_deus.table("11.5B").rows if row["method"] == "LLaMA Pro")
    gap = checked(Measured, row["minus LESA's at 100%"])
    assert gap.value == pytest.approx(ours[0] - lesa[0])
    assert gap.stderr == pytest.approx(math.sqrt(ours[1] ** 2 + lesa[1] ** 2))
    # As the source's own summary has them, to its digits.
    assert round(lesa[0], 2) == 68.77
    assert round(ours[0], 2) == 68.56


def test_the_re_run_is_compared_in_words(made: tuple[Path, Metrics]) -> None:
    said = summary.agreement(made[1], PUBLISHED["main"])
    assert "above LLaMA Pro by 0.2 ± 0.6 (not told from 0) at 11.5B" in said
    assert "where the paper has 1.63" in said
    assert "above SOLAR by 4.6 ± 0.6 (agrees) at 11.5B" in said
    assert "is above LLaMA Pro (0.05" in said  # 3.11 and 3.06 in the mean over seeds


# --- the main numbers

TURNS = "here, a step, the methods in turn, without fitting"


def headline_rows(m: Metrics) -> dict[tuple[str, str], dict[str, Any]]:
    return {(str(r["measure"]), str(r["of"])): dict(r) for r in headline.table(m, PUBLISHED).rows}


def test_main_numbers_of_the_paper_with_what_follows_from_them(made: tuple[Path, Metrics]) -> None:
    rows = headline_rows(made[1])
    loss = rows[headline.AFTER, headline.PAPER]
    assert [loss[name] for name in ("LESA", "LLaMA Pro", "SOLAR")] == ["5.13", "5.44", "8.09"]
    assert loss["LESA minus LLaMA Pro"] == f"{math.log(5.13) - math.log(5.44):.3f}" == "-0.059"
    assert rows[headline.ACCURACY, headline.PAPER]["LESA minus SOLAR"] == "16.44"
    assert rows[headline.TIME, headline.PAPER]["SOLAR"] == "166"
    assert rows[headline.CODE, headline.PAPER]["LLaMA Pro"] == "10.98"
    size = next(iter(opt_deus.BASES))
    again = checked(
        Measured, rows[headline.ACCURACY, f"others' re-run at {size}"]["LESA minus SOLAR"]
    )
    assert again.value == pytest.approx(4.57, abs=5e-3)


def test_main_numbers_measured_here(made: tuple[Path, Metrics]) -> None:
    folder, m = made
    found = headline.table(m, PUBLISHED)
    rows = headline_rows(m)
    ends = {
        name: np.array(
            [
                content(folder, f"budget/{name}-{seed}")["steps"][-1]["block_losses"]
                for seed in SEEDS
            ]
        )
        for name in ("lesa", "llama_pro")
    }
    row = rows[headline.AFTER, "here, preset `paper`, 81,920 tokens (study `budget`, 3 seeds)"]
    for name, losses in ends.items():
        assert row[headline.METHODS[name]] == pytest.approx(math.exp(losses.mean()))
    gap = checked(Interval, row["LESA minus LLaMA Pro"])
    assert gap.estimate == pytest.approx((ends["lesa"] - ends["llama_pro"]).mean())
    starts = [content(folder, f"start/lesa-paper-{draw}")["block_losses"] for draw in range(8)]
    of = "here, preset `paper`, mean loss of 8 draws, median 26.18, 8 below SOLAR"
    before = rows[headline.BEFORE, of]
    perplexities = [content(folder, f"start/lesa-paper-{draw}")["perplexity"] for draw in range(8)]
    assert np.median(perplexities) == pytest.approx(26.18, abs=0.005)
    assert before["LESA"] == pytest.approx(math.exp(np.mean(starts)))
    assert rows[headline.TIME, TURNS]["LESA"] == 100
    assert rows[headline.CODE, "here"]["LESA"] == "not run"
    assert {found.origin_of(r, "LESA") for r in found.rows if r["of"] == headline.PAPER} == {""}


def test_main_numbers_without_a_study(tmp_path: Path) -> None:
    folder = write(tmp_path, optional=False)
    right = {"lesa": [1, 1, 1, 0], "solar": [1, 0, 1, 0]}
    for name, found in right.items():
        score = {"value": sum(found) / 4, "stderr": 0.25, "examples": found}
        task = {"source": "mirror", "examples": 4, "metrics": {"acc": score}}
        change(folder, f"evaluate/trained/{name}", "tasks", value={"arc_easy": task})
    m = measured.load(folder, params())
    rows = headline_rows(m)
    starts, ends = (
        {
            name: np.array(content(folder, f"pretrain/{name}")["steps"][at]["block_losses"])
            for name in ("lesa", "solar")
        }
        for at in (0, -1)
    )
    before, after = rows[headline.BEFORE, "here"], rows[headline.AFTER, "here, 81,920 tokens"]
    assert before["LESA"].value == pytest.approx(math.exp(starts["lesa"].mean()))
    for row, losses in ((before, starts), (after, ends)):
        by_hand = (losses["lesa"] - losses["solar"]).mean()
        assert row["LESA minus SOLAR"].estimate == pytest.approx(by_hand)
    accuracy = rows[headline.ACCURACY, "here, 1 task"]
    assert (accuracy["LESA"].value, accuracy["SOLAR"].value) == (75.0, 50.0)
    assert accuracy["LESA minus SOLAR"].estimate == 25.0
    alone = measured.load(folder, params(methods={"base": {"method": "base"}}))
    assert {of for _, of in headline_rows(alone)} == {
        headline.PAPER, "paper, six models of 1.5B to 70B", "here",
        *(f"others' re-run at {size}" for size in opt_deus.BASES),
    }  # fmt: skip


def test_humaneval_stands_beside_the_papers_once_it_was_run(made: tuple[Path, Metrics]) -> None:
    assert headline_rows(made[1])[headline.CODE, "here"]["LESA"] == "not run"
    passed = {"lesa": [True, False, False, False], "solar": [True, True, True, False]}
    m = replace(
        made[1],
        code={"lesa": {"steps": [{"tokens": 2048}]}},
        humaneval={n: {"problems": list("abcd"), "passed": found} for n, found in passed.items()},
    )
    of = "here, 4 problems, of which 1 and 3 solved, 2,048 tokens (study `code`, 1 seed)"
    row = headline_rows(m)[headline.CODE, of]
    assert (row["LESA"].estimate, row["SOLAR"].estimate) == (25.0, 75.0)
    assert row["LLaMA Pro"] == "not run"
    gap = row["LESA minus SOLAR"]
    known = shares_apart(passed["lesa"], passed["solar"])
    assert (gap.estimate, gap.low, gap.high) == (-50.0, 100 * known.low, 100 * known.high)
    assert row["LESA minus LLaMA Pro"] is None


# --- the paper's tables


def test_published_digits_stand_in_columns_of_their_own(made: tuple[Path, Metrics]) -> None:
    tables = paper_tables.all_of(made[1], PUBLISHED)
    main = {(row["model"], row["steps here"]): row for row in tables["paper_main"].rows}
    assert main["LESA", "half"]["perplexity, published"] == "5.27"
    assert main["LESA", "half"]["time, published"] == "not stated"
    assert main["LESA", "all"]["average, published"] == "64.30"
    assert main["SOLAR", "all"]["relative time, published"] == "166%"
    assert main["untouched base", "none"]["perplexity, published"] == "not stated"
    assert "study `budget`: 40 steps, 81,920 tokens, 3 seeds" in tables["paper_main"].caption
    after = {row["model"]: row for row in tables["paper_sft_and_code"].rows}
    assert after["LLaMA Pro"]["SFT average, published"] == "not stated"
    assert after["LLaMA Pro"]["share of LESA's, published"] == "77%"
    assert after["LESA"]["HumanEval pass@1, published, %"] == "25.00"
    for table in tables.values():  # a published column holds words or published digits alone
        for row in table.rows:
            for name, cell in row.items():
                assert not name.endswith("published") or isinstance(cell, str)


def test_the_main_table_is_of_the_longer_runs(made: tuple[Path, Metrics]) -> None:
    folder, m = made
    rows = {(r["model"], r["steps here"]): r for r in paper_tables.main(m, PUBLISHED["main"]).rows}
    for share, index in (("half", 2), ("all", 4)):
        losses = [
            np.mean(content(folder, f"budget/lesa-{seed}")["steps"][index]["block_losses"])
            for seed in SEEDS
        ]
        cell = checked(Measured, rows["LESA", share]["perplexity here"])
        assert cell.value == pytest.approx(math.exp(np.mean(losses)))
        assert cell.stderr == pytest.approx(cell.value * stats.sem(losses))
    steps = content(folder, "benchmarks/training_steps")["methods"]
    whole = {
        name: np.median(np.add(method["seconds"], method["prefix_seconds_per_step"]))
        for name, method in steps.items()
    }
    relative = checked(Interval, rows["LLaMA Pro", "all"]["relative time here, %"])
    assert relative.estimate == pytest.approx(100 * whole["llama_pro"] / whole["lesa"])
    assert rows["LESA", "half"]["relative time here, %"] == 50  # by definition, with no interval
    average = checked(Measured, rows["LESA", "all"]["average here"])
    assert average.value == 100  # right at every example of the made-up benchmarks
    base = checked(Measured, rows["untouched base", "none"]["average here"])
    assert base.value == 50
    # Two tasks of 40 examples, half of them right: sqrt(2 · (0.25 · 40 / 39) / 40) / 2.
    assert base.stderr == pytest.approx(100 * math.sqrt(2 * 0.25 / 39) / 2)


def test_without_longer_runs_it_is_of_this_run(tmp_path: Path) -> None:
    m = measured.load(write(tmp_path, optional=False), params())
    rows = {(r["model"], r["steps here"]): r for r in paper_tables.main(m, PUBLISHED["main"]).rows}
    run = content(tmp_path, "pretrain/lesa")
    (half,) = (step for step in run["steps"] if step["step"] == 20)
    cell = checked(Measured, rows["LESA", "half"]["perplexity here"])
    assert cell.value == half["heldout_perplexity"]
    solar = content(tmp_path, "pretrain/solar")["seconds"]  # it has no frozen layers
    lesa = run["seconds"] + run["prefix_seconds"]
    assert rows["SOLAR", "all"]["relative time here, %"] == pytest.approx(100 * solar / lesa)
    assert rows["LESA", "all"]["average here"] is None


def test_profiles_that_the_paper_s_models_name_exist(made: tuple[Path, Metrics]) -> None:
    there = {path.stem for path in (ROOT / "conf").glob("*.yaml")}
    for said in PUBLISHED["initial"]:
        usual = said["model"].lower().replace("llama-3", "llama3")
        assert (usual in there) == (said["profile"] is not None), said["model"]
        assert said["profile"] in (None, usual)
    rows = paper_tables.initial(made[1], PUBLISHED["initial"]).rows
    assert [row["LESA here"] is None for row in rows] == [True] * 6 + [False]
    own = replace(made[1], params=params(profile="qwen2.5-1.5b"))
    found = {
        str(r["model"]): r["LESA here"]
        for r in paper_tables.initial(own, PUBLISHED["initial"]).rows
    }
    assert [name for name, cell in found.items() if cell is not None] == ["Qwen2.5-1.5B"]


def test_without_svd_by_hand(made: tuple[Path, Metrics]) -> None:
    folder, m = made
    lesa, raw, llama_pro = paper_tables.without_svd(m, PUBLISHED["without_svd"]).rows
    assert lesa["draws"] == 8
    assert raw["published"] == "worse than LESA, better than LLaMA Pro"
    assert [of["draws compared"] for of in (lesa, raw, llama_pro)] == ["", 3, 8]
    (own,) = (content(folder, "start/lesa_raw")["block_losses"],)
    same = content(folder, "start/lesa-paper-0")["block_losses"]  # its seed and signs
    gap = checked(Interval, raw["loss minus LESA's"])
    assert gap.estimate == pytest.approx(np.mean(own) - np.mean(same))
    end = checked(Interval, raw["loss at the end, minus LLaMA Pro's"])
    assert end.estimate == pytest.approx(3.25 - 3.05)
    assert llama_pro["perplexity before training here"] == pytest.approx(math.exp(3.15))


def test_freezing_by_hand(made: tuple[Path, Metrics]) -> None:
    new, every, then = paper_tables.freezing(made[1], PUBLISHED["freezing"]).rows
    assert new["final loss here"] == pytest.approx(3.11)
    gap = checked(Interval, every["minus that of new layers alone"])
    assert gap.estimate == pytest.approx(0.1)
    assert isinstance(every["fluctuation, times"], Interval)
    assert every["fluctuation, times"].estimate == pytest.approx(2.0)
    assert every["published"] == "falls more slowly and fluctuates"
    assert then["final loss here"] is None
    assert then["published"] == "not stated"


def test_the_norm_terms_weight_by_hand(made: tuple[Path, Metrics]) -> None:
    rows = {
        row["λ here"]: row
        for row in paper_tables.norm_weight(made[1], PUBLISHED["norm_weight"]).rows
    }
    assert list(rows) == [0.0, 5e-5, 5e-4]
    assert rows[0.0]["norm ratio of predictions"] == pytest.approx(0.1)
    assert rows[0.0]["published"] == "predictions collapse towards zero"
    assert rows[5e-5]["norm ratio of predictions"] == pytest.approx(0.5)
    assert rows[5e-5]["published"] == "λ 5e-5"
    assert rows[5e-4]["draws"] == 8
    gap = checked(Interval, rows[0.0]["loss, minus the preset's own λ"])
    assert gap.estimate == pytest.approx(3.9 - 3.2)  # the same seed and signs


def test_this_runs_numbers_follow_from_the_committed_files(committed: Metrics) -> None:
    """Of the committed metrics, by numpy and scipy alone."""
    folder = ROOT / "metrics"
    rows = {row["model"]: row for row in paper_tables.initial(committed, []).rows}
    (row,) = rows.values()
    for shown, model in (("LESA here", "lesa"), ("SOLAR here", "solar")):
        run = content(folder, f"pretrain/{model}")
        losses = run["steps"][0]["block_losses"]
        documents = run["heldout_documents"]
        means = [
            np.mean([loss for loss, of in zip(losses, documents, strict=True) if of == name])
            for name in dict.fromkeys(documents)
        ]
        cell = checked(Measured, row[shown])
        assert cell.value == pytest.approx(run["steps"][0]["heldout_perplexity"])
        assert cell.stderr == pytest.approx(cell.value * stats.sem(means))
    ends = {
        name: np.array(content(folder, f"pretrain/{name}")["steps"][-1]["block_losses"])
        for name in ("lesa", "llama_pro")
    }
    assert committed.params.corpus.blocks_per_document == 1
    test = stats.ttest_rel(ends["lesa"], ends["llama_pro"]).confidence_interval(0.95)
    (own,) = contest.of_own_text(replace(committed, budget={}))
    gap = training_runs.difference(own.runs["lesa"], own.runs["llama_pro"])
    assert gap is not None
    assert (gap.low, gap.high) == pytest.approx((test.low, test.high))


# --- the claims table


def test_claims_lead_to_headings_of_the_report(made: tuple[Path, Metrics]) -> None:
    template = (HERE / "templates" / "report.j2").read_text(encoding="utf-8")
    anchors = {slug(title) for title in re.findall(r"h2\(\) %}(.*?){% endcall", template)}
    rows = claims.table(claims.judge(made[1])).rows
    assert [row["id"] for row in rows] == [f"C{i}" for i in range(1, 13)]
    linked = [re.search(r"\]\(#(.*?)\)", str(row["shown in"])) for row in rows]
    assert {found[1] for found in linked if found} <= anchors
    assert all(linked)
    for target in re.findall(r"\]\(#(.*?)\)", template):
        assert target in anchors


def test_verdicts_in_a_few_words() -> None:
    def of(*verdicts: Verdict) -> str:
        return claims.in_short([Finding("x", "", verdict, "") for verdict in verdicts])

    holds, fails, undecided, cannot = Verdict
    assert of(holds, holds) == "holds"
    assert of(holds, fails) == of(undecided, holds, fails) == claims.PARTLY
    assert of(fails, undecided, cannot) == "does not hold, in part not decided, as far as measured"
    assert of(undecided, cannot) == "not decided, as far as measured"
    assert of(fails, cannot) == "does not hold, as far as measured"
    assert of(cannot) == "cannot be tested here"
    beside = Finding("y", "", fails, "", beside=True)
    assert claims.in_short([Finding("x", "", holds, ""), beside]) == "holds"


def test_what_was_found_names_whose_it_is(made: tuple[Path, Metrics]) -> None:
    rows = {row["id"]: str(row["found here"]) for row in claims.table(claims.judge(made[1])).rows}
    assert "preset paper: share of 8 draws below SOLAR 1.00 [0.63, 1.00]" in rows["C7"]
    assert rows["C7"].index("**holds:**") < rows["C7"].index("**not decided:**")
    assert "this run" not in rows["C7"]  # stands beside the claim


# --- the first lines


def said(folder: Path, **changes: Any) -> str:
    m = measured.load(folder, params(**changes))
    return "\n".join([*summary.lines(m, claims.judge(m)), *summary.answers(m)])


def test_the_first_lines_turn_with_the_numbers(made: tuple[Path, Metrics], tmp_path: Path) -> None:
    first = said(made[0])
    share = "Of a predicted matrix's squared norm one direction has 93% to 93%, by kind"
    share += ", in this run's `lesa`"
    assert f"{share} (of the base's own 6% to 6%; of a matrix of rank one 100%)" in first
    drawn = "no source fixes: its perplexity is 22.2 to 30.0 over 8 draws with preset `paper`"
    assert drawn in first
    constant = "that of one constant row put into every gap (rank correlation"
    assert f"it rises and falls with {constant} 1.00 with `paper`" in first
    assert (
        "`base` has the lowest loss. Of deepened models it is `identity`, which is above the base "
        "trained whole (" in first
    )
    metrics = write(tmp_path)
    for model in MODELS:
        for kind in KINDS:
            if model not in ("base", "solar"):
                found = {"rank_one_share": 0.25, "mean_cosine": 0.1}
                change(metrics, f"expand/{model}", "new_weight_structure", kind, value=found)
    for seed in SEEDS:
        for name in ("lesa", "base"):
            end = {"lesa": 2.5, "base": 2.6}[name]
            at = (f"budget/{name}-{seed}", "steps", 4, "block_losses")
            change(metrics, *at, value=blocks(end, seed))
    for seed, loss in enumerate((9.0, 8.0, 9.5, 8.5, 7.0, 7.5, 8.2, 8.8)):
        change(metrics, f"start/constant_row-paper-{seed}", "block_losses", value=blocks(loss))
    second = said(tmp_path)
    assert "one direction has 25% to 25%, by kind" in second
    assert f"it does not rise and fall with {constant}" in second
    assert "`lesa` has the lowest loss" in second
    below = "which is below the base trained whole (-0.1"
    assert re.search(rf"{re.escape(below)}.* nats\); LoRA without a new layer was not", second)
    for seed in SEEDS:
        lora = content(metrics, f"budget/base-{seed}") | {"trains": "lora", "run": f"lora-{seed}"}
        write_json(metrics / "budget" / f"lora-{seed}.json", lora)
    third = said(tmp_path)
    lora = r"nats\) and LoRA without a new layer \(-0\.1.* nats\): depth pays"
    assert re.search(re.escape(below) + f".* {lora}", third)


def test_the_first_lines_say_whether_the_own_start_keeps_ahead(tmp_path: Path) -> None:
    """Fitted to the first quarter of the tokens, which count as training."""
    metrics = write(tmp_path)
    assert "A start below the base" not in said(tmp_path)
    own = content(metrics, "budget/llama_pro-0")
    phases = [{"trains": "outputs", "steps": 10}, {"trains": "new", "steps": 30}]
    own |= {"run": "fitted_llama_pro-0", "trains": "outputs_then_new", "phases": phases}
    step, start = own["steps"][1]["step"], own["steps"][0]["block_losses"]
    assert step == phases[0]["steps"]
    lower = [loss - 0.5 for loss in own["steps"][1]["block_losses"]]
    own["steps"][1]["block_losses"] = lower
    write_json(metrics / "budget" / "fitted_llama_pro-0.json", own)
    line = next(line for line in said(tmp_path).splitlines() if "A start below" in line)
    gap = interval(losses_of(own, lower) - losses_of(own, start))
    starts = "beside their starts, of which LLaMA Pro's is the base, it is below LLaMA Pro's"
    assert f"{starts} ({show_interval(gap)} nats)" in line
    assert "that were trained on as many its loss is then below LLaMA Pro's (-0.5" in line
    assert "After 81,920 tokens it is not told apart from LLaMA Pro's (0 [0, 0] nats)" in line


def losses_of(run: dict[str, Any], blocks: list[float]) -> Any:
    return document_means(run["heldout_documents"], blocks)


def test_predictors_are_told_beside_zero_and_signs_if_they_are_one(
    made: tuple[Path, Metrics], tmp_path: Path
) -> None:
    kinds = [content(made[0], f"fit/paper-{seed}")["kinds"] for seed in SEEDS]
    ratios = [c["heldout"]["mse"] / c["heldout"]["zero_mse"] for of in kinds for c in of.values()]
    text = said(made[0])
    shown = re.search(r"squared error is (\S+) \[\S+ \S+ times that of predicting zero", text)
    assert shown
    assert float(shown[1]) == pytest.approx(np.mean(ratios), abs=0.06)
    assert "of signs" not in text
    metrics = write(tmp_path)
    for seed, signs in enumerate(["largest", "largest", 4]):
        change(metrics, f"budget/lesa-{seed}", "signs", value=signs)
    assert "; the trained LESAs have one choice of signs, `largest`, but for 1 run." in said(
        metrics
    )
    change(metrics, "budget/lesa-2", "signs", value="largest")
    assert "; the trained LESAs have one choice of signs, `largest`." in said(metrics)


@pytest.mark.parametrize(("raised", "words"), [(-0.1, "lower"), (0.1, "higher")])
def test_what_places_and_size_do_to_the_start(raised: float, words: str, tmp_path: Path) -> None:
    metrics = write(tmp_path)
    lesa = content(metrics, "start/lesa-paper-0")
    moved = (np.array(lesa["block_losses"]) + raised).tolist()
    own = {"row": "permuted", "method": "lesa_permuted", "block_losses": moved}
    write_json(metrics / "start" / "permuted.json", lesa | own)
    zero = content(metrics, "start/norm_weight_0")
    at_half = lesa | {"row": "half", "settings": {"norm_weight": 0.5}, "perplexity": 70.0}
    write_json(metrics / "start" / "half.json", at_half)
    for preset, on, gap in (
        ("paper", "shuffled", 0.0),
        ("paper", "noise", 0.0),
        ("official_code", "shuffled", raised),
    ):
        draw = content(metrics, f"start/lesa-{preset}-0")
        other = (np.array(draw["block_losses"]) + gap * np.linspace(0.9, 1.1, 24)).tolist()
        own = {"row": f"{preset}-{on}", "settings": {"fitted_on": on}, "block_losses": other}
        write_json(metrics / "start" / f"{preset}-{on}.json", draw | own)
    text = said(tmp_path)
    gaps = "With its predictions in one another's gaps it starts"
    assert f"{gaps} {words} (1 permutation, 1 fit)." in text
    by_document = raised * np.linspace(0.9, 1.1, 24).reshape(12, 2).mean(1)
    half = stats.t.ppf(0.975, 11) * by_document.std(ddof=1) / 12**0.5
    shifted = f"{raised:.3f} [{raised - half:.3f}, {raised + half:.3f}]"
    level = "is not told apart from LESA's with `paper` (0 [0, 0] nats, 1 draw)"
    side = "above" if raised > 0 else "below"
    assert (
        f"Fitted on layers in shuffled order, its loss {level} and {side} LESA's with "
        f"`official_code` ({shifted} nats, 1 draw). Fitted on Gaussian noise, its loss {level}."
    ) in text
    at_zero = f"{math.exp(3.9):.3g} at 0 ({math.exp(3.9):.3g} to {math.exp(3.9):.3g}; mean loss"
    assert f"its median over 1 draw is {at_zero} " in text
    for name, seed, perplexity in (("again", 1, 80.0), ("more", 2, 2000.0)):
        more = at_half | {"row": name, "seed": seed, "perplexity": perplexity}
        write_json(metrics / "start" / f"{name}.json", more)
        write_json(
            metrics / "start" / f"zero_{name}.json", zero | {"row": f"zero_{name}", "seed": seed}
        )
    text = said(tmp_path)
    assert f"its median over 3 draws is {at_zero} " in text
    assert "and 80.0 at 0.5 (70.0 to 2,000; mean loss" in text


def test_the_first_lines_say_what_was_not_measured(tmp_path: Path) -> None:
    text = said(write(tmp_path, optional=False))
    assert "Over seeds and signs not measured yet (`make study NAME=start`)" in text
    assert "draws" not in text
    assert "not tested yet: " in text
    assert "study `budget`" not in text
    alone = {"base": {"method": "base"}, "solar": {"method": "solar"}}
    text = said(tmp_path, methods=alone)
    assert "no model of this run is made by LESA" in text
    assert "Too few deepened models" in text
    assert "`lesa`" not in text


def test_models_that_are_level_are_named(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for name, loss, spread in (("llama_pro", 2.1, 0.0), ("lesa", 2.11, 0.3), ("base", 2.5, 0.0)):
        sign = np.where(np.arange(24) // 2 % 2, spread, -spread)
        losses = (np.array(blocks(loss)) + sign).tolist()
        for seed in SEEDS:
            change(metrics, f"budget/{name}-{seed}", "steps", -1, "block_losses", value=losses)
    text = said(metrics)
    assert re.search("`llama_pro` has the lowest loss, .*; not told apart from it: `lesa`", text)
    for seed in SEEDS:
        end = (f"budget/base-{seed}", "steps", -1, "block_losses")
        change(metrics, *end, value=blocks(1.5))
    deep = "`base` has the lowest loss. Of deepened models it is `llama_pro`, which is above the"
    assert re.search(f"{deep} .*; not told apart from it: `lesa`", said(metrics))


def test_models_of_few_seeds_are_put_in_no_order(tmp_path: Path) -> None:
    metrics = write(tmp_path, optional=False)
    for name, loss in (("base", 2.5), ("llama_pro", 2.75)):
        change(metrics, f"pretrain/{name}", "steps", -1, "block_losses", value=blocks(loss))
    text = said(metrics)
    found = re.search(
        r"`base` has the lowest mean loss; of deepened models `llama_pro`, (.*)", text
    )
    assert found
    assert found[1].startswith("0.250 nats above it; fewer than 3 seeds tell no order.")


@pytest.mark.parametrize(
    ("source", "here"),
    [("a/model.Q4_1.gguf of a wheel", "rounded to 4 bits (Q4_1)"), ("a/model", "as its source")],
)
def test_what_differs_is_read_from_the_files(source: str, here: str, tmp_path: Path) -> None:
    metrics = write(tmp_path, optional=False)
    change(metrics, "base", "source", value=source)
    change(metrics, "pretrain/solar", "dtype", value="bfloat16")
    rows = {r["what"]: r for r in summary.differences(measured.load(metrics, params())).rows}
    assert str(rows["weights"]["here"]).startswith(here)
    assert rows["precision"]["here"] == "bfloat16, float32 for training"
    assert "40 steps, 81,920 tokens" in str(rows["budget"]["here"])
    assert "450,000 training tokens" in str(rows["text"]["here"])


# --- figures


def test_training_curves_are_means_over_steps_with_a_band_of_seeds(
    made: tuple[Path, Metrics],
) -> None:
    folder, m = made
    figure = paper_figures.training_loss(m)
    assert figure is not None
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert set(lines) == {"base", "lesa", "llama_pro", "solar"}
    losses = np.array(
        [[row["loss"] for row in content(folder, f"budget/lesa-{s}")["train"]] for s in SEEDS]
    )
    width = 5  # an eighth of 40 steps
    means = np.lib.stride_tricks.sliding_window_view(losses, width, axis=1).mean(2)
    x, y = (np.asarray(values) for values in lines["lesa"].get_data())
    assert np.allclose(y, means.mean(0))
    assert np.allclose(x, np.arange(3, 39))  # the middle of steps 1 to 5, 2 to 6, …
    band = figure.axes[0].collections[list(lines).index("lesa")].get_paths()[0].vertices
    assert band is not None
    assert np.asarray(band)[:, 1].max() == pytest.approx(means.max(0).max())


def test_what_trains_is_drawn_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    (metrics / "budget" / "lesa_all-0.json").unlink()
    figure = paper_figures.freezing(measured.load(metrics, params()))
    assert figure is not None
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    for name, words in (("lesa", "new layers alone"), ("lesa_all", "every layer")):
        losses = [
            [row["loss"] for row in content(metrics, f"budget/{name}-{seed}")["train"]]
            for seed in SEEDS[1:]
        ]
        means = np.lib.stride_tricks.sliding_window_view(losses, 5, axis=1).mean(2)
        assert np.allclose(np.asarray(lines[words].get_ydata()), means.mean(0))
    for seed in SEEDS[1:]:
        (metrics / "budget" / f"lesa_all-{seed}.json").unlink()
    assert paper_figures.freezing(measured.load(metrics, params())) is None


def test_a_training_curve_after_a_fit_stands_at_its_own_steps(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for seed in SEEDS:
        rows = content(metrics, f"budget/lesa-{seed}")["train"][8:]
        change(metrics, f"budget/lesa-{seed}", "train", value=rows)
    figure = paper_figures.training_loss(measured.load(metrics, params()))
    assert figure is not None
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    x = np.asarray(lines["lesa"].get_xdata())
    assert np.allclose(x, np.arange(10.5, 39))  # the middle of steps 9 to 12, …


def test_predictor_curves_are_drawn_where_they_are_saved(tmp_path: Path) -> None:
    metrics = write(tmp_path, optional=False)
    assert paper_figures.predictor_curves(measured.load(metrics, params())) is None
    curve = [
        {"epoch": epoch, "fitted_mse": 3.0 - epoch, "heldout_mse": 4.0 - epoch, "zero_mse": 2.0}
        for epoch in range(3)
    ]
    change(metrics, "fit/paper-0", "kinds", "q_proj", "curve", value=curve)
    own_zero = ("kinds", "q_proj", "heldout", "fitted", "zero_mse")
    change(metrics, "fit/paper-0", *own_zero, value=4.0)
    figure = paper_figures.predictor_curves(measured.load(metrics, params()))
    assert figure is not None
    (axes,) = figure.axes
    heldout, fitted, _ = axes.lines
    assert axes.get_title() == "paper"
    assert list(heldout.get_ydata()) == [2.0, 1.5, 1.0]  # type: ignore[arg-type]
    assert list(fitted.get_ydata()) == [0.75, 0.5, 0.25]  # type: ignore[arg-type]


def test_continuity_shows_gate_proj_first_and_nothing_without_it(tmp_path: Path) -> None:
    m = measured.load(write(tmp_path, optional=False, layers=8), params())
    figure = paper_figures.continuity(m)
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["gate_proj", *(kind for kind in KINDS if kind != "gate_proj")]
    few = [kind for kind in KINDS if kind != "gate_proj"]
    m = measured.load(write(tmp_path / "b", optional=False, layers=8, kinds=few), params())
    assert paper_figures.continuity(m) is None
