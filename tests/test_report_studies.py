"""Tables of the studies against numpy, scipy and closed forms."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from lesa.files import write_json
from reports import (
    budget,
    conclusions,
    consistency,
    contest,
    controls,
    ends,
    figures,
    measured,
    official,
    paired,
    rates,
    removal,
    render,
    scale,
    speed,
    start,
    summary,
    tables,
    training_runs,
    tries,
)
from reports.claims import c05_half_cost, c11_sft_and_code
from reports.measured import Metrics
from reports.paired import Interval
from tests.test_report_synthetic import (
    DRAWS,
    change,
    checked,
    machine,
    params,
    rates_study,
    save,
    save_start,
    scale_study,
    start_row,
    write,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    folder = write(tmp_path_factory.mktemp("studies"))
    return folder, measured.load(folder, params())


def test_the_distribution_of_draws(made: tuple[Path, Metrics]) -> None:
    paper, official_code = start.distributions(made[1]).rows
    assert (paper["preset"], official_code["preset"]) == ("paper", "official_code")
    for row in (paper, official_code):
        perplexities = np.exp(DRAWS[str(row["preset"])])
        assert row["draws"] == 8
        assert row["median"] == pytest.approx(np.median(perplexities))
        assert row["upper quartile"] == pytest.approx(np.quantile(perplexities, 0.75))
        assert (row["smallest"], row["largest"]) == (perplexities.min(), perplexities.max())
        assert row["rank correlation with the constant row"] == pytest.approx(1.0)
    share = official_code["share below SOLAR"]
    exact = stats.binomtest(1, 8).proportion_ci()
    assert isinstance(share, Interval)
    assert (share.low, share.high) == pytest.approx((exact.low, exact.high))


def test_draws_that_share_a_seed_are_found_alike() -> None:
    """The textbook's one-way analysis of variance, and no verdict where nothing is shared."""
    generator = np.random.default_rng(0)

    def drawn(by_seed: float) -> start.Start:
        rows = [
            {"seed": seed, "signs": signs, "block_losses": [3 + by_seed * seed + noise] * 2,
             "heldout_documents": ["a", "b"]}
            for seed in range(5)
            for signs, noise in enumerate(generator.normal(size=4))
        ]  # fmt: skip
        return start.Start("lesa", "paper", "", "", rows)

    far, near = drawn(5.0), drawn(0.0)
    losses = far.losses.reshape(5, 4)
    between = 4 * ((losses.mean(axis=1) - losses.mean()) ** 2).sum() / 4
    within = ((losses - losses.mean(axis=1, keepdims=True)) ** 2).sum() / 15
    expected = stats.f.sf(between / within, 4, 15)
    assert start.f_test_p(far, "seed") == pytest.approx(expected)
    assert expected < 1e-6 < 0.05 < (start.f_test_p(near, "seed") or 0.0)
    assert (start.f_test_p(far, "signs") or 0.0) > 0.5
    alone = start.Start("lesa", "paper", "", "", near.rows[:1])
    assert start.f_test_p(alone, "seed") is None


def test_starts_are_told_apart_by_what_made_them(made: tuple[Path, Metrics]) -> None:
    rows = {row["start"]: row for row in start.methods(made[1]).rows}
    assert set(rows) == {
        "average",
        "base",
        "constant_row (official_code)",
        "constant_row (paper)",
        "lesa (official_code)",
        "lesa (paper)",
        "lesa (paper, norm_weight=0.0)",
        "lesa (paper, without SVD)",
        "llama_pro",
        "noise (paper)",
        "solar",
    }
    assert rows["lesa (paper)"]["draws"] == 8
    assert rows["lesa (paper)"]["norm ratio of predictions"] == pytest.approx(0.5)
    assert rows["base"]["loss, minus the base's"] == Interval(0.0, 0.0, 0.0, 12)
    assert rows["llama_pro"]["loss, minus the base's"] == Interval(0.0, 0.0, 0.0, 12)


def test_a_start_elsewhere_is_another_start(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    change(metrics, "start/lesa-paper-7", "gaps", value={"first": 0, "last": 14})
    change(metrics, "start/lesa-paper-6", "gaps", value={"first": 14, "last": 28})  # as the params
    change(metrics, "start/lesa-paper-4", "gaps", value={"after": [0, 2, 28]})
    change(metrics, "start/lesa-paper-5", "options", value={"unpredicted": "neighbours"})
    found = {s.name: len(s.rows) for s in start.starts(measured.load(metrics, params()))}
    assert found["lesa (paper)"] == 5
    assert found["lesa (paper, gaps 0 to 14)"] == found["lesa (paper, 3 gaps from 0 to 28)"] == 1
    assert found["lesa (paper, unpredicted=neighbours)"] == 1


def test_draws_of_two_starts_are_paired_by_seed_and_signs(made: tuple[Path, Metrics]) -> None:
    lesa, constant = (
        next(s for s in start.starts(made[1]) if s.name == f"{method} (paper)")
        for method in ("lesa", "constant_row")
    )
    found = start.matched(lesa, constant)
    raw = [
        [
            json.loads((made[0] / f"start/{method}-paper-{seed}.json").read_text())["block_losses"]
            for seed in range(8)
        ]
        for method in ("lesa", "constant_row")
    ]
    by_hand = (np.array(raw[0]) - np.array(raw[1])).reshape(8, 12, 2).mean(2)
    assert np.allclose(np.sort(found.mean(1)), np.sort(by_hand.mean(1)))
    assert start.difference(lesa, constant).estimate == pytest.approx(by_hand.mean())
    assert np.array_equal(start.matched(constant, lesa).mean(), -found.mean())


def test_runs_of_seeds_are_one_row(made: tuple[Path, Metrics]) -> None:
    rows = {(row["run"], row["steps"]): row for row in budget.table(made[1]).rows}
    names = {"base", "llama_pro", "solar", "identity", "lesa", "lesa_all", "lesa_raw"}
    assert set(rows) == {(name, 40) for name in names} | {("lesa_half", 20)}
    lesa = rows["lesa", 40]
    assert lesa["seeds"] == 3
    assert lesa["final loss"] == pytest.approx(3.11)  # 3.10, 3.11 and 3.12
    assert lesa["whole seconds"] == 120.0
    gap = checked(Interval, lesa["minus LLaMA Pro's"])
    assert gap.estimate == pytest.approx(0.05)
    assert (gap.low, gap.high) == pytest.approx((0.05, 0.05))  # the same in each document and seed


def test_tokens_to_a_loss_in_closed_form(made: tuple[Path, Metrics]) -> None:
    """Straight lines from 3.4: the base, falling by 0.4, is at LLaMA Pro's 3.05 after 7/8."""
    rows = {row["run"]: row for row in budget.table(made[1]).rows}
    title = "tokens to LLaMA Pro's final loss, over its tokens"
    base, lesa, own = (rows[name][title] for name in ("base", "lesa", "llama_pro"))
    assert isinstance(base, Interval)
    assert isinstance(lesa, Interval)
    assert own is None
    assert base.estimate == pytest.approx(
        0.34 / 0.39, rel=0.02
    )  # a mean over seeds of 3.06 and 3.01
    assert lesa.estimate == lesa.high == math.inf  # it ends above
    crossing = training_runs.crossing(np.array([0.0, 10.0, 20.0]), np.array([3.0, 2.0, 1.0]), 1.75)
    assert crossing == pytest.approx(12.5)
    assert training_runs.crossing(np.array([0.0, 10.0]), np.array([3.0, 2.0]), 3.5) == 0.0


def test_gaps_at_every_budget(made: tuple[Path, Metrics]) -> None:
    rows = {(row["run"], row["minus"]): row for row in budget.gaps(made[1]).rows}
    assert [rival for _, rival in rows] == ["llama_pro", "identity", "solar", "base"]
    _, _, *tokens = rows["lesa", "identity"]
    assert tokens == ["0", "20,480", "40,960", "61,440", "81,920"]
    found = [rows["lesa", "identity"][name] for name in tokens]
    slopes = [interval.estimate for interval in found if isinstance(interval, Interval)]
    assert slopes == pytest.approx([0.0, 0.015, 0.03, 0.045, 0.06])


def test_warnings_of_rates_name_the_runs_they_are_of(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    m = measured.load(metrics, params())
    line = "metrics/grid/lesa.json: chosen on something else"
    of = {"rate_warnings": [line]}
    warned = replace(m, pretrain=m.pretrain | {"lesa": m.pretrain["lesa"] | of}, sft={"solar": of})
    assert conclusions.rates(warned) == [f"lesa, sft/solar: {line}"]
    assert conclusions.rates(m) == []


def test_this_projects_own_models_stand_apart(made: tuple[Path, Metrics]) -> None:
    m = made[1]
    assert budget.own_gaps(m).rows == []
    named = {f"llama_pro_lora-{s}": m.budget[f"lesa-{s}"] for s in (0, 1, 2)}
    own = {n: run | {"run": n, "trains": "lora"} for n, run in named.items()}
    rows = budget.own_gaps(replace(m, budget=m.budget | own)).rows
    assert {row["run"] for row in rows} == {"llama_pro_lora"}
    assert "lesa" in {row["minus"] for row in rows}


def test_the_longer_schedule_shows_places_and_what_lesa_overtakes(tmp_path: Path) -> None:
    """By hand: of the longer schedule LESA's runs were lifted by 0.2, identity's by 0.1."""
    metrics = write(tmp_path)
    longer(metrics)
    run = json.loads((metrics / "budget/identity-0.json").read_text())
    for step in run["steps"]:
        step["block_losses"] = (np.array(step["block_losses"]) + 0.5).tolist()
    bottom = {"run": "identity_bottom-0", "gaps": {"first": 0, "last": params().gaps.count - 1}}
    save(metrics, "budget/identity_bottom-0", run | bottom)
    m = measured.load(metrics, params())
    rows = {(row["run"], row["minus"]): row for row in budget.longer_gaps(m).rows}
    assert set(rows) == {("lesa", rival) for rival in ("llama_pro", "identity", "base")}
    _, _, *tokens = rows["lesa", "identity"]
    assert [tokens[0], tokens[-1]] == ["0", "245,760"]
    gaps = [rows["lesa", "identity"][name] for name in tokens]
    slopes = [gap.estimate for gap in gaps if isinstance(gap, Interval)]
    assert slopes == pytest.approx([0.1, 0.115, 0.13, 0.145, 0.16], abs=0.01)
    main, later = "minus LLaMA Pro's after 81,920 tokens", "minus LLaMA Pro's after 245,760 tokens"
    of_place = {row["model"]: row for row in budget.places(m).rows}
    assert list(of_place) == ["identity_bottom", "identity", "llama_pro"]
    assert of_place["llama_pro"][main] == of_place["llama_pro"][later] == ""
    for model, column, known in (
        ("identity_bottom", main, 0.49),
        ("identity", main, -0.01),
        ("identity", later, 0.09),
    ):
        found = checked(Interval, of_place[model][column])
        assert found.estimate == pytest.approx(known, abs=0.01)
    assert of_place["identity_bottom"][later] is None


def test_tokens_to_the_final_loss_of_lesa(made: tuple[Path, Metrics]) -> None:
    """All start at one loss and fall on a line: identity to 3.04 where LESA ends at 3.1."""
    rows = {row["run"]: row for row in budget.table(made[1]).rows}
    column = "tokens to LESA's final loss, over its tokens"
    assert rows["lesa"][column] is None
    start = made[1].budget["lesa-0"]["steps"][0]["heldout_loss"]
    found = checked(Interval, rows["identity"][column])
    assert found.estimate == pytest.approx((start - 3.1) / (start - 3.04), abs=0.02)
    solar = checked(Interval, rows["solar"][column])
    assert solar.estimate == np.inf


def test_other_growths_are_compared_with_llama_pro_of_their_size(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for name in ("llama_pro", "identity"):
        run = json.loads((metrics / f"budget/{name}-0.json").read_text())
        six = {"run": f"{name}_6-0", "gaps": {"first": 0, "last": 5}}
        save(metrics, f"budget/{name}_6-0", run | six)
    m = measured.load(metrics, params())
    rows = {row["run"]: row for row in budget.table(m).rows}
    assert [rows[f"{name}_6"]["new layers"] for name in ("llama_pro", "identity")] == [6, 6]
    assert rows["identity"]["new layers"] == params().gaps.count != 6
    gap = checked(Interval, rows["identity_6"]["minus LLaMA Pro's"])
    assert gap.estimate == pytest.approx(-0.01)
    assert conclusions.other_growths(m) == [
        "With 6 new layers, final loss minus LLaMA Pro's: "
        f"lower: `identity_6` {tables.show_interval(gap)} nats."
    ]
    assert conclusions.other_growths(measured.load(write(tmp_path / "again"), params())) == []


def longer(folder: Path) -> dict[str, list[list[float]]]:
    """Give study budget a schedule of three times the steps, on another machine; final losses of
    its blocks by model, a list a seed."""
    lifts = {"lesa": 0.2, "llama_pro": 0.0, "identity": 0.1, "base": -0.1}
    losses: dict[str, list[list[float]]] = {}
    for name, raised in lifts.items():
        for seed in (0, 1, 2):
            run = json.loads((folder / f"budget/{name}-{seed}.json").read_text())
            machine(folder, f"budget-{name}-{seed}", "cpu")
            for step in run["steps"]:
                step["step"], step["tokens"] = 3 * step["step"], 3 * step["tokens"]
                noise = np.random.default_rng(seed + 10 * len(name)).normal(scale=0.01, size=24)
                step["block_losses"] = (np.array(step["block_losses"]) + raised + noise).tolist()
            losses.setdefault(name, []).append(run["steps"][-1]["block_losses"])
            save(folder, f"budget/{name}_120-{seed}", run | {
                "run": f"{name}_120-{seed}", "max_steps": 3 * run["max_steps"]
            })  # fmt: skip
            machine(folder, f"budget-{name}_120-{seed}", "NVIDIA H100")
    return losses


def test_longer_schedules_are_compared_with_each_other(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    before = budget.table(measured.load(metrics, params())).rows
    losses = longer(metrics)
    m = measured.load(metrics, params())
    best = {run["method"]: run["learning_rate"] for run in m.budget.values()}
    m = replace(m, grid={name: {"best": rate, "max_steps": 120} for name, rate in best.items()})
    table = budget.longer(m)
    rows = {row["model"]: row for row in table.rows}
    assert list(rows) == ["llama_pro", "base", "identity", "lesa"]
    assert list(rows["lesa"]) == [
        "model", "0", "61,440", "122,880", "184,320", "245,760"
    ]  # fmt: skip
    assert rows["llama_pro"]["245,760"] == pytest.approx(np.mean(losses["llama_pro"]))
    gap = checked(Interval, rows["lesa"]["245,760"])
    by_document = np.subtract(losses["lesa"], losses["llama_pro"]).reshape(3, 12, 2).mean(2)
    known = paired.interval(by_document)
    assert (gap.low, gap.high) == pytest.approx((known.low, known.high))
    (said,) = contest.worth(m)
    of_place, of_start = (
        tables.show_interval(
            paired.interval(np.subtract(losses[a], losses[b]).reshape(3, 12, 2).mean(2))
        )
        for a, b in (("identity", "llama_pro"), ("lesa", "identity"))
    )
    assert said == (
        "**LESA up to 245,760 tokens (study `budget`, 3 seeds):** After the start its loss is "
        "above that of `llama_pro` and `identity` at 4 of 4 points, and below none of them at any. "
        "Between them `identity`, copies in LESA's gaps: minus LLaMA Pro, whose layers stand "
        f"elsewhere, {of_place} nats; LESA minus it, which starts elsewhere, {of_start}."
    )
    (line,) = ends.in_short(m)
    assert line.startswith(
        "**In short:** Before training LESA's mean loss is above LLaMA Pro's and below SOLAR's and "
        "that of Gaussian noise of equal norms (preset `paper`, 8 draws, 1 of `noise`). Trained on "
        "this run's text (3 seeds) LESA's loss is above LLaMA Pro's at both budgets, below SOLAR's "
        "after 81,920 tokens. "
    )
    crossed = {
        name: run | {"steps": [s | {"block_losses": [9.0] * 24} for s in run["steps"]]}
        if name.startswith("llama_pro_120")
        else run
        for name, run in m.budget.items()
    }
    (line,) = ends.in_short(replace(m, budget=crossed))
    assert "above LLaMA Pro's after 81,920 tokens and below it after 245,760 tokens" in line
    over = paired.interval(
        np.subtract(losses["llama_pro"], losses["base"]).reshape(3, 12, 2).mean(2)
    )
    assert contest.advice(m) == (
        "**Which to take:** After 245,760 tokens (study `budget`, 3 seeds) `base` has the lowest "
        "loss. Of deepened models it is `llama_pro`, which is above the base trained whole "
        f"({tables.show_interval(over)} nats)."
    )
    rows = {row["model"]: row for row in ends.table(m).rows}
    assert list(rows) == ["base", "llama_pro", "identity"]  # from the lowest end up
    first, second = (f"{n} tokens (study `budget`, 3 seeds)" for n in ("81,920", "245,760"))
    untrained, *trained = list(rows["llama_pro"])[3:]
    assert (untrained, trained) == ("before training (study `start`, 8 draws)", [first, second])
    start_gap, (drawn, *_) = rows["llama_pro"][untrained], start.lesa_starts(m)
    assert isinstance(start_gap, Interval)
    (llama_pro,) = (row for row in m.start.values() if row["method"] == "llama_pro")
    own = [np.mean(row["block_losses"]) for row in drawn.rows]
    assert start_gap.estimate == pytest.approx(np.mean(own) - np.mean(llama_pro["block_losses"]))
    assert rows["llama_pro"][second] == gap
    end = tables.number(float(np.mean(losses["lesa"])))
    first_losses = (
        paired.document_means(run["heldout_documents"], run["steps"][0]["block_losses"])
        for name in ("lesa_120", "llama_pro_120")
        for run in (m.budget[f"{name}-{seed}"] for seed in range(3))
    )
    began = np.subtract(*np.reshape([*first_losses], (2, 3, 12)))
    assert ends.notes(m, ends.table(m)) == (
        f"LESA's own loss is 3.11 after 81,920 tokens and {end} after 245,760 tokens. Trains "
        "`new`: the new layers, `all`: every layer. Those of 3 seeds that were trained began "
        f"{tables.show_interval(paired.interval(began))} nats from LLaMA Pro's."
    )
    short = checked(Interval, rows["llama_pro"][first])
    assert short.estimate == pytest.approx(0.05)
    assert (rows["base"]["new layers"], rows["identity"]["new layers"]) == (0, params().gaps.count)
    last = ends.budgets(m)[-1].runs["lesa"]
    of = {"study": "budget", "model": "lesa", "run": f"{last.name}-0", "max_steps": 4}
    of["best"] = last.first["learning_rate"]
    elsewhere = {"budget-lesa": of | {"best": 2 * last.first["learning_rate"]}}  # not these runs'
    assert rates.sought_for(replace(m, rates=elsewhere), "budget", last) is None
    sought = replace(m, rates={"budget-lesa": of})
    told = f"At 245,760 tokens the rate of `lesa` was sought at 4 of {last.max_steps} steps."
    assert ends.notes(sought, ends.table(sought)).endswith(f" {told}")
    alone = replace(sought, grid={})
    rest = "no grid has the rates of `base`, `llama_pro` and `identity` and rates were sought at 4"
    assert f" At 245,760 tokens {rest} of 120" in ends.notes(alone, ends.table(alone))
    by_base = m.grid["base"]
    quick = replace(m, grid=m.grid | {"base": by_base | {"max_steps": 5}})
    told = "At 81,920 tokens the rate of `base` was sought at 5 of 40 steps."
    assert f" {told} At 245,760 tokens the rate of" in ends.notes(quick, ends.table(quick))
    foreign = replace(m, grid=m.grid | {"base": by_base | {"best": 1.0}})  # not the runs'
    assert " no grid has the rates of `base`" in ends.notes(foreign, ends.table(foreign))
    less = replace(m, grid={str(name): m.grid[str(name)] for name in rows})
    said = "At 81,920 tokens no grid has the rates of `lesa`. At 245,760 tokens no"
    assert f" {said}" in ends.notes(less, ends.table(less))
    fewer = {
        name: run for name, run in m.budget.items() if run["method"] != "base" or not run["seed"]
    }
    one = ends.notes(of_one := replace(m, budget=fewer), ends.table(of_one))
    assert one.endswith(
        " With 1 seed at 245,760 tokens, so with intervals over documents or packages alone: "
        "`base`."
    )
    # The comparison of all methods stays that of its own schedule.
    assert not any("120" in runs.name for runs in budget.main_runs(m))
    by_run = {row["run"]: row for row in budget.table(m).rows}
    assert [row for name, row in by_run.items() if "120" not in str(name)] == before
    # A run is compared with the base and LLaMA Pro of its own schedule.
    gap = checked(Interval, by_run["lesa_120"]["minus the trained base's"])
    assert gap.estimate == pytest.approx(np.subtract(losses["lesa"], losses["base"]).mean())
    assert training_runs.machines(m, "budget") == (
        "Measured on a CPU: the runs of 40 steps; on NVIDIA H100: the runs of 120 steps "
        "(metrics/provenance/*.json)."
    )


def test_one_machine_is_not_mentioned(made: tuple[Path, Metrics], tmp_path: Path) -> None:
    """Nor one that is not known; the CPU is what the rest of the report ran on."""
    assert training_runs.machines(made[1], "budget") == ""
    metrics = write(tmp_path)
    machine(metrics, "budget-lesa-0", "cpu")
    m = measured.load(metrics, params())
    assert training_runs.machines(m, "budget") == ""


def test_what_is_forgotten_is_told_by_the_base_of_the_same_schedule(tmp_path: Path) -> None:
    """The other machine's base has another loss on the second text before training."""
    metrics = write(tmp_path)
    longer(metrics)
    for path in (metrics / "budget").iterdir():
        run = json.loads(path.read_text())
        run["second_text_documents"] = ["a", "b", "b"]
        long = run["max_steps"] == 120
        for step in run["steps"]:
            level = (5.0 if long else 4.0) + 0.25 * step["step"] / run["max_steps"]
            step["second_text_block_losses"] = [level, level - 1, level + 1]
        path.write_text(json.dumps(run))
    rows = {row["run"]: row for row in budget.table(measured.load(metrics, params())).rows}
    for name in ("lesa", "lesa_120"):
        gap = checked(Interval, rows[name]["Python source, minus the untouched base's"])
        assert gap.estimate == pytest.approx(0.25)
        assert gap.n == 2  # documents, not blocks


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    folder = write(tmp_path_factory.mktemp("scale"))
    scale_study(folder)
    rates_study(folder)
    return folder, measured.load(folder, params())


def test_how_far_a_model_is_above_the_lowest_is_of_the_seeds_of_both(tmp_path: Path) -> None:
    """The base's other seed, 0.2 nats lower here, says nothing of a model that lacks it."""
    folder = write(tmp_path)
    scale_study(folder)
    (folder / "scale/llama_pro-1.json").unlink()
    (folder / "scale/lesa-1.json").unlink()
    other = json.loads((folder / "scale/base-1.json").read_text())["steps"][-1]["block_losses"]
    lower = [loss - 0.2 for loss in other]
    change(folder, "scale/base-1", "steps", -1, "block_losses", value=lower)
    at_0 = [
        np.mean(json.loads((folder / f"scale/{n}-0.json").read_text())["steps"][-1]["block_losses"])
        for n in ("llama_pro", "base")
    ]
    said = f"`llama_pro`, {at_0[0] - at_0[1]:.3f} nats above it on the seeds of both; fewer than 3"
    assert said in contest.advice(measured.load(folder, params()))


def test_packages_are_what_study_scale_resamples(scaled: tuple[Path, Metrics]) -> None:
    """Blocks are averaged by package first: with one seed, scipy's paired t test of eight."""
    rows = {row["run"]: row for row in scale.table(scaled[1]).rows}
    assert list(rows) == ["base", "identity", "lesa", "llama_pro", "lora"]
    assert (rows["lora"]["new layers"], rows["lora"]["trains"]) == (0, "lora")
    assert (rows["identity"]["seeds"], rows["lesa"]["seeds"]) == (1, 2)
    assert rows["lesa"]["tokens"] == 10_485_760
    final = {
        name: np.reshape(
            json.loads((scaled[0] / f"scale/{name}-0.json").read_text())["steps"][-1][
                "block_losses"
            ],
            (8, 4),
        ).mean(1)
        for name in ("identity", "llama_pro", "base", "lora")
    }
    for name, title in (
        ("llama_pro", "minus LLaMA Pro's"),
        ("base", "minus the trained base's"),
        ("lora", "minus LoRA's"),
    ):
        known = stats.ttest_rel(final["identity"], final[name]).confidence_interval()
        gap = checked(Interval, rows["identity"][title])
        assert (gap.low, gap.high, gap.n) == pytest.approx((known.low, known.high, 8))
    forgotten = checked(Interval, rows["base"]["Wikipedia, minus the untouched base's"])
    assert forgotten.n == 6
    assert forgotten.estimate == pytest.approx(0.275, abs=0.02)  # half of what the loss falls
    reached = checked(Interval, rows["lesa"]["tokens to LLaMA Pro's final loss, over its tokens"])
    assert reached.estimate == math.inf


def test_study_scale_on_the_way_and_in_short(scaled: tuple[Path, Metrics]) -> None:
    m = scaled[1]
    llama_pro, *others = scale.longer(m).rows
    assert [row["model"] for row in others] == ["base", "identity", "lesa", "lora"]
    assert scale.longer(m).origin_of(others[1], "1,048,576") == "metrics/scale/identity-0.json"
    _, *tokens = llama_pro
    assert len(tokens) == training_runs.COLUMNS
    assert (tokens[0], tokens[-1]) == ("0", "10,485,760")
    assert llama_pro[tokens[0]] == pytest.approx(2.0)
    said, advice = contest.worth(m)[1], contest.advice(m)
    where = "10,485,760 tokens of Python source (study `scale`, 2 seeds)"
    few = "Fewer than 3 seeds tell no order"
    assert said.startswith(f"**LESA up to {where}:** {few}. After the start its loss is above that")
    assert "`identity` at 0 of 20 points and below at 20, first after 524,288 tokens" in said
    assert "none of them" not in said
    assert (
        "(study `scale`, 1 to 2 seeds) `base` has the lowest mean loss; of deepened models "
        "`llama_pro`, 0.050 nats above it; fewer than 3 seeds tell no order." in advice
    )
    forgotten = re.search(r"On Wikipedia, .* above the untouched base \((\S+) \[", said)
    assert forgotten
    by_hand = [
        np.mean(m.scale[f"lesa-{seed}"]["steps"][-1]["second_text_block_losses"])
        - np.mean(m.scale["base-0"]["steps"][0]["second_text_block_losses"])
        for seed in (0, 1)
    ]
    assert float(forgotten[1]) == pytest.approx(np.mean(by_hand), abs=5e-4)
    assert conclusions.overtaking(m.scale)[1] == (
        "Over 1,280 steps LESA is below `identity` at 20 of 20 points after the start, first after "
        "524,288 tokens, above it at 0."
    )
    assert training_runs.machines(m, "scale") == (
        "Measured on NVIDIA H100: the runs of 1,280 steps (metrics/provenance/*.json)."
    )


def test_claims_are_judged_by_study_scale_too(scaled: tuple[Path, Metrics]) -> None:
    """LESA's end on code, and its loss half-way, minus LLaMA Pro's end: by hand over two seeds."""

    def losses(name: str, point: int) -> list[list[float]]:
        runs = [scaled[1].scale[f"{name}-{seed}"] for seed in (0, 1)]
        return [run["steps"][point]["block_losses"] for run in runs]

    end, half, llama_pro = losses("lesa", -1), losses("lesa", 10), losses("llama_pro", -1)
    ahead = {found.subject: found for found in c11_sft_and_code.findings(scaled[1])}
    cheap = {found.subject: found for found in c05_half_cost.findings(scaled[1])}
    for found, ours in (
        (ahead["code, 10,485,760 tokens, against llama_pro"], end),
        (cheap["lesa at half of 1280 steps of Python source against llama_pro"], half),
    ):
        said = re.search(r"llama_pro (\S+) \[", found.said)
        assert said
        wanted = np.subtract(ours, llama_pro).mean()
        assert float(said[1]) == pytest.approx(wanted, abs=5e-4)
        assert found.sources == scale.SOURCES


def test_rates_that_were_sought(scaled: tuple[Path, Metrics]) -> None:
    lesa, lora = rates.table(scaled[1]).rows
    assert (lesa["best"], lesa["at an edge of what was tried"]) == (0.003, "no")
    assert (lora["best"], lora["at an edge of what was tried"]) == (0.001, "yes")
    assert list(lesa)[4:9] == ["0.0003", "0.001", "0.003", "0.01", "best"]
    assert (lesa["0.0003"], lesa["0.003"], lora["0.01"]) == ("–", 3.1, "–")


def test_a_rate_at_the_edge_of_what_was_tried_is_named(scaled: tuple[Path, Metrics]) -> None:
    m = scaled[1]
    assert "may do better" not in "".join(contest.worth(m))
    lesa, other = (training_runs.called(m.scale, name) for name in ("lesa", "llama_pro"))
    assert lesa
    assert other
    assert rates.over_seeds(m, "scale", lesa, other) == "2 seeds"
    rate = lesa.first["learning_rate"]
    own = m.rates["budget-lesa"] | {"study": "scale", "run": "lesa-0", "best": rate}
    for factors, end, word in (
        ((0.1, 1.0), "highest", "higher"),
        ((1.0, 10.0), "lowest", "lower"),
        ((0.1, 1.0, 10.0), "", ""),
    ):
        tried = [{"learning_rate": rate * f, "validation_loss": 3.0} for f in factors]
        edge = replace(m, rates=m.rates | {"scale-lesa": own | {"runs": tried}})
        said = f", lesa's rate the {end} tried" if end else ""
        assert rates.over_seeds(edge, "scale", lesa, other) == f"2 seeds{said}"
        advice = f" A {word} rate may do better for `lesa`: the {end} that was tried was best."
        assert contest.worth(edge)[1].endswith(advice) == bool(end)
    # A rate that the runs do not have says nothing of them.
    other_rate = own | {"runs": [{"learning_rate": rate * 10}], "best": rate * 10}
    assert rates.over_seeds(replace(m, rates={"scale-lesa": other_rate}), "scale", lesa, other) == (
        "2 seeds"
    )


def test_rates_of_a_log_stand_beside_those_of_the_study(scaled: tuple[Path, Metrics]) -> None:
    """Of their own profile alone; where a stage's file is there, it counts."""
    of_default = scaled[1].params.model_copy(update={"profile": "default"})
    table = rates.table(replace(scaled[1], params=of_default))
    rows = {row["model"]: row for row in table.rows if row["study"] == "budget"}
    assert {"lesa", "noise", "base"} <= set(rows)
    assert table.origin_of(rows["noise"], "best") == "reports/rates_of_a_log.json"
    assert "`budget-noise`" in table.caption
    assert "log" not in rates.table(scaled[1]).caption
    assert table.origin_of(rows["lesa"], "best") == "metrics/rates/budget-lesa.json"
    assert rows["lesa"]["best"] == 0.003


def test_controls_beside_lesa(tmp_path: Path) -> None:
    """Three seeds of 245,760 tokens: one control lower, one higher, one level but for noise."""
    metrics = write(tmp_path)
    longer(metrics)
    for name, raised in (("average", -0.1), ("noise", 0.1), ("lesa_shuffled", 0.0)):
        for seed in range(3):
            run = json.loads((metrics / f"budget/lesa_120-{seed}.json").read_text())
            draws = np.random.default_rng(seed).normal(scale=0.01, size=24)
            for step in run["steps"]:
                step["block_losses"] = (np.array(step["block_losses"]) + draws).tolist()
            last = run["steps"][-1]
            last["block_losses"] = (np.array(last["block_losses"]) + raised).tolist()
            save(metrics, f"budget/{name}_120-{seed}", run | {"run": f"{name}_120-{seed}"})
    m = measured.load(metrics, params())
    assert contest.worth(m)[0].endswith(
        "Of [what stands in](#table-controls) for its predictions (LESA's rate; 3 comparisons, not "
        "corrected for) `average` ends below it; `noise` ends above it; `lesa_shuffled` is not "
        "told apart from it."
    )
    rows = {row["model"]: row for row in controls.table(m).rows}
    assert list(rows) == ["noise", "lesa_shuffled", "average", "identity"]
    assert rows["average"]["sought for it"] == "no"
    end = checked(Interval, rows["average"]["after 245,760 tokens"])
    added = [np.random.default_rng(s).normal(scale=0.01, size=24) - 0.1 for s in range(3)]
    known = paired.interval(np.reshape(added, (3, 12, 2)).mean(2))
    assert (end.low, end.high) == pytest.approx((known.low, known.high))
    before = checked(Interval, rows["average"]["before training"])
    assert before.estimate == pytest.approx(np.mean(added) + 0.1)
    assert [tables.series(list(names)) for names in ("a", "ab", "abc")] == [
        "a",
        "a and b",
        "a, b and c",
    ]
    # What is in one budget alone is no row of the first table.
    assert "average" not in {row["model"] for row in ends.table(m).rows}


def test_a_control_of_one_seed_is_compared_with_lesa_on_its_machine(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    longer(metrics)
    run = json.loads((metrics / "budget/lesa_120-0.json").read_text())
    for name, raised in (("lesa_again", 0.02), ("noise", 0.05)):
        for step in run["steps"]:
            step["block_losses"] = (np.array(step["block_losses"]) + raised).tolist()
        save(metrics, f"budget/{name}_120-0", run | {"run": f"{name}_120-0"})
    m = measured.load(metrics, params())
    rows = {row["model"]: row for row in controls.table(m).rows}
    for name, known in (("lesa_again", 0.02), ("noise", 0.05)):  # noise has lesa_again's 0.02, too
        end = checked(Interval, rows[name]["after 245,760 tokens"])
        assert end.estimate == pytest.approx(known)
    assert (
        "for its predictions (one seed and LESA's rate) `noise` ends above it"
        in (contest.worth(m)[0])
    )


def test_params_have_the_rates_that_were_chosen(
    scaled: tuple[Path, Metrics], tmp_path: Path
) -> None:
    """Every seed of a sought model; what was not sought may have any rate."""
    for study, runs in (
        ("budget", {"lesa_120-0": 3e-3, "lesa_120-1": 1e-3, "lesa-0": 1.0, "noise_120-0": 1.0}),
        ("scale", {"lora-0": 1e-3, "lesa-0": 1.0}),
    ):
        path = tmp_path / f"pipelines/studies/{study}/params.yaml"
        path.parent.mkdir(parents=True)
        rows = {run: {"phases": [{"learning_rate": rate}]} for run, rate in runs.items()}
        path.write_text(yaml.safe_dump({study: rows}))
    assert list(consistency.differing_rates(tmp_path)) == []  # no rate was sought
    shutil.copytree(scaled[0] / "rates", tmp_path / "metrics" / "rates")
    assert list(consistency.differing_rates(tmp_path)) == [
        "pipelines/studies/budget/params.yaml: budget.lesa_120-1.phases.0.learning_rate is 0.001, "
        "but metrics/rates/budget-lesa.json: best is 0.003"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget: {lesa_120-0: {phases: [{learning_rate: 3e-3}]}}", None),
        ("budget: {lesa_120-0: {phases: [{learning_rate: 1e-2}]}}", "learning_rate is 0.01, but"),
        (None, "budget: no learning rate can be read (FileNotFoundError: "),
        ("scale: {}", "budget: no learning rate can be read (KeyError: 'budget')"),
        ("budget: {lesa-0: {seed: 0}}", "budget.lesa-0: no learning rate can be read (KeyError"),
        ("budget: {lesa-0: 3}", "budget.lesa-0: no learning rate can be read (TypeError"),
        ("budget: [lesa-0]", "budget: no learning rate can be read (AttributeError"),
        ("budget: {", "budget: no learning rate can be read (ParserError"),
    ],
)
def test_rates_are_read_as_the_stages_read_them_or_their_file_is_named(
    text: str | None, says: str | None, tmp_path: Path
) -> None:
    params = tmp_path / "pipelines/studies/budget/params.yaml"
    params.parent.mkdir(parents=True)
    if text:
        params.write_text(text)
    found = {"study": "budget", "run": "lesa_120-0", "best": 0.003}
    write_json(tmp_path / "metrics/rates/budget-lesa.json", found)
    lines = list(consistency.differing_rates(tmp_path))
    assert len(lines) == (says is not None)
    for line in lines:
        assert line.startswith("pipelines/studies/budget/params.yaml: budget")
        assert str(says) in line


def test_the_report_shows_what_is_there(made: tuple[Path, Metrics], scaled: tuple[Path, Metrics],
                                        tmp_path: Path) -> None:  # fmt: skip
    """Nothing of the studies scale and rates where they were not run."""
    heading = "A much longer budget, on Python source"
    for folder, shown in ((made[0], False), (scaled[0], True)):
        render.render(params(), folder, tmp_path / "out")
        text = (tmp_path / "out" / "REPORT.md").read_text()
        for part in (heading, "table-scale", "table-rates", "scale.svg"):
            assert (part in text) == shown
        results = (tmp_path / "out" / "results.md").read_text()
        assert (r"metrics/budget/\*.json, metrics/scale/\*.json" in results) == shown


def test_what_each_layer_is_worth(tmp_path: Path) -> None:
    """Against scipy's paired t interval, a block a document."""
    metrics, rng = write(tmp_path), np.random.default_rng(3)
    whole, without = rng.normal(3, 0.1, 5), rng.normal(3.5, 0.1, (4, 5))
    content = {"heldout_documents": list("abcde"), "block_losses": whole.tolist()}
    save(metrics, "removal/base", content | {"block_losses_without": without.tolist()})
    run = json.loads((metrics / "budget/identity-0.json").read_text())
    save(metrics, "budget/adept-0", run | {"run": "adept-0", "gaps": {"after": [0, 2]}})
    rows = removal.table(measured.load(metrics, params())).rows
    assert [row["copied"] for row in rows] == ["yes", "no", "yes", "no"]
    for row, losses in zip(rows, without, strict=True):
        known = stats.ttest_rel(losses, whole).confidence_interval()
        found = checked(Interval, row["loss added"])
        assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_tries_are_compared_by_document_where_they_end() -> None:
    """Against scipy's paired t interval, on the losses as they are kept."""
    first, *others = tries.tries()
    rows = tries.table().rows
    assert len(rows) == 1 + len(others)
    for one, row in zip(others, rows[1:], strict=True):
        there = first["block_losses"][first["steps"].index(one["steps"][-1])]
        known = stats.ttest_rel(one["block_losses"][-1], there).confidence_interval()
        found = checked(Interval, row["at its end, minus the first row's"])
        assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert rows[0]["after 48"] == pytest.approx(
        np.mean(first["block_losses"][-1]) - np.mean(first["block_losses"][0])
    )


def test_runs_without_a_seed_in_common_are_not_compared(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for seed in (0, 1, 2):
        run = json.loads((metrics / f"budget/solar-{seed}.json").read_text())
        (metrics / f"budget/solar-{seed}.json").unlink()
        save(
            metrics,
            f"budget/solar-{seed + 5}",
            run | {"run": f"solar-{seed + 5}", "seed": seed + 5},
        )
    rows = {row["run"]: row for row in budget.table(measured.load(metrics, params())).rows}
    assert rows["solar"]["minus LLaMA Pro's"] is None
    assert rows["solar"]["seeds"] == 3


def test_benchmarks_are_paired_by_example(made: tuple[Path, Metrics]) -> None:
    base, lesa = official.table(made[1]).rows
    assert (base["model"], base["arc_easy"], base["average"]) == ("base", 50.0, 50.0)
    gap = checked(Interval, lesa["minus the untouched base's"])
    assert gap.n == 80
    one = np.array([0.0, 100.0] * 20)  # right where the base is wrong
    half = stats.t.ppf(0.975, 2 * 39) * (2 * one.var(ddof=1) / 40) ** 0.5 / 2
    assert (gap.estimate, gap.low, gap.high) == pytest.approx((50, 50 - half, 50 + half))


def test_a_longer_run_stands_beside_lesa_as_long(tmp_path: Path) -> None:
    """LESA is right at all examples of both tasks when short, at every second one when long."""
    folder = write(tmp_path)
    for model, source in (("lesa", "base-init"), ("solar", "lesa-trained")):
        content = json.loads((folder / f"official/{source}.json").read_text())
        save(folder, f"official/{model}-longer", content | {"model": model, "phase": "longer"})
    m = measured.load(folder, params())
    rows = {(row["model"], row["phase"]): row for row in official.table(m).rows}
    gap = checked(Interval, rows["solar", "trained longer"]["minus trained LESA's"])
    assert gap.estimate == 50
    assert next(iter(rows)) == ("base", tables.PHASE_NAMES["init"])
    (line,) = summary.benchmarks(m)
    longest = max(runs.tokens for runs in training_runs.schedules(m.budget, "lesa"))
    assert re.search(rf" is 100\.0% after .*\. It is 50\.0% after {longest:,} tokens: ", line)
    assert re.search(r"below SOLAR's \(-50 ", line)


def test_task_differences_leave_weighted_pairs_out(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    rng = np.random.default_rng(3)
    kept = {}
    for model in ("lesa", "solar"):
        kept[model] = rng.integers(0, 2, 40).astype(float)
        at = (f"evaluate/trained/{model}", "tasks")
        change(
            metrics, *at, "wiki_last_word", "metrics", "acc", "examples", value=kept[model].tolist()
        )
        perplexity = (*at, "wiki_perplexity", "metrics", "word_perplexity", "examples")
        change(metrics, *perplexity, value=[[-30.0, 12.0]])
    (row,) = tables.task_differences(measured.load(metrics, params())).rows
    assert (row["task"], row["examples"], row["minus base"]) == ("wiki_last_word", 40, None)
    gap = row["minus solar"]
    test = stats.ttest_rel(kept["lesa"], kept["solar"])
    assert isinstance(gap, Interval)
    assert (gap.low, gap.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_training_steps_are_whole(made: tuple[Path, Metrics]) -> None:
    rows = {row["method"]: row for row in speed.training_steps(made[1]).rows}
    assert rows["lesa"]["seconds a step, whole"] == pytest.approx(2.5)
    ratio = checked(Interval, rows["llama_pro"]["over LESA's"])
    assert ratio.estimate == pytest.approx(3.0 / 2.5)


def test_draws_that_were_fitted_again_are_a_start_of_their_own(tmp_path: Path) -> None:
    """On an SVD of other last digits: LESA has as many draws as before, and these are paired."""
    metrics = write(tmp_path)
    for seed, loss in enumerate(DRAWS["paper"]):
        draw = {"preset": "paper", "seed": seed, "signs": "largest", "noise": seed + 1}
        row = start_row("lesa", loss + 0.25, **draw, again=True)
        save_start(metrics, f"again-{seed}", row)
    m = measured.load(metrics, params())
    lesa, (again,) = start.lesa_starts(m)[0], start.lesa_starts(m, start.AGAIN)
    assert (len(lesa.rows), len(again.rows)) == (len(DRAWS["paper"]), len(DRAWS["paper"]))
    moved = start.difference(again, lesa)
    assert (moved.low, moved.high) == pytest.approx((0.25, 0.25))
    assert again.name == f"lesa (paper, {start.AGAIN})"
    said = "moves by 0.25 [0.25, 0.25] nats on average and 0.25 at most with `paper` (8 draws)"
    assert any(said in line for line in summary.answers(m))
    of_lesa, _, of_again = conclusions.controls(m)
    assert of_lesa.startswith("`lesa (paper)` minus")
    assert f"`{again.name}` -0.25 [-0.25, -0.25]" in of_lesa
    assert of_again.startswith(f"`{again.name}` minus")
    assert f"`{again.name}` " not in of_again.removeprefix(f"`{again.name}`")


def test_draws_off_the_scale_are_told_by_their_number(tmp_path: Path) -> None:
    metrics = write(tmp_path)
    for seed, value in ((0, 512.0), (1, 1024.0)):
        change(metrics, f"start/lesa-paper-{seed}", "perplexity", value=value)
    (axes,) = figures.start_distributions(measured.load(metrics, params())).axes
    assert "› 2 more, up to 1,024" in [text.get_text() for text in axes.texts]
    points = {str(line.get_gid()): np.asarray(line.get_xdata()) for line in axes.lines}
    assert [points[name].size for name in ("lesa (paper)", "constant_row (paper)")] == [6, 8]


def test_lines_of_one_seed_say_so_beside_lines_of_more(scaled: tuple[Path, Metrics]) -> None:
    study = training_runs.groups(scaled[1].scale)
    assert figures.loss_curves([], "") is None  # as where no run is of every budget
    figure = figures.loss_curves(figures.study_curves(study), "tokens")
    assert figure is not None
    axes, _ = figure.axes
    for runs in study:
        said = f"{runs.model} (1 seed)" if len(runs.by_seed) == 1 else runs.model
        assert said in axes.get_legend_handles_labels()[1]
    assert {len(runs.by_seed) for runs in study} == {1, 2}
