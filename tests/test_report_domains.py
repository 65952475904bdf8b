"""Tables of the studies code, sft and variants against numpy, scipy and numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports import conclusions, domains, measured
from reports.claims import Verdict, c11_sft_and_code
from reports.measured import Metrics
from reports.paired import Interval, interval, shares_apart
from tests.test_report_synthetic import DOCUMENTS, KINDS, checked, params, save, write

NATS = {"base": (3.0, 2.0), "lesa": (3.5, 2.2), "llama_pro": (3.0, 2.1)}
BYTES = [100, 50, 100, 50, 100, 50, 100, 50]


def loaded(folder: Path) -> Metrics:
    return measured.load(folder, params())


def model(name: str) -> dict[str, Any]:
    """Eight files of as many packages; `NATS` are of the first, others have 0.1 more each."""
    nats = [[value + 0.1 * i for i in range(8)] for value in NATS[name]]
    nats[1][0] -= 0.01 * len(name)  # models do not differ by a constant
    points = [(0, 3.0), (8, 3.0 + 0.1 * len(name))]
    return {
        "learning_rate": 0.001,
        "heldout_documents": DOCUMENTS,
        "seed": 0 if name == "lesa" else None,
        "steps": [
            {"step": s, "tokens": 1024 * s, "block_losses": [loss] * len(DOCUMENTS)}
            for s, loss in points
        ],
        "heldout": {
            "ids": [f"file {i}" for i in range(8)],
            "groups": [f"package {i}" for i in range(8)],
            "bytes": BYTES,
            "targets": [2 * size for size in BYTES],
            "nats": dict(zip(("start", "end"), nats, strict=True)),
        },
    }


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return write(tmp_path, optional=False)


@pytest.mark.parametrize(
    ("study", "unit", "scale"),
    [("code", "bits a byte", 600 * np.log(2)), ("sft", "nats a token", 1200.0)],
)
def test_losses_are_of_all_held_out_text_together(
    study: str, unit: str, scale: float, metrics: Path
) -> None:
    for name in NATS:
        save(metrics, f"{study}/{name}", model(name))
    table = domains.table(loaded(metrics), study)
    assert ", 8 steps, 8,192 tokens, seed 0: loss on" in table.caption
    assert domains.PERCENT not in table.header  # it was run for none
    rows = {row["model"]: row for row in table.rows}
    assert set(rows) == set(NATS)
    nats = {name: model(name)["heldout"]["nats"] for name in NATS}
    for name in NATS:
        row = rows[name]
        for phase in ("start", "end"):
            assert row[f"{unit}, {phase}"] == pytest.approx(sum(nats[name][phase]) / scale)
        gap = checked(Interval, row["minus the untouched base's"])
        excess = sum(nats[name]["end"]) - sum(nats["base"]["start"])
        assert gap.estimate == pytest.approx(excess / scale)
        forgotten = checked(Interval, row["loss on the run's own text, minus the untouched base's"])
        assert forgotten.estimate == pytest.approx(0.1 * len(name))
    # The linearised ratio's t interval (Cochran, section 6.4), by hand.
    sizes = np.array(BYTES) * scale / 600
    excess = np.subtract(nats["base"]["end"], nats["lesa"]["end"])
    error = stats.sem(excess - excess.sum() / sizes.sum() * sizes) / sizes.mean()
    gap = checked(Interval, rows["base"]["minus LESA's"])
    assert gap.high - gap.low == pytest.approx(2 * stats.t.ppf(0.975, 7) * error)
    assert gap.n == 8
    assert rows["lesa"]["minus LESA's"] == ""


def test_runs_of_several_seeds_are_one_model(metrics: Path) -> None:
    """Over the seeds of both: two of LESA and LLaMA Pro, one of the base."""
    shift = {"lesa": 0.3, "llama_pro": -0.2}
    for name in NATS:
        save(metrics, f"sft/{name}", model(name))
    for name, more in shift.items():
        other = model(name) | {"seed": 1}
        nats = other["heldout"]["nats"]
        nats["end"] = [value + more * (i % 3) for i, value in enumerate(nats["end"])]
        save(metrics, f"sft/{name}-1", other)
    m = loaded(metrics)
    table = domains.table(m, "sft")
    assert "seed 0, 1: loss on" in table.caption
    rows = {row["model"]: row for row in table.rows}
    assert {name: row["seeds"] for name, row in rows.items()} == {
        "base": 1,
        "lesa": 2,
        "llama_pro": 2,
    }
    sizes = 2.0 * np.array(BYTES)
    first = np.subtract(*(model(name)["heldout"]["nats"]["end"] for name in shift))
    second = first + 0.5 * (np.arange(8) % 3)
    mean = np.mean([of.sum() / sizes.sum() for of in (first, second)])
    (found,) = (f for f in c11_sft_and_code.compared(m, "sft") if f.subject.endswith("llama_pro"))
    assert found.said.endswith("over 8 modules, 2 seeds")
    gap = checked(Interval, rows["llama_pro"]["minus LESA's"])
    assert gap.estimate == pytest.approx(-mean)
    linearised = [mean + (of - mean * sizes) / sizes.mean() for of in (first, second)]
    known = interval(linearised)  # of seeds and modules, tested by itself
    assert (-gap.high, -gap.low) == pytest.approx((known.low, known.high))
    save(metrics, "sft/solar-2", model("llama_pro") | {"seed": 2})  # none of LESA's seeds
    m = loaded(metrics)
    rows = {row["model"]: row for row in domains.table(m, "sft").rows}
    assert rows["solar"]["minus LESA's"] is None
    models = domains.by_model(m, "sft")
    observed = domains.difference(models["base"], models["lesa"], domains.DOMAINS["sft"])[1]
    assert observed == "modules"  # of one seed


def save_humaneval(folder: Path, name: str, passed: list[bool]) -> None:
    problems = [f"HumanEval/{i}" for i in range(len(passed))]
    content = {"pass_at_1": float(np.mean(passed)), "problems": problems, "passed": passed}
    save(folder, f"humaneval/{name}", content | {"max_new_tokens": 256})


def test_humaneval_is_shown_when_it_was_run(metrics: Path) -> None:
    assert domains.humaneval(loaded(metrics)).rows == []
    passed = {"lesa": [True] * 6 + [False] * 4, "base": [True] * 3 + [False] * 7}
    for name, solved in passed.items():
        save_humaneval(metrics, name, solved)
    rows = {row["model"]: row for row in domains.humaneval(loaded(metrics)).rows}
    assert set(rows) == {"base", "lesa"}
    assert rows["lesa"]["minus LESA's, points"] == ""
    share = checked(Interval, rows["base"]["pass@1, %"])
    exact = stats.binomtest(3, 10).proportion_ci()
    assert (share.low, share.high) == (100 * exact.low, 100 * exact.high)
    gap = checked(Interval, rows["base"]["minus LESA's, points"])
    assert gap == shares_apart(passed["base"], passed["lesa"]).scaled(100)
    assert (share.estimate, gap.estimate) == pytest.approx((30, -30))
    assert domains.table(loaded(metrics), "code").rows == []
    for name in ("base", "llama_pro"):  # the latter's problems were not run
        save(metrics, f"code/{name}", model(name))
    table = domains.table(loaded(metrics), "code")
    beside = {row["model"]: row for row in table.rows}
    assert beside["base"][domains.PERCENT] == share
    assert table.origin_of(beside["base"], domains.PERCENT) == "metrics/humaneval/base.json"
    assert beside["llama_pro"][domains.PERCENT] == "not run"
    assert table.origin_of(beside["llama_pro"], domains.PERCENT) == ""


def test_programs_decide_c11_by_themselves(metrics: Path) -> None:
    """Of 40 problems LESA solves 20 more than one rival and none more than the other."""
    few, many = [True] * 10 + [False] * 30, [True] * 30 + [False] * 10
    for name, passed in (("lesa", many), ("llama_pro", few), ("solar", many)):
        save_humaneval(metrics, name, passed)
    found = {f.subject: f for f in c11_sft_and_code.written(loaded(metrics))}
    assert found["HumanEval, pass@1, against llama_pro"].verdict is Verdict.HOLDS
    assert found["HumanEval, pass@1, against solar"].verdict is Verdict.UNDECIDED
    assert (
        "of 40 problems, of which lesa solves 75.0%"
        in found["HumanEval, pass@1, against solar"].said
    )
    (metrics / "humaneval/solar.json").unlink()
    found = {f.subject: f for f in c11_sft_and_code.written(loaded(metrics))}
    assert found["HumanEval, pass@1, against solar"].verdict is Verdict.CANNOT


def parity(split: str, copies: float | None) -> dict[str, Any]:
    """Test errors of 1.0 with the first seed and 3.0 with the second, zero's 2.0."""

    def scores(mse: float) -> dict[str, Any]:
        test = {"mse": mse, "zero_mse": 2.0, "explained_variance": 1 - mse}
        return {"train": {"mse": 0.5}, "test": test}

    kind = {
        "nearest_copy_mse": copies,
        "distance": {"wiki": 0.01, "code": 0.03},
        "seeds": {"0": scores(1.0), "1": scores(3.0)},
    }
    triples = {"train": 112, "test": 28}
    kinds = dict.fromkeys(KINDS, kind)
    return {"split": split, "basis": "own", "triples": triples, "kinds": kinds}


def test_variants_are_shown_by_split_beside_their_near_copies(metrics: Path) -> None:
    save(metrics, "variants/parity-layer-own", parity("layer", None))
    save(metrics, "variants/parity-random-own", parity("random", 0.4))
    save(metrics, "variants/wiki", {"steps": []})
    rows = {row["split"]: row for row in domains.variants(loaded(metrics)).rows}
    assert set(rows) == {"layer", "random"}
    wanted = {
        "test MSE / training MSE": 4.0,
        "test MSE / MSE of zero": 1.0,
        "explained variance, test": -1.0,
    }
    for name, value in wanted.items():
        found = checked(Interval, rows["random"][name])
        assert found.estimate == pytest.approx(value)
        assert found.n == len(KINDS)
    assert rows["random"]["MSE of the nearest variant / MSE of zero"] == pytest.approx(0.2)
    assert rows["layer"]["MSE of the nearest variant / MSE of zero"] is None
    assert rows["layer"]["variants' distance from the base"] == pytest.approx(0.02)


def test_parity_is_worth_nothing_where_no_error_is_below_that_of_zero(metrics: Path) -> None:
    save(metrics, "variants/parity-layer-own", parity("layer", None))
    content = parity("random", 0.4)
    save(metrics, "variants/parity-random-own", content)
    (said,) = conclusions.parity(loaded(metrics))
    assert "off by 0.2 times the error of predicting zero" in said
    assert "is not told apart from that of predicting zero" in said
    for mse, side in ((4.0, "above"), (1.0, "below")):
        for seed in content["kinds"][KINDS[0]]["seeds"].values():
            seed["test"]["mse"] = mse
        save(metrics, "variants/parity-random-own", content)
        (said,) = conclusions.parity(loaded(metrics))
        ratio = f"{mse / 2:.4g}"
        assert f"is {side} that of predicting zero, {ratio} [{ratio}, {ratio}] times it" in said
        assert said.count("neither is learned") == (side == "above")
