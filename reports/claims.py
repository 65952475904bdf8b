"""The paper's claims C1 to C11: what the metrics here say of each, by a stated threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reports import continuity
from reports.measured import Metrics, files, perplexity_at
from reports.tables import Cell, Table, number

SUPPORTED, NOT_SUPPORTED = "supported here", "not supported here"
NOT_TESTED = "not tested here"
ON_PAR = 1.10  # C2: held-out loss over training loss
FIT_SECONDS = 300.0  # C3: five minutes
LEVEL = 0.05  # C1: significance, shared between the kinds
COLLAPSE = 0.5  # C10: norm ratio without the term over the one with it


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    threshold: str
    evidence: str
    verdict: str


Found = tuple[str, bool | None]  # evidence, and whether the threshold is met (None: not tested)


def _verdict(met: bool | None) -> str:
    return NOT_TESTED if met is None else SUPPORTED if met else NOT_SUPPORTED


def _three(m: Metrics) -> dict[str, str] | str:
    """Model names of LESA, LLaMA Pro and SOLAR here, or which one is missing."""
    found = {name: m.model_of(name) for name in ("lesa", "llama_pro", "solar")}
    missing = [name for name, model in found.items() if model is None]
    if missing:
        return f"no model of this run is made by {', '.join(missing)}"
    return {name: model for name, model in found.items() if model is not None}


def _final_tokens(m: Metrics, models: list[str]) -> set[int]:
    return {int(m.pretrain[name]["steps"][-1]["tokens"]) for name in models}


def c1(m: Metrics) -> Found:
    """Continuity of the top rows in the raw row space, Bonferroni over the kinds."""
    bar = LEVEL / len(m.svd)
    passed, ratios, layers = [], [], []
    for kind, content in m.svd.items():
        rows = np.asarray(content["top_rows"], dtype=np.float64)
        result = continuity.continuity(rows, "raw")
        ratios.append(result.ratio)
        layers.append(len(rows))
        if result.p_value < bar:
            passed.append(kind)
    if continuity.smallest_p(min(layers)) >= bar:
        return f"{min(layers)} layers are too few for any order to reach p < {bar:.2g}", None
    evidence = (
        f"{len(passed)} of {len(m.svd)} kinds reach p < {bar:.2g} "
        f"({', '.join(passed) or 'none'}); ratio {number(min(ratios))} to "
        f"{number(max(ratios))}, metrics/svd.json"
    )
    return evidence, len(passed) == len(m.svd)


def c2(m: Metrics) -> Found:
    """Held-out over training loss of every predictor of the first seed."""
    ratios: list[float] = []
    explained: list[float] = []
    for preset in m.fit:
        for c in m.first_fit(preset)["kinds"].values():
            if c["heldout"]:
                ratios.append(c["heldout"]["loss"] / max(c["train"]["loss"], 1e-300))
                explained.append(c["heldout"]["explained_variance"])
    if not ratios:
        return "no held-out predictor errors were measured", None
    within = sum(r <= ON_PAR for r in ratios)
    evidence = (
        f"{within} of {len(ratios)} predictors; ratio {number(min(ratios))} to "
        f"{number(max(ratios))}. Held-out explained variance {number(min(explained))} to "
        f"{number(max(explained))}"
    )
    if max(explained) <= 0:
        evidence += ": none predicts better than the mean, so parity alone says little"
    evidence += f". Triples of this one model only; {_fits(m)}"
    return evidence, within == len(ratios)


def _fits(m: Metrics) -> str:
    return files("fit", [f"{preset}-{m.first_fit(preset)['seed']}" for preset in m.fit])


def c3(m: Metrics) -> Found:
    """Seconds to fit all kinds once, the slowest preset and seed."""
    totals = {
        f"{preset}-{seed}": sum(float(c["seconds"]) for c in content["kinds"].values())
        for preset, by_seed in m.fit.items()
        for seed, content in by_seed.items()
    }
    name, slowest = max(totals.items(), key=lambda item: item[1])
    evidence = (
        f"slowest {number(slowest)} s ({name}), on a base of {m.base['parameters']:,} "
        f"parameters; {files('fit', list(totals))}"
    )
    return evidence, slowest < FIT_SECONDS


def c4(m: Metrics) -> Found:
    """Held-out loss at step 0."""
    three = _three(m)
    if isinstance(three, str):
        return three, None
    loss = {k: float(m.pretrain[v]["steps"][0]["heldout_loss"]) for k, v in three.items()}
    evidence = ", ".join(f"{three[k]} {number(v)}" for k, v in loss.items())
    return (
        f"{evidence}; {files('pretrain', list(three.values()))}",
        loss["lesa"] < min(loss["llama_pro"], loss["solar"]),
    )


def c5(m: Metrics) -> Found:
    """LESA's loss at half of its steps against the baselines' last, and the seconds of both."""
    three = _three(m)
    if isinstance(three, str):
        return three, None
    if len(_final_tokens(m, list(three.values()))) > 1:
        return "the three were trained for different numbers of tokens", None
    lesa = m.pretrain[three["lesa"]]
    total = lesa["steps"][-1]["step"]
    half = next((s for s in lesa["steps"] if 0 < 2 * s["step"] == total), None)
    if half is None:
        return f"no held-out loss was measured at half of the {total} steps", None
    spent = float(lesa["seconds"]) * half["step"] / total
    others = {k: m.pretrain[three[k]] for k in ("llama_pro", "solar")}
    if not all(p["seconds"] for p in (lesa, *others.values())):
        return "a run timed no training step", None
    ahead = all(half["heldout_loss"] < p["steps"][-1]["heldout_loss"] for p in others.values())
    cheap = all(spent < float(p["seconds"]) / 2 for p in others.values())
    listed = ", ".join(
        f"{three[k]} {number(p['steps'][-1]['heldout_loss'])} after {number(float(p['seconds']))} s"
        for k, p in others.items()
    )
    evidence = (
        f"{three['lesa']} {number(half['heldout_loss'])} at step {half['step']} of {total}, "
        f"after {number(spent)} s (its share of the run); {listed}; "
        f"{files('pretrain', list(three.values()))}"
    )
    return evidence, ahead and cheap


def _cached(m: Metrics) -> str:
    """What the timed steps leave out."""
    if not m.params.train.prefix_cache:
        return ""
    return "; frozen layers below a model's first trainable one ran before (train.prefix_cache)"


def c6(m: Metrics) -> Found:
    """Training seconds for the same tokens, against how much equal work differs.

    Models of LESA's own layer plan do LESA's work with other numbers, so their seconds are
    measurements of the same quantity: LESA's is the slowest of them, and their range is printed.
    """
    three = _three(m)
    if isinstance(three, str):
        return three, None
    if len(_final_tokens(m, list(three.values()))) > 1:
        return "the three were trained for different numbers of tokens", None
    seconds = {k: float(m.pretrain[v]["seconds"]) for k, v in three.items()}
    if min(seconds.values()) <= 0:
        return "a run timed no training step", None
    plan = m.expand[three["lesa"]]["plan"]
    equal = [name for name in m.expand if m.expand[name]["plan"] == plan]
    times = [float(m.pretrain[name]["seconds"]) for name in equal]
    shares = ", ".join(
        f"{three[k]} {number(s)} s ({100 * s / seconds['lesa']:.0f}%)" for k, s in seconds.items()
    )
    return (
        f"{shares}; the same work took {number(min(times))} to {number(max(times))} s "
        f"({', '.join(equal)}){_cached(m)}; {files('pretrain', [*m.expand])}",
        max(times) < min(seconds["llama_pro"], seconds["solar"]),
    )


def c7(m: Metrics) -> Found:
    """Perplexity at initialisation of LESA and SOLAR at 1.5 times the layers."""
    lesa, solar = m.model_of("lesa"), m.model_of("solar")
    if lesa is None or solar is None:
        return "LESA or SOLAR is not among the models of this run", None
    layers = [len(m.expand[name]["plan"]) / m.base["num_hidden_layers"] for name in (lesa, solar)]
    if any(abs(factor - 1.5) > 1e-9 for factor in layers):
        return f"layers grew by {layers[0]:.3g} and {layers[1]:.3g} here, not by 1.5", None
    a, b = perplexity_at(m.pretrain[lesa], 0)[0], perplexity_at(m.pretrain[solar], 0)[0]
    evidence = (
        f"{lesa} {number(a)}, {solar} {number(b)}; on this base only; SOLAR's divergence on "
        f"Qwen2.5-32B is not tested; {files('pretrain', [lesa, solar])}"
    )
    return evidence, a < b


def c10(m: Metrics) -> Found:
    """Norm ratios of presets with and without the norm term."""

    def ratio(preset: str) -> float:
        kinds: dict[str, Any] = m.first_fit(preset)["kinds"]
        return float(np.mean([c["train"]["norm_ratio"] for c in kinds.values()]))

    weights = {name: p.norm_weight for name, p in m.params.fit.presets.items()}
    listed = ", ".join(f"{name} (λ {w:g}) {number(ratio(name))}" for name, w in weights.items())
    evidence = f"mean norm ratio of the predictions: {listed}; {_fits(m)}"
    without = [name for name, w in weights.items() if w == 0]
    with_term = [name for name, w in weights.items() if w > 0]
    if not without or not with_term:
        return f"no pair of presets with λ = 0 and λ > 0; {evidence}", None
    return evidence, ratio(without[0]) < COLLAPSE * ratio(with_term[0])


def _untested(why: str) -> Found:
    return why, None


def judge(m: Metrics) -> list[Claim]:
    """A row for every claim of the paper, in its order."""
    rows: list[tuple[str, str, str, Found]] = [
        (
            "C1",
            "Neighbouring layers' SVD coefficients show continuity",
            f"permutation p < {LEVEL} / number of kinds in the raw row space, for every kind",
            c1(m),
        ),
        (
            "C2",
            "The predictor's test loss is on par with its training loss",
            f"held-out loss at most {ON_PAR:.2f} × training loss, for every kind and preset",
            c2(m),
        ),
        (
            "C3",
            "Fitting the predictors takes under 5 minutes",
            f"all kinds together under {FIT_SECONDS:.0f} s, for every preset and seed",
            c3(m),
        ),
        (
            "C4",
            "LESA starts at the lowest loss of the three methods",
            "held-out loss at step 0 below LLaMA Pro's and SOLAR's",
            c4(m),
        ),
        (
            "C5",
            "LESA at half the steps beats both baselines at full steps: under half the cost",
            "loss at half of the steps below both final ones, in under half of each one's seconds",
            c5(m),
        ),
        (
            "C6",
            "LESA's training time is the lowest",
            "training seconds of all models with LESA's layer plan below both baselines'",
            c6(m),
        ),
        (
            "C7",
            "At initialisation LESA's perplexity is below SOLAR's at 1.5 times the layers",
            "held-out perplexity at step 0 below SOLAR's",
            c7(m),
        ),
        (
            "C8",
            "Without SVD LESA is worse, but still beats LLaMA Pro",
            "needs a model whose predictor reads raw weights",
            _untested("this run has no predictor of raw weights"),
        ),
        (
            "C9",
            "Without freezing the original layers the loss falls more slowly and fluctuates",
            "needs LESA with every layer trained",
            _untested("this run does not compare the two"),
        ),
        (
            "C10",
            "Without the norm term the predicted parameters collapse towards zero",
            f"mean norm ratio at λ = 0 below {COLLAPSE} × the one at λ > 0",
            c10(m),
        ),
        (
            "C11",
            "After SFT, and in the code domain, LESA stays ahead",
            "needs SFT and code pre-training",
            _untested("this run has neither SFT nor code"),
        ),
    ]
    return [Claim(i, text, bar, found[0], _verdict(found[1])) for i, text, bar, found in rows]


def table(claims: list[Claim]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "id": c.id,
            "claim": c.claim,
            "threshold": c.threshold,
            "verdict": c.verdict,
            "evidence": c.evidence,
        }
        for c in claims
    ]
    return Table(
        "claims",
        "The paper's claims, judged by the metrics of this run",
        "the files named in each row",
        rows,
    )
