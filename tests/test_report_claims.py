"""Each claim's rule on both sides of its threshold, and what leaves a claim untested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesa.params import Params
from reports import claims, measured
from reports.claims import NOT_SUPPORTED, NOT_TESTED, SUPPORTED
from tests.test_report_synthetic import KINDS, MODELS, PRESETS, change, params, write

Change = tuple[Any, ...]  # a metrics file, keys into it, and the value to put there
Case = tuple[str, str, list[Change]]  # a claim's module, its verdict, what makes it so

RNG = np.random.default_rng(0)
PATH = np.cumsum(np.abs(RNG.normal(size=(30, 12))), axis=0)  # neighbours are nearest


def rows(**kinds: Any) -> list[Change]:
    return [("svd", kind, "top_rows", kinds.get(kind, PATH).tolist()) for kind in KINDS]


def losses(heldout: float) -> list[Change]:
    """Every predictor's losses 1, but for one held-out loss."""
    ones: list[Change] = [
        (f"fit/{preset}-0", "kinds", kind, side, "loss", 1.0)
        for preset in (*PRESETS, "no_norm_term")
        for kind in KINDS
        for side in ("train", "heldout")
    ]
    return [*ones, ("fit/official_code-0", "kinds", "k_proj", "heldout", "loss", heldout)]


def starts(lesa: float, llama_pro: float, solar: float, key: str = "heldout_loss") -> list[Change]:
    given = {"lesa": lesa, "llama_pro": llama_pro, "solar": solar}
    return [(f"pretrain/{name}", "steps", 0, key, value) for name, value in given.items()]


def halves(loss: float, seconds: float) -> list[Change]:
    """LESA's loss at half of its steps and seconds of all; the baselines end at 3 after 10 s."""
    ends = [(f"pretrain/{name}", "steps", -1, "heldout_loss", 3.0) for name in MODELS]
    times = [(f"pretrain/{name}", "seconds", 10.0) for name in MODELS]
    own = [
        ("pretrain/lesa", "steps", 4, "heldout_loss", loss),
        ("pretrain/lesa", "seconds", seconds),
    ]
    return [*ends, *times, *own]


def times(**seconds: float) -> list[Change]:
    return [(f"pretrain/{name}", "seconds", seconds.get(name, 9.0)) for name in MODELS]


def norm_ratios(paper: float, no_norm_term: float) -> list[Change]:
    given = {"paper": paper, "no_norm_term": no_norm_term}
    return [
        (f"fit/{preset}-0", "kinds", kind, "train", "norm_ratio", value)
        for preset, value in given.items()
        for kind in KINDS
    ]


CASES: list[Case] = [
    ("c01_continuity", SUPPORTED, rows()),
    ("c01_continuity", NOT_SUPPORTED, rows(v_proj=RNG.permutation(PATH))),
    ("c01_continuity", NOT_TESTED, rows(v_proj=PATH[:5])),  # 2/5! is above 0.05/7
    ("c02_generalisation", SUPPORTED, losses(1.1)),
    ("c02_generalisation", NOT_SUPPORTED, losses(1.1001)),
    # Six kinds of 3.25 s each and this one: 299.75 s and 300 s.
    ("c03_fit_time", SUPPORTED, [("fit/paper-2", "kinds", "q_proj", "seconds", 280.25)]),
    ("c03_fit_time", NOT_SUPPORTED, [("fit/paper-2", "kinds", "q_proj", "seconds", 280.5)]),
    ("c04_initial_loss", SUPPORTED, starts(2.999, 3.0, 3.0)),
    ("c04_initial_loss", NOT_SUPPORTED, starts(3.0, 3.0, 3.1)),
    ("c04_initial_loss", NOT_SUPPORTED, starts(3.0, 3.1, 3.0)),
    ("c05_half_cost", SUPPORTED, halves(2.999, 9.999)),
    ("c05_half_cost", NOT_SUPPORTED, halves(3.0, 9.999)),
    ("c05_half_cost", NOT_SUPPORTED, halves(2.999, 10.0)),
    ("c05_half_cost", NOT_TESTED, [*halves(2.9, 9.9), ("pretrain/lesa", "steps", 4, "step", 19)]),
    ("c05_half_cost", NOT_TESTED, [("pretrain/lesa", "steps", -1, "tokens", 1)]),
    ("c06_training_time", SUPPORTED, times(base=99.0, noise=9.999, llama_pro=10.0, solar=10.0)),
    ("c06_training_time", NOT_SUPPORTED, times(noise=10.0, llama_pro=10.0, solar=11.0)),
    ("c06_training_time", NOT_SUPPORTED, times(noise=10.0, llama_pro=11.0, solar=10.0)),
    ("c06_training_time", NOT_TESTED, times(solar=0.0)),
    ("c07_initial_perplexity", SUPPORTED, starts(19.9, 1.0, 20.0, "heldout_perplexity")),
    ("c07_initial_perplexity", NOT_SUPPORTED, starts(20.0, 1.0, 20.0, "heldout_perplexity")),
    ("c07_initial_perplexity", NOT_TESTED, [("base", "num_hidden_layers", 29)]),
    ("c08_without_svd", NOT_TESTED, []),
    ("c09_without_freezing", NOT_TESTED, []),
    ("c10_norm_term", SUPPORTED, norm_ratios(0.5, 0.2499)),
    ("c10_norm_term", NOT_SUPPORTED, norm_ratios(0.5, 0.25)),
    ("c11_sft_and_code", NOT_TESTED, []),
]


def with_no_norm_term() -> Params:
    """Params with a preset of λ = 0 beside the others."""
    tree = params().fit.model_dump()
    tree["presets"]["no_norm_term"] = tree["presets"]["paper"] | {"norm_weight": 0.0}
    tree["runs"]["no_norm_term-0"] = {"preset": "no_norm_term", "seed": 0}
    return params(fit=tree)


@pytest.mark.parametrize(("name", "verdict", "changes"), CASES)
def test_rule(name: str, verdict: str, changes: list[Change], tmp_path: Path) -> None:
    metrics = write(tmp_path, optional=False)
    (metrics / "fit/no_norm_term-0.json").write_bytes((metrics / "fit/paper-0.json").read_bytes())
    for file, *keys, value in changes:
        change(metrics, file, *keys, value=value)
    claim = claims.judge_one(name, measured.load(metrics, with_no_norm_term()))
    assert claim.verdict == verdict, claim


def test_every_claim_is_exercised_on_both_sides() -> None:
    files = {path.stem for path in Path(claims.__file__).parent.glob("c*.py")}
    assert {name for name, *_ in CASES} == files
    assert [f"c{i:02}" for i in range(1, 12)] == sorted(name[:3] for name in files)
    for name in files - {"c08_without_svd", "c09_without_freezing", "c11_sft_and_code"}:
        found = {verdict for case, verdict, _ in CASES if case == name}
        assert {SUPPORTED, NOT_SUPPORTED} <= found


def test_claims_of_a_run_without_the_baselines_say_so(tmp_path: Path) -> None:
    """A profile's models are its methods: files of models it does not list are not read."""
    metrics = write(tmp_path, optional=False)
    (metrics / "pretrain/solar.json").write_text("not even JSON")
    methods = {"base": {"method": "base"}, "mine": {"method": "lesa"}}
    run = measured.load(metrics_of_mine(metrics), params(methods=methods))
    found = {claim.id: claim for claim in claims.judge(run)}
    assert list(run.pretrain) == ["base", "mine"]
    for claim in ("C4", "C5", "C6"):
        assert found[claim].verdict == NOT_TESTED
        assert found[claim].evidence == "no model of this run is made by llama_pro, solar"
    assert found["C7"].verdict == NOT_TESTED


def metrics_of_mine(metrics: Path) -> Path:
    """LESA's model under another name."""
    for stage in ("expand", "pretrain", "evaluate/init", "evaluate/trained"):
        (metrics / stage / "lesa.json").rename(metrics / stage / "mine.json")
    return metrics


def test_a_preset_that_is_not_fitted_is_left_out(tmp_path: Path) -> None:
    tree = params().fit.model_dump()
    tree["presets"]["unused"] = tree["presets"]["paper"] | {"norm_weight": 0.0}
    run = measured.load(write(tmp_path, optional=False), params(fit=tree))
    found = claims.judge_one("c10_norm_term", run)
    assert found.verdict == NOT_TESTED
    assert "unused" not in found.evidence
