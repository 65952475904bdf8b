"""Each claim's rule on both sides of its threshold, between them, and with nothing measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesa.files import read_json, write_json
from lesa.params import Params
from reports import claims, measured, paper_tables
from reports.claims import Finding, Verdict, c10_norm_term
from reports.claims.c01_continuity import verdict as of_p
from reports.paired import Interval
from tests.test_report_synthetic import (
    DOCUMENTS,
    DRAWS,
    KINDS,
    MODELS,
    blocks,
    budget_run,
    change,
    official_study,
    params,
    rates_study,
    save,
    start_row,
    write,
)

HOLDS, FAILS, UNDECIDED, CANNOT = Verdict
Change = tuple[Any, ...]  # a metrics file, keys into it, and the value to put there
Case = tuple[str, str, Verdict, list[Change]]  # a claim's module, a subject, its verdict, why

PATH = np.cumsum(np.abs(np.random.default_rng(0).normal(size=(30, 12))), axis=0)
FAR = PATH[np.arange(30).reshape(2, 15).T.ravel()]  # 0, 15, 1, 16, …: neighbours lie far apart


def rows(gate: Any, others: Any = PATH) -> list[Change]:
    given = {kind: gate if kind == "gate_proj" else others for kind in KINDS}
    return [("svd", kind, "top_rows", value.tolist()) for kind, value in given.items()]


def mse(*values: float) -> list[Change]:
    """Test MSE of the kinds in turn, every seed of `paper`; its training MSE and zero's are 1."""
    found: list[Change] = []
    for seed in range(3):
        for i, kind in enumerate(KINDS):
            at = (f"fit/paper-{seed}", "kinds", kind, "heldout")
            found.append((*at, "mse", values[i % len(values)]))
            found += [(*at, "fitted", "mse", 1.0), (*at, "zero_mse", 1.0)]
    return found


def losses(model: str, index: int, loss: float, spread: float = 0.0) -> list[Change]:
    """Block losses of a model; `spread` makes every second document lose that much more or less."""
    sign = np.where(np.arange(24) // 2 % 2, 1.0, -1.0)
    value = (np.array(blocks(loss)) + spread * sign).tolist()
    return [(f"pretrain/{model}", "steps", index, "block_losses", value)]


def starts(lesa: float, llama_pro: float, solar: float, spread: float = 0.0) -> list[Change]:
    rest = [*losses("llama_pro", 0, llama_pro), *losses("solar", 0, solar)]
    return [*losses("lesa", 0, lesa, spread), *rest]


def halves(loss: float, seconds: float, spread: float = 0.0) -> list[Change]:
    """LESA's loss at half of its steps and seconds of all; the baselines end at 3 after 12 s."""
    found = losses("lesa", 4, loss, spread)
    for name in MODELS:
        found += losses(name, -1, 3.0)
        found += [(f"pretrain/{name}", "seconds", 10.0), (f"pretrain/{name}", "prefix_seconds", 2)]
    return [*found, ("pretrain/lesa", "seconds", seconds)]


def ends(lesa: float, spread: float = 0.0) -> list[Change]:
    """LESA's loss at the end; the baselines' is 3."""
    rest = [*losses("llama_pro", -1, 3.0), *losses("solar", -1, 3.0)]
    return [*losses("lesa", -1, lesa, spread), *rest]


def steps(llama_pro: list[float], lesa: list[float]) -> list[Change]:
    at = ("benchmarks/training_steps", "methods")
    return [(*at, "llama_pro", "seconds", llama_pro), (*at, "lesa", "seconds", lesa)]


def norm_ratios(paper: float, *no_norm_term: float) -> list[Change]:
    found: list[Change] = []
    for i, kind in enumerate(KINDS):
        value = no_norm_term[i % len(no_norm_term)]
        found += [("fit/paper-0", "kinds", kind, "train", "norm_ratio", paper)]
        found += [("fit/no_norm_term-0", "kinds", kind, "train", "norm_ratio", value)]
    return found


def raw(loss: float, spread: float = 0.0) -> list[Change]:
    sign = np.where(np.arange(24) // 2 % 2, 1.0, -1.0)
    found = (np.array(blocks(loss)) + spread * sign).tolist()
    names = ("lesa_raw", "lesa_raw_1", "lesa_raw_2")
    return [(f"start/{name}", "block_losses", found) for name in names]


C6_LESA = [2.0, 2.1, 1.9, 2.05, 1.95]
CASES: list[Case] = [
    ("c01_continuity", "gate_proj", HOLDS, rows(PATH, FAR)),
    ("c01_continuity", "gate_proj", FAILS, rows(FAR)),
    ("c01_continuity", "this run", CANNOT, rows(PATH[:4])),  # 2/4! is above 0.05
    ("c02_generalisation", "preset paper, 3 seeds", HOLDS, mse(1.05)),
    ("c02_generalisation", "preset paper, 3 seeds", FAILS, mse(1.11)),
    ("c02_generalisation", "preset paper, 3 seeds", UNDECIDED, mse(0.8, 1.4)),
    ("c02_generalisation", "preset paper, 3 seeds: better than zero", FAILS, mse(1.05)),
    ("c02_generalisation", "preset paper, 3 seeds: better than zero", HOLDS, mse(0.99)),
    ("c02_generalisation", "triples of variants", CANNOT, []),
    # Six kinds of 3.25 s each and this one: 299.75 s and 300 s.
    (
        "c03_fit_time",
        "preset paper",
        HOLDS,
        [("fit/paper-2", "kinds", "q_proj", "seconds", 280.25)],
    ),
    ("c03_fit_time", "preset paper", FAILS, [("fit/paper-2", "kinds", "q_proj", "seconds", 280.5)]),
    ("c04_initial_loss", "this run against llama_pro", HOLDS, starts(2.99, 3.0, 3.0)),
    ("c04_initial_loss", "this run against llama_pro", FAILS, starts(3.0, 3.0, 3.1)),
    ("c04_initial_loss", "this run against solar", HOLDS, starts(3.0, 3.0, 3.1)),
    ("c04_initial_loss", "this run against solar", UNDECIDED, starts(3.0, 3.0, 3.1, spread=0.5)),
    ("c04_initial_loss", "preset paper against SOLAR", HOLDS, []),
    ("c04_initial_loss", "preset official_code against SOLAR", FAILS, []),
    ("c05_half_cost", "lesa at half of 40 steps against solar", HOLDS, halves(2.99, 9.99)),
    ("c05_half_cost", "lesa at half of 40 steps against solar", FAILS, halves(3.01, 9.99)),
    ("c05_half_cost", "lesa at half of 40 steps against solar", UNDECIDED, halves(2.99, 9.9, 0.5)),
    ("c05_half_cost", "lesa's own schedule of 20 steps against solar", HOLDS, []),
    ("c05_half_cost", "lesa's own schedule of 20 steps against llama_pro", FAILS, []),
    ("c05_half_cost", "this run", CANNOT, [("pretrain/lesa", "steps", 4, "step", 19)]),
    ("c05_half_cost", "this run", CANNOT, [("pretrain/lesa", "steps", -1, "tokens", 1)]),
    # LESA's frozen layers cost 0.5 s a step, LLaMA Pro has none.
    ("c06_training_time", "llama_pro", HOLDS, steps([s + 0.6 for s in C6_LESA], C6_LESA)),
    ("c06_training_time", "llama_pro", FAILS, steps([s + 0.4 for s in C6_LESA], C6_LESA)),
    ("c06_training_time", "llama_pro", UNDECIDED, steps([2.2, 2.9, 2.2, 2.9, 2.6], C6_LESA)),
    ("c07_initial_perplexity", "preset paper", HOLDS, []),
    ("c07_initial_perplexity", "preset official_code", UNDECIDED, []),  # 1 of 8: up to 0.53
    (
        "c07_initial_perplexity",
        "preset official_code",
        FAILS,
        [("start/lesa-official_code-7", "block_losses", blocks(4.0))],  # 0 of 8: up to 0.37
    ),
    ("c07_initial_perplexity", "preset paper, the code's perplexity", HOLDS, []),
    (
        "c07_initial_perplexity",
        "preset paper, the code's perplexity",
        FAILS,
        [("start/solar", "document_perplexity", 1.0)],
    ),
    ("c07_initial_perplexity", "this run's draw", HOLDS, starts(3.0, 3.0, 3.1)),
    ("c07_initial_perplexity", "this run's draw", FAILS, starts(3.2, 3.0, 3.1)),
    ("c07_initial_perplexity", "this run", CANNOT, [("base", "num_hidden_layers", 29)]),
    ("c08_without_svd", "worse than LESA at the start, preset paper", HOLDS, raw(3.9)),
    ("c08_without_svd", "worse than LESA at the start, preset paper", FAILS, raw(2.5)),
    ("c08_without_svd", "worse than LESA at the start, preset paper", UNDECIDED, raw(3.21, 0.5)),
    ("c08_without_svd", "better than LLaMA Pro at the start, preset paper", HOLDS, raw(3.0)),
    ("c08_without_svd", "better than LLaMA Pro at the start, preset paper", FAILS, raw(3.7)),
    ("c08_without_svd", "better than LLaMA Pro after 40 steps", FAILS, []),
    ("c09_without_freezing", "slower: lesa, every layer trained, 40 steps", HOLDS, []),
    ("c09_without_freezing", "fluctuates: lesa, every layer trained, 40 steps", HOLDS, []),
    ("c10_norm_term", "preset paper, seed 0", HOLDS, norm_ratios(0.5, 0.24)),
    ("c10_norm_term", "preset paper, seed 0", FAILS, norm_ratios(0.5, 0.25)),
    ("c10_norm_term", "preset paper, seed 0", UNDECIDED, norm_ratios(0.5, 0.1, 0.5)),
    ("c10_norm_term", "worse as a model: preset paper", HOLDS, []),
    ("c11_sft_and_code", "code, against solar", CANNOT, []),
    ("c11_sft_and_code", "SFT, against llama_pro", CANNOT, []),
    ("c12_end", "this run against llama_pro", HOLDS, ends(2.99)),
    ("c12_end", "this run against solar", FAILS, ends(3.0)),
    ("c12_end", "this run against solar", UNDECIDED, ends(3.0, spread=0.5)),
    ("c12_end", "lesa after 40 steps against llama_pro", FAILS, []),
    ("c12_end", "lesa after 40 steps against solar", HOLDS, []),
]


def with_no_norm_term() -> Params:
    """Params with a preset of λ = 0 beside the others."""
    tree = params().fit.model_dump()
    tree["presets"]["no_norm_term"] = tree["presets"]["paper"] | {"norm_weight": 0.0}
    tree["runs"]["no_norm_term-0"] = {"preset": "no_norm_term", "seed": 0}
    return params(fit=tree)


def metrics_with(folder: Path, changes: list[Change], optional: bool = True) -> Path:
    metrics = write(folder, optional=optional)
    (metrics / "fit/no_norm_term-0.json").write_bytes((metrics / "fit/paper-0.json").read_bytes())
    change(metrics, "fit/no_norm_term-0", "preset", value="no_norm_term")
    for file, *keys, value in changes:
        change(metrics, file, *keys, value=value)
    return metrics


def findings(name: str, metrics: Path) -> dict[str, Finding]:
    claim = claims.judge_one(name, measured.load(metrics, with_no_norm_term()))
    return {finding.subject: finding for finding in claim.findings}


@pytest.mark.parametrize(("name", "subject", "verdict", "changes"), CASES)
def test_a_finding_has_the_verdict_of_its_rule(
    name: str, subject: str, verdict: Verdict, changes: list[Change], tmp_path: Path
) -> None:
    metrics = metrics_with(tmp_path, changes)
    if name == "c05_half_cost" and subject.startswith("lesa at"):
        (metrics / "benchmarks/training_steps.json").unlink()  # the stages' own seconds then
    found = findings(name, metrics)
    assert found[subject].verdict == verdict, found[subject]


def test_benchmarks_of_one_seed_decide_nothing(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [])
    official_study(metrics)
    own = json.loads((metrics / "official/base-init.json").read_text())
    save(metrics, "official/solar-trained", own | {"model": "solar", "phase": "trained"})
    found = findings("c12_end", metrics)["benchmarks, trained, 40 steps against solar"]
    assert found.said.startswith("LESA minus SOLAR 50 [")  # points: it has all, SOLAR every second
    assert (found.verdict, found.few) == (UNDECIDED, True)


def test_benchmarks_of_three_seeds_decide(tmp_path: Path) -> None:
    """LESA has all examples and SOLAR every second one, but for a seed that LESA has alone."""
    metrics = metrics_with(tmp_path, [])
    official_study(metrics)
    for seed in range(1, 4):
        for model, source in (("solar", "base-init"), ("lesa", "lesa-trained")):
            own = json.loads((metrics / f"official/{source}.json").read_text())
            own |= {"model": f"{model}-{seed}", "seed": seed, "phase": "trained"}
            if (model, seed) != ("solar", 3):
                save(metrics, f"official/{model}-{seed}-trained", own)
    own = json.loads((metrics / "official/base-init.json").read_text())
    save(metrics, "official/solar-trained", own | {"model": "solar", "phase": "trained"})
    found = findings("c12_end", metrics)["benchmarks, trained, 40 steps against solar"]
    assert found.said.startswith("LESA minus SOLAR 50 [")
    assert found.said.endswith("points, 3 seeds")
    assert (found.verdict, found.few) == (HOLDS, False)


def test_every_claim_is_exercised_on_both_sides() -> None:
    files = {path.stem for path in Path(claims.__file__).parent.glob("c*.py")}
    assert {name for name, *_ in CASES} == files
    assert [f"c{i:02}" for i in range(1, 13)] == sorted(name[:3] for name in files)
    for name in files - {"c09_without_freezing", "c11_sft_and_code"}:  # by themselves below
        found = {verdict for case, _, verdict, _ in CASES if case == name}
        assert {HOLDS, FAILS} <= found, name


def test_verdicts_are_those_of_the_interval() -> None:
    sides = {(-2.0, -1.0): HOLDS, (-1.0, 1.0): UNDECIDED, (1.0, 2.0): FAILS, (0.0, 0.0): FAILS}
    for (low, high), verdict in sides.items():
        assert claims.below(Interval((low + high) / 2, low, high, 12)) == verdict
        assert claims.above(Interval(-(low + high) / 2, -high, -low, 12)) == verdict
    assert claims.every([HOLDS, UNDECIDED, FAILS]) == FAILS
    assert claims.every([HOLDS, UNDECIDED]) == UNDECIDED
    assert claims.every([HOLDS, HOLDS]) == HOLDS
    assert [of_p(p) for p in (0.0499, 0.05, 0.4999, 0.5)] == [HOLDS, UNDECIDED, UNDECIDED, FAILS]


def test_a_case_holds_if_all_of_its_findings_do() -> None:
    """LESA starts at the lowest loss of three if it starts below both."""
    one = [Finding("solar", "", HOLDS, "", case="a"), Finding("llama_pro", "", FAILS, "", case="a")]
    other = [Finding(of, "", HOLDS, "", case="b") for of in ("solar", "llama_pro")]
    assert claims.in_short(one) == "does not hold"
    assert claims.in_short(one + other) == claims.PARTLY
    assert claims.in_short(other) == "holds"
    beaten = [replace(finding, rival=finding.subject) for finding in one]
    assert claims.in_short(beaten) == "does not hold, LESA beats llama_pro in no case"
    beaten.append(Finding("llama_pro", "", UNDECIDED, "", case="c", rival="llama_pro"))
    said = "does not hold, LESA beats llama_pro in no case, in part not decided"
    assert claims.in_short(beaten) == said
    beaten.append(Finding("llama_pro", "", HOLDS, "", case="a", rival="llama_pro"))
    assert claims.in_short(beaten) == "does not hold, in part not decided"


def test_without_svd_is_not_judged_by_few_draws(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, raw(3.9))
    for seed, draws in ((2, "2 draws"), (1, "1 draw")):
        (metrics / f"start/lesa_raw_{seed}.json").unlink()
        found = findings("c08_without_svd", metrics)
        for half in ("worse than LESA", "better than LLaMA Pro"):
            finding = found[f"{half} at the start, preset paper"]
            assert finding.verdict is UNDECIDED
            assert finding.said.endswith(f", {draws}")


def test_more_seeds_of_a_preset_are_judged_with_the_runs_own(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, mse(1.0))
    of = "preset paper, 3 seeds"
    assert findings("c02_generalisation", metrics)[of].verdict is HOLDS
    more = read_json(metrics / "fit/paper-0.json") | {"profile": params().profile, "seed": 7}
    for kind in more["kinds"].values():
        kind["heldout"]["mse"] = 2.2 * kind["heldout"]["fitted"]["mse"]
    write_json(metrics / "fits/paper-7.json", more)
    found = findings("c02_generalisation", metrics)
    assert of not in found
    judged = found["preset paper, 4 seeds"]
    assert judged.said.startswith("test MSE / training MSE 1.3 ")  # three of 1, one of 2.2
    assert judged.sources == "metrics/fit/{paper-0,paper-1,paper-2}.json, metrics/fits/paper-7.json"
    write_json(metrics / "fits/paper-7.json", more | {"profile": "another"})
    assert of in findings("c02_generalisation", metrics)


def test_a_draw_that_is_a_fit_of_this_run_is_counted_once(tmp_path: Path) -> None:
    m = measured.load(metrics_with(tmp_path, norm_ratios(0.5, 0.24)), with_no_norm_term())
    drawn = "preset paper, seed 0, signs largest, study start"
    alone = {f.subject: f.verdict for f in c10_norm_term.of_starts(m, set())}
    assert alone[drawn] is HOLDS
    judged = {f.subject for f in c10_norm_term.findings(m)}
    assert "preset paper, seed 0" in judged
    assert drawn not in judged


def test_what_stands_beside_is_not_judged() -> None:
    found = [Finding(of, "", HOLDS, "") for of in "ab"] + [Finding("c", "", FAILS, "", beside=True)]
    assert claims.in_short(found) == "holds"
    assert claims.in_short([Finding("a", "", UNDECIDED, "")]) == "not decided"


def test_an_identity_start_is_named_as_one(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [*losses("base", 0, 3.0), *starts(3.2, 3.0, 3.5)])
    found = findings("c04_initial_loss", metrics)
    assert "starts as the base itself" in found["this run against llama_pro"].said
    assert "starts as the base itself" not in found["this run against solar"].said


def test_lesa_is_held_against_every_start_that_is_no_identity(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [])
    save(metrics, "start/worse", start_row("worse", 6.0, noise=4))
    found = findings("c04_initial_loss", metrics)
    finding = found[of_paper := "every start that is no identity, preset paper"]
    assert finding.beside
    lower, _, _ = finding.said.partition("lower than: ")[2].split("; ")
    assert {"worse", "average", "solar"} <= set(lower.split(", "))
    assert "llama_pro" not in finding.said  # its loss is the base's
    save(metrics, "start/better", start_row("better", 2.0, noise=4))
    own = {"method": "own", "preset": "official_code", "seed": 0}
    save(metrics, "start/own", start_row("own", 6.0, noise=4) | own)
    found = findings("c04_initial_loss", metrics)
    assert found[of_paper].verdict == FAILS
    assert "not lower than: better" in found[of_paper].said
    assert "own" not in found[of_paper].said  # made with the other preset's predictors
    of_code = found["every start that is no identity, preset official_code"].said
    assert "own (official_code)" in of_code
    assert "better" in of_code


def test_extrapolation_to_the_papers_depth_in_closed_form(tmp_path: Path) -> None:
    """The made-up benchmark takes 1.5 s a triple and epoch: 30 triples, 5 epochs, 225 s."""
    name = "preset paper at Llama-3-8B's 32 layers on 3 cores of made-up"
    finding = findings("c03_fit_time", metrics_with(tmp_path, []))[name]
    assert finding.verdict == HOLDS
    assert finding.said.startswith("extrapolated, not measured: 225 s, by a line")
    slow = ("benchmarks/depth", "depths", 1, "fit_seconds", {"q_proj": 30.0})
    finding = findings("c03_fit_time", metrics_with(tmp_path / "slow", [slow]))[name]
    assert finding.verdict == FAILS


def test_time_is_whole(tmp_path: Path) -> None:
    """What is faster with the cache off the clock alone is not faster."""
    lesa = C6_LESA
    metrics = metrics_with(tmp_path, steps([s + 0.4 for s in lesa], lesa))
    finding = findings("c06_training_time", metrics)["llama_pro"]
    assert finding.verdict == FAILS
    # By hand: medians 2.4 and 2.0 + 0.5, then 2.4 and 2.0; LESA's place stands for identity's.
    assert finding.said.startswith("0.9600 [")
    assert " 1.200 [" in finding.said
    assert "the place of its layers costs -4% of its time" in finding.said
    assert "identity, copies in LESA's gaps" not in findings("c06_training_time", metrics)
    path = metrics / "benchmarks/training_steps.json"
    content = json.loads(path.read_text())
    content["methods"]["identity"] = content["methods"]["lesa"]
    path.write_text(json.dumps(content))
    same = findings("c06_training_time", metrics)["identity, copies in LESA's gaps"]
    assert same.beside
    nothing = "of LESA's steps nothing is seen to be saved but by the place of its layers"
    assert same.said == f"1 [1, 1] of LESA's time: {nothing}"
    metrics = metrics_with(tmp_path / "five", halves(2.9, 9.99))
    (metrics / "benchmarks/training_steps.json").unlink()
    at = "lesa at half of 40 steps against llama_pro"
    assert findings("c05_half_cost", metrics)[at].verdict == HOLDS  # (9.99 + 2) / 2 < 12 / 2
    change(metrics, "pretrain/lesa", "prefix_seconds", value=2.02)
    assert findings("c05_half_cost", metrics)[at].verdict == FAILS


PARTS = ("slower", "fluctuates")  # of claim C9


def test_training_all_layers_is_judged_on_the_same_batches(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [])
    for seed in range(3):  # the same curve, and noise of the same size: neither slower nor rougher
        same = budget_run("lesa_all", seed, 3.1 + 0.01 * seed, method="lesa", preset="paper")
        same |= {"trains": "all", "train": budget_run("any", seed + 50, 3.1)["train"]}
        save(metrics, f"budget/lesa_all-{seed}", same)
    found = findings("c09_without_freezing", metrics)
    assert found["slower: lesa, every layer trained, 40 steps"].verdict == FAILS
    assert found["fluctuates: lesa, every layer trained, 40 steps"].verdict == UNDECIDED
    for seed in range(3):
        calm = budget_run("lesa_all", seed, 3.0, method="lesa", preset="paper", trains="all")
        for row in calm["train"]:
            row["loss"] = 3.4 + (row["loss"] - 3.4) / 2
        save(metrics, f"budget/lesa_all-{seed}", calm)
    found = findings("c09_without_freezing", metrics)
    assert {finding.verdict for finding in found.values()} == {FAILS}


def search_finds(metrics: Path, model: str, rate: float) -> None:
    """A search of study rates for a model of study budget, of which `rate` is the best."""
    rates_study(metrics)
    own = json.loads((metrics / "rates/budget-lesa.json").read_text())
    found = {"model": model, "run": f"{model}-0", "best": rate}
    save(metrics, f"rates/budget-{model}", own | found)


def test_a_rate_that_was_not_sought_favours_the_claim_of_freezing(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [])
    for seed in range(3):
        run = budget_run("lesa_all", seed, 3.0, method="lesa", preset="paper", trains="all")
        save(metrics, f"budget/lesa_all-{seed}", run | {"learning_rate": 1e-4})
    found = findings("c09_without_freezing", metrics)
    said = {part: found[f"{part}: lesa, every layer trained, 40 steps"].said for part in PARTS}
    assert all("rate 0.0001 against 0.001, not sought for it" in text for text in said.values())
    assert said["slower"].endswith(", which favours the claim")
    name = "fluctuates: lesa, every layer trained, 40 steps"
    for seed in range(3):
        run = budget_run("lesa_all", seed, 3.0, method="lesa", preset="paper", trains="all")
        run["train"] = budget_run("lesa", seed, 3.0)["train"]
        save(metrics, f"budget/lesa_all-{seed}", run | {"learning_rate": 1e-4})
    smooth = findings("c09_without_freezing", metrics)[name]
    assert smooth.verdict == UNDECIDED
    assert smooth.said.endswith(", not sought for it, which makes it smoother")
    search_finds(metrics, "lesa_all", 1e-4)
    assert findings("c09_without_freezing", metrics)[name].verdict == FAILS


def test_raw_weights_are_judged_at_a_rate_of_which_it_is_said_whether_it_was_sought(
    tmp_path: Path,
) -> None:
    metrics = metrics_with(tmp_path, [])
    name = "worse than LESA after 40 steps"
    copied = findings("c08_without_svd", metrics)[name]
    assert copied.said.endswith("seeds, rate 0.001, not sought for it")
    search_finds(metrics, "lesa_raw", 1e-3)
    sought = findings("c08_without_svd", metrics)[name]
    assert sought.said.endswith("seeds, rate 0.001")


def test_training_all_layers_is_judged_at_every_budget(tmp_path: Path) -> None:
    """The longer schedule by itself, and in the table, which leaves out what was not run there."""
    metrics = metrics_with(tmp_path, [])
    for name in ("lesa", "lesa_all"):
        for seed in range(3):
            run = json.loads((metrics / f"budget/{name}-{seed}.json").read_text())
            run["steps"][-1]["step"] = run["max_steps"] = 120
            save(metrics, f"budget/{name}_120-{seed}", run)
    found = findings("c09_without_freezing", metrics)
    for steps in (40, 120):
        assert found[f"slower: lesa, every layer trained, {steps} steps"].verdict == HOLDS
    rows = paper_tables.freezing(measured.load(metrics, with_no_norm_term()), {}).rows
    assert [(row["trained"], row["steps"]) for row in rows] == [
        ("new layers alone", 40),
        ("every layer", 40),
        ("new layers first, then every layer", 40),
        ("new layers alone", 120),
        ("every layer", 120),
    ]


@pytest.mark.parametrize("study", ["code", "sft"])
def test_code_and_sft_are_paired_by_group(study: str, tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [])
    common: dict[str, Any] = {"groups": DOCUMENTS, "ids": [str(i) for i in range(24)]}
    common |= {"bytes": [100] * 24, "targets": [30] * 24}
    run = json.loads((metrics / "pretrain/lesa.json").read_text())
    for model, loss in (("lesa", 1.0), ("llama_pro", 1.1), ("solar", 0.9)):
        nats = {"start": blocks(2.0), "end": blocks(loss)}
        for seed, ending in enumerate(("", "-1", "-2")):
            content = run | {"seed": seed, "heldout": common | {"nats": nats}}
            save(metrics, f"{study}/{model}{ending}", content)
    name = {"code": "code", "sft": "SFT"}[study]
    found = findings("c11_sft_and_code", metrics)
    assert found[f"{name}, against llama_pro"].verdict == HOLDS
    assert found[f"{name}, against solar"].verdict == FAILS
    # By hand: 0.1 nats over 100 bytes in bits, or over 30 tokens; 12 groups of two.
    unit = {"code": -0.1 / 100 / np.log(2), "sft": -0.1 / 30}[study]
    said = found[f"{name}, against llama_pro"].said
    assert float(said.split()[3]) == pytest.approx(unit, rel=0.02)
    assert said.endswith(f"over 12 {'packages' if study == 'code' else 'modules'}, 3 seeds")
    for model in ("lesa", "llama_pro", "solar"):  # two groups are too few
        (metrics / study / f"{model}-2.json").unlink()
        for ending in ("", "-1"):
            change(metrics, f"{study}/{model}{ending}", "heldout", "groups", value=["a", "b"] * 12)
    of_two = findings("c11_sft_and_code", metrics)[f"{name}, against llama_pro"]
    assert of_two.said.endswith("over 24 examples, 2 seeds")
    assert of_two.verdict is UNDECIDED


def test_variants_are_judged_by_either_split(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [])

    for split, test in (("random", 1.0), ("layer", 1.5)):
        of_test = {"mse": test, "zero_mse": 1.2, "explained_variance": 0.0}
        scores = {"train": {"mse": 1.0}, "test": of_test}
        own = {"seeds": dict.fromkeys("01", scores), "distance": {}, "nearest_copy_mse": None}
        content = {"split": split, "basis": "own", "kinds": dict.fromkeys(KINDS, own)}
        content |= {"triples": {"train": 1, "test": 1}}
        save(metrics, f"variants/parity-{split}-own", content)
    save(metrics, "variants/wiki_0", {"steps": []})  # how a variant was trained
    found = findings("c02_generalisation", metrics)
    for split, verdict in (("at random", HOLDS), ("by layer, this project's harder test", FAILS)):
        subject = f"triples of variants, split {split}, basis own"
        assert found[subject].verdict == found[f"{subject}: better than zero"].verdict == verdict


def test_without_studies_each_claim_names_the_command(tmp_path: Path) -> None:
    metrics = metrics_with(tmp_path, [], optional=False)
    judged = {claim.id: claim for claim in claims.judge(measured.load(metrics, params()))}
    for claim, study in (
        ("C4", "start"),
        ("C5", "budget"),
        ("C7", "start"),
        ("C8", "start"),
        ("C8", "budget"),
        ("C9", "budget"),
        ("C10", "start"),
        ("C11", "code"),
        ("C11", "sft"),
    ):
        said = [f.said for f in judged[claim].findings if f.verdict == CANNOT]
        assert any(f"`make study NAME={study}`" in text for text in said), (claim, said)
    for one in judged.values():
        for finding in one.findings:
            assert "not tested" not in one.verdict + finding.said
            assert (finding.verdict == CANNOT) == (finding.said.count("`") == 2)


def test_claims_of_a_run_without_the_baselines_say_so(tmp_path: Path) -> None:
    """A profile's models are its methods: files of models it does not list are not read."""
    metrics = write(tmp_path, optional=False)
    (metrics / "pretrain/solar.json").write_text("not even JSON")
    methods = {"base": {"method": "base"}, "mine": {"method": "lesa"}}
    for stage in ("expand", "pretrain", "evaluate/init", "evaluate/trained"):
        change(metrics, f"{stage}/lesa", "model", value="mine")
        (metrics / stage / "lesa.json").rename(metrics / stage / "mine.json")
    run = measured.load(metrics, params(methods=methods))
    found = {claim.id: claim for claim in claims.judge(run)}
    assert list(run.pretrain) == ["base", "mine"]
    for claim in ("C4", "C5"):
        (finding,) = [f for f in found[claim].findings if f.subject == "this run"]
        assert finding.said.startswith("no model of this run is made by llama_pro, solar; ")
    assert found["C7"].verdict == CANNOT


def test_a_preset_that_is_not_fitted_is_left_out(tmp_path: Path) -> None:
    tree = params().fit.model_dump()
    tree["presets"]["unused"] = tree["presets"]["paper"] | {"norm_weight": 0.0}
    run = measured.load(write(tmp_path, optional=False), params(fit=tree))
    found = claims.judge_one("c10_norm_term", run)
    assert found.verdict == CANNOT
    assert "unused" not in str(found.findings)


def test_made_up_draws_are_what_the_cases_say() -> None:
    assert sum(loss < 3.55 for loss in DRAWS["paper"]) == 8
    assert sum(loss < 3.55 for loss in DRAWS["official_code"]) == 1


def test_the_first_screen_shows_what_decides_a_verdict() -> None:
    """Against each rival the first finding, whatever it says, else of each verdict the first; what
    stands beside decides nothing."""
    found = [
        Finding("beside", "", HOLDS, "", beside=True, number="0"),
        Finding("one", "", FAILS, "", number="1", case="a", rival="x"),
        Finding("two", "", HOLDS, "", number="2", case="a", rival="y"),
        Finding("three", "", FAILS, "", number="3", case="b", rival="x"),
        Finding("four", "", FAILS, "", number="4", case="b", rival="y"),
    ]

    def row(findings: list[Finding]) -> dict[str, Any]:
        claim = claims.Claim("C1", "long", "short", "section", "5.27", "rule", findings)
        return dict(claims.in_brief([claim]).rows[0])

    assert row(found) == {
        "id": "C1",
        "claim": "short",
        "verdict here": "does not hold, LESA beats x in no case",
        "paper": "5.27",
        "here": "holds: two: 2; does not hold: one: 1",
    }
    few = claims.of_enough(Finding("few", "", FAILS, "", number="0", case="c", rival="y"), 2)
    assert row([few, *found])["here"] == row(found)["here"]  # of two seeds it decides nothing
    part = row([*found, Finding("five", "said", HOLDS, "")])
    assert part["verdict here"] == claims.PARTLY
    assert part["here"] == "holds: two: 2; holds: five: said; does not hold: one: 1"
