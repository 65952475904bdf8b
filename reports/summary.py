"""The report's first lines, and what sets this run apart from the paper's.

Every clause is chosen by what was measured, and says so where nothing was.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from reports import domains, official, opt_deus, own_start, start
from reports.claims import (
    PARTLY,
    RIVALS,
    Claim,
    Verdict,
    c02_generalisation,
    in_order,
    left_open,
    overall,
)
from reports.contest import advice, by_side, longest, nats, of_own_text, placed, sides, worth
from reports.controls import REPLACED
from reports.ends import in_short
from reports.measured import TRAINING_STUDIES, Json, Metrics, dtypes, files
from reports.paired import interval
from reports.speed import time_ratio
from reports.tables import Measured, Table, counted, number, series, show, show_interval
from reports.training_runs import difference, schedules

SMALLEST = 1.5e9  # parameters of the paper's smallest model
PAPER = (
    "**The paper:** LESA makes a language model deeper with layers that a small network predicts "
    "from their neighbours, and says that this starts lower, costs less and ends better than "
    "LLaMA Pro (copied layers that begin as the identity) and SOLAR (two overlapping parts of the "
    "model, stacked)."
)


def lines(m: Metrics, judged: list[Claim]) -> list[str]:
    """What the paper says, what was run here, and how many claims came out how; the table of the
    claims follows. Each line is a sentence or two of Markdown that begin in bold."""
    return [PAPER, f"**Here:** {setting(m)}.", *in_short(m), by_verdict(judged)]


def answers(m: Metrics) -> list[str]:
    """What follows from the numbers beyond the paper's claims, in lines of the same form."""
    measured = [*worth(m), *benchmarks(m), *own_start.begins(m), *saving(m)]
    return [*origin(m), *measured, advice(m), reach(m)]


def by_verdict(judged: list[Claim]) -> str:
    """How many claims have which verdict, and which."""
    said = []
    for verdict, words in WORDS.items():
        of = [
            " ".join([claim.id, *left_open(claim.findings)])
            for claim in judged
            if overall(claim.findings) == verdict
        ]
        if of:
            said.append(f"{words}: {len(of)} ({', '.join(of)})")
    return f"**The paper's {len(judged)} claims:** {'; '.join(said)}."


def benchmarks(m: Metrics) -> list[str]:
    """The paper's main measure: LESA's average over the tasks of study official, beside others'."""
    if (lesa := official.of_model(m, "lesa", "trained")) is None:
        return []
    found = official.examples(lesa)
    count = sum(results.shape[1] for results in found.values())
    longer = beside_others(m, "longer")
    return [
        f"**Benchmarks:** trained LESA's average accuracy over {len(found)} tasks of {count:,} "
        f"examples ({counted(len(lesa.by_seed), 'seed')} of study `budget`) is "
        f"{beside_others(m, 'trained')}." + (f" It is {longer}." if longer else "")
    ]


def beside_others(m: Metrics, phase: str) -> str:
    """LESA's average accuracy after the training of `phase`, and on which side of it others are."""
    if (lesa := official.of_model(m, "lesa", phase)) is None:
        return ""
    others = {(model, phase): f"{name}'s" for model, name in RIVALS.items()}
    others |= {("base", phase): "the trained base's", ("base", "init"): "the untouched base's"}
    places = by_side(
        (f"{whose} ({show_interval(gap)} points)", gap)
        for key, whose in others.items()
        if (other := official.of_model(m, *key))
        and (gap := official.difference(lesa, other)) is not None
    )
    beside = "; ".join(f"{place} {series(names)}" for place, names in places.items())
    runs = official.trained_runs(m, phase)
    after = f" after {runs.tokens:,} tokens" if runs else ""
    return f"{official.average(lesa):.1f}%{after}{f': {beside}' if beside else ''}"


def saving(m: Metrics) -> list[str]:
    """What makes LESA's steps cheaper, beside copies of layers in the same gaps."""
    if (ratio := time_ratio(m, "identity")) is None:
        return []
    return [
        "**Time:** a training step of layers copied into LESA's own gaps (`identity`) takes "
        f"{show_interval(ratio.scaled(100))}% of the time of LESA's: the time depends on where the "
        "new layers stand and on what else trains."
    ]


def reach(m: Metrics) -> str:
    """How far the numbers reach, and what would take them further."""
    blocks = next(iter(m.pretrain.values()))["heldout_documents"]
    size = len(blocks) * m.corpus["block_size"]
    texts = [f"{len(set(blocks))} documents ({size:,} tokens)"]
    if m.scale:
        packages = set(next(iter(m.scale.values()))["heldout_documents"])
        texts.append(f"{len(packages)} packages of Python source")
    there = "llama3-8b"
    on_a_gpu = f" On 8 GPUs: `make profile PROFILE={there}`, `make report`."
    return (
        f"**How far this reaches:** one model of {size_of_base(m)} parameters, "
        f"held out {' and '.join(texts)}{choices_of_signs(m)}."
        + (on_a_gpu if m.params.profile != there else "")
    )


def choices_of_signs(m: Metrics) -> str:
    """How many choices of the signs of U's columns the trained LESAs have between them."""
    trained = [*m.budget.values(), *m.scale.values()]
    signs = Counter(run.get("signs") for run in trained if run["method"] == "lesa")
    del signs[None]
    if not signs:
        return ""
    ((usual, most),) = signs.most_common(1)
    others = signs.total() - most
    but = f", but for {counted(others, 'run')}" if others else ""
    return f"; the trained LESAs have one choice of signs, `{usual}`{but}"


WORDS = {
    str(Verdict.HOLDS): "hold",
    str(Verdict.FAILS): "do not hold",
    PARTLY: "hold in part",
    str(Verdict.UNDECIDED): "not decided",
    str(Verdict.CANNOT): "not tested yet",
}


def this_run(m: Metrics) -> str:
    """Which predictors this run's LESA has: other draws are the study's."""
    lesa = m.model_of("lesa")
    fits = m.params.methods[lesa].needs if lesa else []
    said = [f"preset {m.fit[name]['preset']}, seed {m.fit[name]['seed']}" for name in fits]
    return f"This run's `{lesa}` is {'; '.join(said)}." if said else ""


def setting(m: Metrics) -> str:
    """The base, its depth before and after, and the budgets."""
    last = max(int(run["steps"][-1]["tokens"]) for run in m.pretrain.values())
    deeper = {len(content["plan"]) for content in m.expand.values()}
    layers = f"{m.base['num_hidden_layers']} → {max(deeper)} layers"
    most = max((contest.tokens for contest in longest(m)), default=last)
    studies = f", studies for up to {most:,}" if most > last else ""
    weights, effect = quantised(m)
    rounded = weights.partition(",")[0] if effect != "none" else ""
    small = ". What fails at this size may hold at the paper's" * (m.base["parameters"] < SMALLEST)
    return (
        f"{m.base_name} of {size_of_base(m)} parameters"
        f"{f', {rounded}' * bool(rounded)}, {layers}; this run trains each model for {last:,} "
        f"tokens{studies}{small}"
    )


def size_of_base(m: Metrics) -> str:
    """Its parameters, as a model's name has them."""
    parameters = m.base["parameters"]
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}"
    return f"{parameters:,}"


def short(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:#.3g}".rstrip(".") if 1 <= value < 999.5 else number(float(f"{value:.3g}"))


def origin(m: Metrics) -> list[str]:
    """What LESA's start turned out to be: its predictions, its draws, and what does as well."""
    lesa = m.model_of("lesa")
    if lesa is None:
        return ["**What LESA's start is:** no model of this run is made by LESA."]
    parts = {
        "What LESA predicts": [*unseen(m), *rank(m, lesa)],
        "What its start turns on": [*spread(m), *last_digits(m), *by_norm_weight(m)] or NOT_DRAWN,
        "What can stand in for its predictions before training": [
            *beside_random(m), *fitted_on(m), *permuted(m)
        ],
    }  # fmt: skip
    return [
        f"**{title}:** {' '.join(f'{line[0].upper()}{line[1:]}.' for line in said)}"
        for title, said in parts.items()
        if said
    ]


NOT_DRAWN = ["over seeds and signs not measured yet (`make study NAME=start`)"]


def unseen(m: Metrics) -> list[str]:
    """What the predictors are worth on layers that they were not fitted on."""
    found = [
        f"{show_interval(interval(c02_generalisation.ratios(blind, domains.over_zero)))} times "
        f"that of predicting zero with preset `{preset}`"
        for preset, blind in c02_generalisation.blind_fits(m).items()
        if m.params.fit.presets[preset].norm_weight
    ]
    if not found:
        return []
    return [
        f"on layers that they were not fitted on, the predictors' squared error is {series(found)}"
    ]


def rank(m: Metrics, lesa: str) -> list[str]:
    """How near the predicted matrices are to rank one, beside the base's own."""
    shares = [
        [float(c["rank_one_share"]) for c in kinds if c]
        for kinds in (
            list(m.expand[lesa]["new_weight_structure"].values()),
            [content["structure"] for content in m.svd.values()],
        )
    ]
    if not all(shares):
        return []
    new, own = (f"{min(of):.0%} to {max(of):.0%}" for of in shares)
    return [
        f"of a predicted matrix's squared norm one direction has {new}, by kind, in this run's "
        f"`{lesa}` (of the base's own {own}; of a matrix of rank one 100%)"
    ]


def spread(m: Metrics) -> list[str]:
    """What a draw of signs and seed does, and whether one constant row does the same."""
    moved, alike = [], dict[str, list[str]]()
    for lesa in start.lesa_starts(m):
        low, high = float(lesa.perplexities.min()), float(lesa.perplexities.max())
        moved.append(
            f"{short(low)} to {short(high)} over {len(lesa.rows)} draws with preset `{lesa.preset}`"
        )
        if (correlation := start.rank_correlation(m, lesa)) is not None:
            rho, p = correlation
            verb = "rises and falls" if rho > 0 and p < 0.05 else "does not rise and fall"
            alike.setdefault(verb, []).append(f"{rho:.2f} with `{lesa.preset}`")
    if not moved:
        return []
    return [
        "the predictor's seed and the signs of U's columns, which no source fixes: its perplexity "
        f"is {series(moved)}{neither(m)}",
        *(
            f"over the draws it {verb} with that of one constant row put into every gap (rank "
            f"correlation {series(found)})"
            for verb, found in alike.items()
        ),
    ]


def neither(m: Metrics) -> str:
    """Whether one of the two moves a start by itself, by F tests."""
    found = [start.f_test_p(of, key) for of in start.lesa_starts(m) for key in ("seed", "signs")]
    known = [p for p in found if p is not None]
    if not known or min(known) < 0.05:
        return ""
    return f"; neither alone is seen to move it (F tests, p at least {min(known):.2f})"


def last_digits(m: Metrics) -> list[str]:
    """What the rounding of the SVD, another processor's, does to draws of one seed and signs."""
    found = []
    for again in start.lesa_starts(m, start.AGAIN):
        if (lesa := start.of_lesa(m, again.preset)) and start.pairs(again, lesa):
            moved = start.matched(again, lesa)  # (draws, documents)
            found.append(
                f"by {show_interval(interval(moved))} nats on average and "
                f"{short(float(np.abs(moved.mean(1)).max()))} at most with `{again.preset}` "
                f"({counted(len(moved), 'draw')})"
            )
    return [f"where the SVD has other last digits its loss moves {series(found)}"] if found else []


def beside_random(m: Metrics) -> list[str]:
    """Whether it starts below random matrices of its norms, and of its singular values."""
    gaps = [
        (
            f"that of {REPLACED[method]} ({show_interval(interval(found))} nats; "
            f"{start.lower_in(found)} draws)",
            interval(found),
        )
        for lesa in start.lesa_starts(m)[:1]
        for method in ("noise", "spectrum")
        if (other := start.beside(m, lesa, method))
        for found in [start.matched(lesa, other)]
    ]
    return [f"LESA's loss is {sides(gaps)}"] if gaps else []


FITTED_ON = {"fitted_on=shuffled": "layers in shuffled order", "fitted_on=noise": "Gaussian noise"}


def fitted_on(m: Metrics) -> list[str]:
    """Whether a predictor needs the layers' order, or the layers, to start as low."""
    said = []
    for settings, on in FITTED_ON.items():
        gaps = [
            (
                f"LESA's with `{lesa.preset}` ({show_interval(gap)} nats, "
                f"{counted(len(start.pairs(other, lesa)), 'draw')})",
                gap,
            )
            for lesa in start.lesa_starts(m)
            for other in start.of_preset(m, "lesa", lesa.preset)
            if other.settings == settings
            for gap in [start.difference(other, lesa)]
        ]
        if gaps:
            said.append(f"fitted on {on}, its loss is {sides(gaps)}")
    return said


def permuted(m: Metrics) -> list[str]:
    """Whether a prediction is worth more in its own gap than in another's."""
    return [
        "with its predictions in one another's gaps it "
        + in_order(
            start.difference(other, lesa),
            "starts lower",
            "starts higher",
            "is not told apart from LESA",
        )
        + f" ({counted(len(other.rows), 'permutation')}, {counted(predictors, 'fit')})"
        for lesa in start.lesa_starts(m)[:1]
        for other in start.of_preset(m, "lesa_permuted", lesa.preset)
        for predictors in [len({(row["seed"], row["signs"]) for row in other.rows})]
    ]


def by_norm_weight(m: Metrics) -> list[str]:
    """What the weight of the norm term, which sets the size of what is predicted, does to it."""
    for lesa in start.lesa_starts(m)[:1]:
        starts = start.by_norm_weight(m, lesa.preset)
        found = {weight: float(np.median(other.perplexities)) for weight, other in starts.items()}
        if len(found) < 2:
            return []
        ends = min(found), max(found, key=lambda weight: found[weight])
        said = [
            f"{short(found[weight])} at {weight:g} ({short(min(of))} to {short(max(of))}; mean "
            f"loss {placed(start.difference(starts[weight], lesa))} LESA's)"
            for weight in ends
            for of in [starts[weight].perplexities]
        ]
        draws = counted(min(len(starts[weight].rows) for weight in ends), "draw")
        return [f"by the weight of the norm term its median over {draws} is {series(said)}"]
    return []


def differences(m: Metrics) -> Table:
    """What sets this run apart from the paper's, and what each difference can do."""
    rows: list[tuple[str, str, str, str]] = [
        (
            "model",
            "Llama-3-8B to 11.5B, 32 → 48 layers",
            f"{m.base_name}, {size_of_base(m)} parameters, {m.base['num_hidden_layers']} layers",
            "a small model has less to spare in a layer: starts and orders of methods may differ",
        ),
        ("weights", "not stated", *quantised(m)),
        (
            "text",
            "Wikipedia 2024-11",
            f"{m.corpus['source']}, {m.corpus['tokens']['train']:,} training tokens",
            "what the base has read before gains less from training; perplexities do not compare",
        ),
        (
            "budget",
            "6,000 steps; batch, tokens and learning rate not stated",
            budget_here(m),
            "a short run sees the start and the first fall, and no crossing that comes later",
        ),
        (
            "precision",
            "not stated; the official code fits in float32",
            precision_here(m),
            "bfloat16 rounds small updates away; a difference of machines, not of methods",
        ),
        (
            "perplexity",
            "not stated; the official code takes the mean over documents of exp(loss), 2,048 "
            "tokens each",
            f"exp of the mean loss over blocks of {m.corpus['block_size']} tokens; the code's "
            "beside it before training",
            "a mean of exponentials is ruled by the worst documents: it spreads bad starts further",
        ),
        (
            "signs of U's columns",
            "not stated; the code keeps what its SVD returns",
            signs(m),
            "another choice trains another predictor: LESA starts elsewhere",
        ),
    ]
    return Table(
        "differences",
        "How this differs from the paper",
        "reports/published.yaml, params.yaml, metrics/base.json, metrics/corpus.json, "
        f"{files('pretrain', m.models)}",
        [
            dict(zip(("what", "paper", "here", "what it can do to the result"), row, strict=True))
            for row in rows
        ],
    )


def quantised(m: Metrics) -> tuple[str, str]:
    """Whether the base was rounded to few bits before, by the name of its file; what that does."""
    if (bits := re.search(r"\.(Q(\d)\w*)\.gguf", str(m.base["source"]))) is None:
        return "as its source has them", "none"
    return (
        f"rounded to {bits[2]} bits ({bits[1]}), then read as floating point",
        "rounding noise differs from layer to layer: small singular values are noise, and "
        "neighbours look less alike",
    )


def budget_here(m: Metrics) -> str:
    ends = [run["steps"][-1] for run in m.pretrain.values()]
    steps, tokens = (max(int(end[key]) for end in ends) for key in ("step", "tokens"))
    rates = sorted({float(run["learning_rate"]) for run in m.pretrain.values()})
    grid = {f"{int(own['max_steps'])} steps" for own in m.grid.values()}
    of = f" of {' or '.join(sorted(grid))}" if grid else ""
    span = " to ".join(number(rate) for rate in sorted({rates[0], rates[-1]}))
    said = f"{steps:,} steps, {tokens:,} tokens; each model's rate the best of a grid{of} (chosen: "
    said += f"{span})"
    for study, found in (("budget", m.budget), ("scale", m.scale)):
        if lengths := [f"{r.max_steps:,} ({r.tokens:,})" for r in schedules(found, "lesa")]:
            said += f"; study `{study}`, steps (tokens): {', '.join(lengths)}"
    return said


def precision_here(m: Metrics) -> str:
    """Of matrix products in training: this run's, and those of the studies of training runs."""
    said = f"{dtypes(m.pretrain.values())} for training"
    for study in TRAINING_STUDIES:
        if runs := getattr(m, study):
            said += f"; study `{study}` {dtypes(runs.values())}"
    return said


def signs(m: Metrics) -> str:
    drawn = {str(row["signs"]) for row in m.start.values() if row["signs"] is not None}
    said = "each column's largest entry is positive"
    return f"{said}; {len(drawn)} choices in the study `start`" if drawn else said


def agreement(m: Metrics, published: list[Json]) -> str:
    """Where the independent re-run agrees with the paper's averages and with what is measured here.

    published: rows of the paper's main table.
    """
    averages = {row["method"]: float(row["average"]) for row in published if row["share"] == 1}
    said = []
    for method, name in RIVALS.items():
        paper = averages["lesa"] - averages[method]
        leads = [
            f"{lead(gap, paper)} at {size}"
            for size in opt_deus.BASES
            if (gap := opt_deus.minus_lesa(size, method, opt_deus.LAST)) is not None
        ]
        said.append(f"above {name} by {', '.join(leads)}, where the paper has {paper:.2f}")
    return f"In mean accuracy LESA ends {'; '.join(said)}, in points. {here_too(m)}"


def lead(gap: Measured, paper: float) -> str:
    """LESA's lead in points with its error, and whether it has the sign of the paper's."""
    told = abs(gap.value) > 1.96 * (gap.stderr or 0.0)
    agrees = "agrees" if -gap.value * paper > 0 else "disagrees"
    shown = show(Measured(-gap.value, gap.stderr))
    return f"{shown} ({agrees if told else 'not told from 0'})"


def here_too(m: Metrics) -> str:
    """The same comparisons by the loss measured here."""
    parts, own_text = [], of_own_text(m)
    for contest in own_text[-1:]:
        for method, name in RIVALS.items():
            runs, other = contest.runs.get("lesa"), contest.runs.get(method)
            if runs and other and (gap := difference(runs, other)) is not None:
                parts.append(f"{placed(gap)} {name} {nats(gap)}")
    if not parts:
        return "The same comparison was not measured here."
    return f"Here LESA's loss after {own_text[-1].where('lesa')} is {' and '.join(parts)}."
