"""The report's first lines, and what sets this run apart from the paper's.

Every clause is chosen by what was measured, and says so where nothing was.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from reports import rates, rerun, start
from reports.budget import longer_runs, main_runs, of_other_growths
from reports.claims import Claim, Verdict, above, below, in_short
from reports.measured import Json, Metrics, files, losses_at, perplexity_at
from reports.paired import Interval, paired
from reports.tables import Table, number, show_interval
from reports.training_runs import (
    IDENTITY_STARTS,
    Runs,
    called,
    difference,
    groups,
    new_layers,
    on_the_way,
)

PAPER = (
    "**The paper:** LESA makes a language model deeper with layers that a small network predicts "
    "from their neighbours, and says that this starts lower, costs less and ends better than "
    "LLaMA Pro and SOLAR."
)
NEAR_RANK_ONE = 0.5  # of the squared norm of a matrix, in its largest singular value


def lines(m: Metrics, judged: list[Claim]) -> list[str]:
    """The answer in short: each line is a sentence or two of Markdown that begin in bold."""
    here = f"**Here:** {setting(m)}: {perplexities(m)}."
    return [PAPER, here, *by_verdict(judged), origin(m), advice(m), *at_longer_budgets(m)]


def by_verdict(judged: list[Claim]) -> list[str]:
    """The claims, a line for each verdict that one has."""
    said = []
    for verdict, words in WORDS.items():
        named = []
        for claim in judged:
            of_claim, comma, limit = in_short(claim.findings).partition(",")
            if of_claim == verdict:
                cited = f"{claim.id}{comma}{limit}"
                untested = verdict == Verdict.CANNOT
                named.append(cited if untested else f"{claim.short} ({cited})")
        if named:
            said.append(f"**{words}:** {'; '.join(named)}.")
    return said


WORDS = {
    str(Verdict.HOLDS): "What holds",
    str(Verdict.FAILS): "What does not hold",
    "differs": "What holds only in part, by preset, seed, size or rival",
    str(Verdict.UNDECIDED): "Not decided",
    str(Verdict.CANNOT): "Not tested yet",
}


def this_run(m: Metrics) -> str:
    """Which predictors this run's LESA has: other draws are the study's."""
    lesa = m.model_of("lesa")
    fits = m.params.methods[lesa].needs if lesa else []
    said = [f"preset {m.fit[name]['preset']}, seed {m.fit[name]['seed']}" for name in fits]
    return f"This run's `{lesa}` is {'; '.join(said)}." if said else ""


def setting(m: Metrics) -> str:
    """The base, its depth before and after, and the budget."""
    last = max(int(run["steps"][-1]["tokens"]) for run in m.pretrain.values())
    deeper = {len(content["plan"]) for content in m.expand.values()}
    layers = f"{m.base['num_hidden_layers']} → {max(deeper)} layers"
    size = short_count(m.base["parameters"])
    return f"{m.base_name} of {size} parameters, {layers}, {last:,} tokens"


def short_count(parameters: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}"
    return f"{parameters:,}"


def three(value: float) -> str:
    """Three significant digits, thousands separated."""
    return number(float(f"{value:.3g}"))


def perplexities(m: Metrics) -> str:
    """Held-out perplexity of every model before and after training, lowest end first."""
    ends = {
        name: (perplexity_at(run, 0)[0], perplexity_at(run, -1)[0])
        for name, run in m.pretrain.items()
    }
    order = sorted(ends, key=lambda name: ends[name][1])
    listed = ", ".join(
        f"`{name}` {three(ends[name][0])} → {three(ends[name][1])}" for name in order
    )
    return f"held-out perplexity before → after training: {listed}"


def origin(m: Metrics) -> str:
    """What LESA's start turned out to be."""
    lesa = m.model_of("lesa")
    if lesa is None:
        return "**What its start is:** no model of this run is made by LESA."
    said = [*rank(m, lesa), *spread(m), *fitted_on(m)]
    if not start.lesa_starts(m):
        said.append("over seeds and signs not measured yet (`make study NAME=start`)")
    return f"**What its start is:** {'; '.join(said)}."


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
    new, own = (float(np.mean(of)) for of in shares)
    near = (
        "close to rank one, each row a multiple of one row"
        if new >= NEAR_RANK_ONE
        else "far from rank one"
    )
    return [
        f"its matrices are {near}: {new:.0%} of their squared norm is in one direction "
        f"({own:.0%} in the base's)"
    ]


def spread(m: Metrics) -> list[str]:
    """What a draw of signs and seed does, and whether one constant row does the same."""
    moved = []
    for lesa in start.lesa_starts(m):
        low, high = float(lesa.perplexities.min()), float(lesa.perplexities.max())
        draws = f"preset `{lesa.preset}`, {len(lesa.rows)} draws"
        text = f"from {three(low)} to {three(high)} ({draws}"
        if (correlation := start.rank_correlation(m, lesa)) is not None:
            rho, p, _ = correlation
            verb = "following" if rho > 0 and p < 0.05 else "not following"
            text += f", {verb} that of one constant row: rank correlation {rho:.2f}"
        moved.append(f"{text})")
    if not moved:
        return []
    return [
        "the signs of U's columns and the predictor's seed, which no source fixes, move its "
        f"perplexity {', and '.join(moved)}"
    ]


FITTED_ON = {"fitted_on=shuffled": "layers in shuffled order", "fitted_on=noise": "noise"}


def fitted_on(m: Metrics) -> list[str]:
    """Whether a predictor needs the layers' order, or the layers, to start as low."""
    found: dict[str, list[str]] = {}
    for lesa in start.lesa_starts(m)[:1]:
        for other in start.starts(m):
            own = (other.method, other.preset) == ("lesa", lesa.preset)
            if own and other.settings in FITTED_ON:
                gap = start.difference(lesa, other)
                words = in_order(
                    gap,
                    "lower than",
                    "higher than",
                    "neither clearly lower nor clearly higher than",
                )
                found.setdefault(words, []).append(FITTED_ON[other.settings])
    return [
        f"it starts {words} with a predictor fitted on {' or '.join(on)}"
        for words, on in found.items()
    ]


def in_order(gap: Interval, lower: str, higher: str, undecided: str) -> str:
    """The words for a difference that its interval puts below 0, above 0 or neither."""
    if below(gap) is Verdict.HOLDS:
        return lower
    return higher if above(gap) is Verdict.HOLDS else undecided


Gap = Callable[[str, str], Interval | None]


# What trains without a new layer on the same tokens, by what the study says that it trains.
AS_DEEP_AS_THE_BASE = {
    "all": "the base trained whole on the same tokens, with no new layer,",
    "lora": "LoRA with as many parameters as the new layers, and no new layer,",
}


def contest(m: Metrics) -> tuple[dict[str, float], dict[str, str], Gap, str]:
    """Final losses by model, words for those with no new layer, differences of final losses, and
    where from.

    Of the study's main schedule if LESA is in it, else of this run; models that saw other
    numbers of tokens are left out.
    """
    if (lesa := called(m.budget, "lesa")) is not None:
        of_study = {runs.name: runs for runs in main_runs(m) if runs.tokens == lesa.tokens}
        ends = {name: runs.final_loss for name, runs in of_study.items()}
        shallow = {
            name: AS_DEEP_AS_THE_BASE[runs.first["trains"]]
            for name, runs in of_study.items()
            if runs.first["method"] == "base"
        }

        def studied(a: str, b: str) -> Interval | None:
            return difference(of_study[a], of_study[b])

        return ends, shallow, studied, f"{lesa.tokens:,} tokens, study `budget`"
    last = {name: int(run["steps"][-1]["tokens"]) for name, run in m.pretrain.items()}
    most = max(last.values())
    ends = {n: float(losses_at(m.pretrain[n], -1).mean()) for n in last if last[n] == most}
    base = m.model_of("base")
    shallow = {base: AS_DEEP_AS_THE_BASE["all"]} if base in ends else {}

    def run(a: str, b: str) -> Interval | None:
        return paired(losses_at(m.pretrain[a], -1), losses_at(m.pretrain[b], -1))

    return ends, shallow, run, f"{most:,} tokens"


def advice(m: Metrics) -> str:
    """Which deepened model to take at the longest budget measured."""
    ends, shallow, gap_of, budget_said = contest(m)
    deep = {name: loss for name, loss in ends.items() if name not in shallow}
    if len(deep) < 2:
        return "**Which to take:** too few deepened models were trained on equally many tokens."
    best = min(deep, key=lambda name: deep[name])
    gaps = {name: gap_of(name, best) for name in deep if name != best}
    level = [n for n, gap in gaps.items() if gap is None or below_nothing(gap)]
    said = f"**Which to take:** {named(best)} has the lowest loss after training ({budget_said})"
    if level:
        said += f", not told apart from {', '.join(f'`{name}`' for name in level)}"
    if (lesa := gaps.get("lesa")) is not None and "lesa" not in level:
        said += f"; `lesa` is {show_interval(lesa)} nats above it"
    rivals = {trained: gap for n, trained in shallow.items() if (gap := gap_of(n, best))}
    return f"{said}{without_depth(rivals)}.{where_nothing_is_forgotten(m)}"


def without_depth(rivals: dict[str, Interval]) -> str:
    """What is trained without a new layer beside the lowest deepened model, by its words and its
    loss minus that model's: does depth pay?"""
    said = ""
    for trained, gap in rivals.items():
        words = in_order(gap, "lower still", "higher", "not told apart from it")
        said += f"; {trained} is {words} ({show_interval(gap)} nats)"
    if any(above(gap) is not Verdict.HOLDS for gap in rivals.values()):
        said += ". So at this budget new layers are not seen to gain anything over none"
    elif missing := [words for words in AS_DEEP_AS_THE_BASE.values() if words not in rivals]:
        said += f"; {' and '.join(missing)} was not measured: whether depth pays is open"
    return said


def beside(gap: Interval) -> str:
    order = in_order(gap, "below", "above", "not told apart from")
    return f"{order} LLaMA Pro ({show_interval(gap)} nats)"


# This project's own models, which no paper names.
OWN = {
    "llama_pro_lora": "LLaMA Pro's start with adapters beside all layers",
    "llama_pro_upper": "LLaMA Pro's places, copies of the layer above",
    "fitted_llama_pro": "LLaMA Pro's start with fitted outputs",
    "fitted_identity": "`identity` with fitted outputs",
}


def named(model: str) -> str:
    return f"`{model}` ({OWN[model]})" if model in OWN else f"`{model}`"


def where_nothing_is_forgotten(m: Metrics) -> str:
    """The lowest model whose old layers stay as they are, by its difference to LLaMA Pro's; nothing
    where the study has no other."""
    if (llama_pro := called(m.budget, "llama_pro")) is None:
        return ""
    gaps = {
        runs.name: gap
        for runs in main_runs(m)
        if runs.tokens == llama_pro.tokens
        and runs.first["trains"] in ("new", "outputs_then_new")
        and (gap := difference(runs, llama_pro)) is not None
    }
    if len(gaps) < 2:
        return ""
    best = min(gaps, key=lambda name: gaps[name].estimate)
    said = f" Where the old layers stay as they are, {named(best)} ends lowest"
    if best != llama_pro.name:
        said += f", {beside(gaps[best])}"
        for runs, gap in of_other_growths(m):
            if runs.name.startswith(f"{best}_"):  # the same model
                said += f"; with {new_layers(m, runs)} new layers {beside(gap)}"
    return said + "."


def at_longer_budgets(m: Metrics) -> list[str]:
    """What the studies' longer schedules say: a line for each study that has one."""
    lines = {
        "At a longer budget": [
            *after_training(longer_runs(m), "study `budget`"),
            *on_validation_text(m),
        ],
        "At a much longer one": after_training(groups(m.scale), "Python source, study `scale`"),
    }
    return [f"**{title}:** {' '.join(said)}" for title, said in lines.items() if said]


def on_validation_text(m: Metrics) -> list[str]:
    """The models whose rates study budget's longer schedule sought, from the lowest loss up."""
    found = [own for own, _ in rates.sought(m).values() if own["study"] == "budget"]
    if len(found) < 2:
        return []
    best = {own["model"]: min(run["validation_loss"] for run in own["runs"]) for own in found}
    listed = ", ".join(f"`{name}` {best[name]:.3f}" for name in sorted(best, key=lambda n: best[n]))
    return [
        f"On validation text after {found[0]['tokens']:,} tokens, each at its best rate (study "
        f"`rates`, one seed): {listed}."
    ]


def after_training(study: list[Runs], where: str) -> list[str]:
    """What is lowest where a study's models of one schedule end, whether LESA overtakes an identity
    start, and whether depth pays; nothing of fewer than two models.

    where: the text, in words, and the study.
    """
    by_model = {runs.model: runs for runs in study}
    if len(by_model) < 2:
        return []
    lowest = min(study, key=lambda runs: runs.final_loss)
    gaps = {r.model: difference(r, lowest) for r in study if r is not lowest}
    level = [f"`{name}`" for name, gap in gaps.items() if gap is not None and below_nothing(gap)]
    said = f"After {lowest.tokens:,} tokens ({where}, {seeds_of(study)}) `{lowest.model}` is lowest"
    said += f", not told apart from {', '.join(level)}" if level else ""
    found = [said, *lesa_beside_identity(by_model)]
    deep = [runs for runs in study if runs.first["method"] != "base"]
    if deep and len(deep) < len(study):
        best = min(deep, key=lambda runs: runs.final_loss)
        rivals = {
            AS_DEEP_AS_THE_BASE[runs.first["trains"]]: gap
            for runs in study
            if runs.first["method"] == "base" and (gap := difference(runs, best)) is not None
        }
        rest = without_depth(rivals)
        if best is not lowest:
            found.append(f"Of deepened models `{best.model}` is lowest{rest}")
        elif rest:
            found.append(f"Beside `{best.model}`{rest.removeprefix(';')}")
    return [f"{'. '.join(found)}."]


def lesa_beside_identity(by_model: dict[str, Runs]) -> list[str]:
    """LESA's final loss minus LLaMA Pro's, and at how many points LESA was below an identity
    start."""
    lesa, llama_pro = by_model.get("lesa"), by_model.get("llama_pro")
    if lesa is None:
        return []
    end = difference(lesa, llama_pro) if llama_pro else None
    said = [f"LESA is {beside(end)}"] if end else []
    for name in IDENTITY_STARTS:
        if (other := by_model.get(name)) is not None and (gaps := on_the_way(lesa, other)):
            ahead = [tokens for tokens, gap in gaps.items() if below(gap) is Verdict.HOLDS]
            count = f"{len(ahead) or 'none'} of {len(gaps)} points"
            first = f", first after {ahead[0]:,} tokens" if ahead else ""
            said.append(f"It was below `{other.model}` at {count}{first}")
    return said + lesa_beside_noise(lesa, by_model.get("noise"))


def lesa_beside_noise(lesa: Runs, noise: Runs | None) -> list[str]:
    """What LESA's predictions are worth beside Gaussian matrices of their norms."""
    if noise is None or (end := difference(noise, lesa)) is None:
        return []
    order = in_order(end, "below", "above", "not told apart from")
    said = "Gaussian matrices of LESA's norms (`noise`), each model at the rate chosen for it, end "
    said += f"{order} LESA ({show_interval(end)} nats)"
    gaps = on_the_way(noise, lesa)
    first = first_of_the_rest(gaps)
    return [said + (f", from {first:,} tokens on" if first is not None else "")]


def first_of_the_rest(gaps: dict[int, Interval]) -> int | None:
    """The number of tokens from which on every difference is below zero."""
    found = None
    for tokens, gap in reversed(gaps.items()):
        if below(gap) is not Verdict.HOLDS:
            break
        found = tokens
    return found


def seeds_of(study: list[Runs]) -> str:
    counts = sorted({len(runs.by_seed) for runs in study})
    if counts == [1]:
        return "one seed"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def below_nothing(gap: Interval) -> bool:
    """Whether an interval leaves open which of two is lower."""
    return Verdict.HOLDS not in (below(gap), above(gap))


def differences(m: Metrics) -> Table:
    """What sets this run apart from the paper's, and what each difference can do."""
    rows: list[tuple[str, str, str, str]] = [
        (
            "model",
            "Llama-3-8B to 11.5B, 32 → 48 layers",
            f"{m.base_name}, {short_count(m.base['parameters'])} parameters, "
            f"{m.base['num_hidden_layers']} layers",
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
            ", ".join(
                sorted({str(run.get("dtype", "not recorded")) for run in m.pretrain.values()})
            )
            + " for training",
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
    said = f"{steps:,} steps, {tokens:,} tokens; each model's rate from a grid ({number(rates[0])}"
    said += f" to {number(rates[-1])})" if len(rates) > 1 else ")"
    if (lesa := called(m.budget, "lesa")) is not None:
        said += f"; study `budget`: {lesa.max_steps:,} steps, {lesa.tokens:,} tokens"
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
    for method in ("llama_pro", "solar"):
        paper = averages["lesa"] - averages[method]
        leads = [
            f"{lead(size, method, paper)} at {size}"
            for size in rerun.models()[::-1]
            if rerun.minus_lesa(size, method, rerun.LAST)
        ]
        name = rerun.NAMES[method]
        said.append(f"over {name} by {', '.join(leads)}, where the paper has {paper:.2f}")
    return f"LESA ends {'; '.join(said)} points of mean accuracy. {here_too(m)}"


def lead(size: str, method: str, paper: float) -> str:
    """LESA's lead in points with its error, and whether it has the sign of the paper's."""
    gap = rerun.minus_lesa(size, method, rerun.LAST)
    if gap is None or gap.stderr is None:
        return "not measured"
    told = abs(gap.value) > 1.96 * gap.stderr
    agrees = "agrees" if -gap.value * paper > 0 else "disagrees"
    return f"{-gap.value:.2f} ± {gap.stderr:.2f} ({agrees if told else 'not told from 0'})"


def here_too(m: Metrics) -> str:
    """The same comparisons by the loss measured here."""
    ends, _, gap_of, budget_said = contest(m)
    parts = []
    for method in ("llama_pro", "solar"):
        if "lesa" not in ends or method not in ends or (gap := gap_of("lesa", method)) is None:
            continue
        words = in_order(gap, "below", "above", "not told apart from")
        parts.append(f"{words} {rerun.NAMES[method]} ({show_interval(gap)} nats)")
    if not parts:
        return "The same comparison was not measured here."
    return f"Here LESA's loss ({budget_said}) is {' and '.join(parts)}."
