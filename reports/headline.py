"""The paper's main numbers beside those measured here: LESA against each baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from reports import domains, official, opt_deus, rates, start
from reports.budget import LESA
from reports.claims import RIVALS
from reports.contest import Contest, longest, seeds
from reports.measured import Json, Metrics, files, losses_at, perplexity_at
from reports.paired import paired
from reports.paper_tables import PUBLISHED, average, own_tasks, stated
from reports.speed import STEPS_FILE, time_ratio
from reports.tables import Cell, Measured, Row, Table, counted, number, series
from reports.training_runs import Runs, difference

METHODS = {"lesa": "LESA", **RIVALS, "base": "base"}
PAPER = "paper, Llama-3-8B"
BEFORE, AFTER = "perplexity before training", "perplexity after training"
ACCURACY, TIME = "mean accuracy, %", "training time, % of LESA's"
CODE = "HumanEval pass@1, trained on code, %"
NOTE = (
    "± is one standard error, [low, high] a 95% interval, not corrected for how many there are. A "
    "perplexity over several draws or seeds is exp of their mean loss: a few bad draws raise it, "
    "so that it may be near SOLAR's or above while most draws are below; an interval over draws so "
    "skewed may be too narrow. A difference of "
    "perplexities is that of the losses, in nats. The base is the untouched one before training, "
    "after it one trained alike. The paper's numbers, from public notes of it, are of another "
    "model and text, the re-run's (result files of OpT-DeUS, a rival) of other tasks: compare "
    "signs."
)
NO_GAPS = tuple("" for _ in RIVALS)

Line = tuple[Row, str]  # a row of the table, and the file that its numbers are from


def line(measure: str, of: str, values: Iterable[Cell], gaps: Iterable[Cell], source: str) -> Line:
    """values: of METHODS, in their order. gaps: LESA's value minus each rival's."""
    row: Row = {"measure": measure, "of": of, **dict(zip(METHODS.values(), values, strict=True))}
    names = (f"LESA minus {rival}" for rival in RIVALS.values())
    return row | dict(zip(names, gaps, strict=True)), source


def before(m: Metrics) -> list[Line]:
    """LESA's starts over draws of seed and signs, a line a preset; without any, this run's."""
    others = [start.of_method(m, method) for method in METHODS if method != "lesa"]
    solar, lines = start.of_method(m, "solar"), []
    for lesa in start.lesa_starts(m):
        values = [float(np.exp(of.losses.mean())) if of else None for of in (lesa, *others)]
        gaps = [start.difference(lesa, of) if of else None for of in others[: len(RIVALS)]]
        of = f"here, preset `{lesa.preset}`, mean loss of {counted(len(lesa.rows), 'draw')}"
        of += f", median {number(float(np.median(lesa.perplexities)))}"
        if solar:
            of += f", {int((lesa.losses < solar.losses[0]).sum())} below SOLAR"
        lines.append(line(BEFORE, of, values, gaps, start.SOURCES))
    if lines or (own := m.model_of("lesa")) is None:
        return lines
    runs = [m.pretrain.get(m.model_of(method) or "") for method in METHODS]
    measured = [Measured(*perplexity_at(run, 0)) if run else None for run in runs]
    ours = losses_at(m.pretrain[own], 0)
    gaps = [paired(ours, losses_at(r, 0)) if r else None for r in runs[1 : len(RIVALS) + 1]]
    return [line(BEFORE, "here", measured, gaps, files("pretrain", [own]))]


def after(m: Metrics, contest: Contest) -> list[Line]:
    """Where runs of equal tokens end, by their mean loss over seeds, a line a preset of LESA."""
    others = [method if contest.study else m.model_of(method) or "" for method in METHODS][1:]
    found = [contest.runs.get(name) for name in others]
    lines = []
    for name in LESA if contest.study else (m.model_of("lesa") or "",):
        if (lesa := contest.runs.get(name)) is None:
            continue
        values = [math.exp(runs.final_loss) if runs else None for runs in (lesa, *found)]
        gaps = [difference(lesa, of) if of else None for of in found[: len(RIVALS)]]
        of = f"here, preset `{lesa.first['preset']}`, " if lesa.first.get("preset") else "here, "
        of += contest.where(name, *(runs.model for runs in found if runs))
        of += rates.at_edge(m, contest.study, lesa)
        source = f"metrics/{contest.study}/*.json" if contest.study else files("pretrain", [name])
        lines.append(line(AFTER, of, values, gaps, source))
    return lines


def again(size: str) -> Line:
    """Benchmarks of the independent re-run of the paper, at one of its sizes."""
    methods = (opt_deus.LESA, *RIVALS, "base_all_layers_trained")
    values = [opt_deus.accuracy(size, of, opt_deus.LAST) for of in methods]
    minus = [opt_deus.minus_lesa(size, rival, opt_deus.LAST) for rival in RIVALS]
    gaps = [Measured(-gap.value, gap.stderr) if gap else None for gap in minus]
    return line(ACCURACY, f"others' re-run at {size}", values, gaps, opt_deus.SOURCES)


def benchmarks(m: Metrics, phase: str) -> list[Line]:
    """Accuracies over tasks of the models trained as `phase` says, paired by example; none where
    LESA has none."""
    studied = official.of_model(m, "lesa", phase) is not None
    names = [method if studied else m.model_of(method) or "" for method in METHODS]
    if (lesa := average(m, names[0], phase)) is None:
        return []
    scored = [
        official.of_model(m, name, phase)
        if studied
        else Runs(name, {0: {"tasks": own_tasks(m, name, phase)}})
        for name in names
    ]
    values = [lesa, *(average(m, name, phase) for name in names[1:])]
    rivals = scored[1 : len(RIVALS) + 1]
    gaps = [official.difference(scored[0], of) if scored[0] and of else None for of in rivals]
    runs = official.trained_runs(m, phase) if studied else None
    of = f"here, {counted(len(official.examples(scored[0])) if scored[0] else 0, 'task')}"
    if runs:
        of += f", {runs.tokens:,} tokens (study `budget`, {seeds([*filter(None, scored)])})"
    source = official.SOURCES if studied else files(f"evaluate/{phase}", names[:1])
    return [line(ACCURACY, of, values, gaps, source)]


def times(m: Metrics) -> list[Line]:
    """Whole steps of the benchmark that takes the methods in turn."""
    ratios = [time_ratio(m, method) for method in METHODS if method != "lesa"]
    if not any(ratios):
        return []
    percents = [ratio.scaled(100) if ratio else None for ratio in ratios]
    of = "here, a step, the methods in turn, without fitting"
    return [line(TIME, of, [100, *percents], NO_GAPS, STEPS_FILE)]


def code(m: Metrics) -> Line:
    """HumanEval after training on code; not run where nobody asked for it."""
    values = [domains.solved(m, method) for method in METHODS]
    gaps = [domains.solved_minus(m, "lesa", rival) for rival in RIVALS]
    of, lesa, trained = "here", m.humaneval.get("lesa"), m.code.get("lesa")
    if lesa and trained:
        tokens = int(trained["steps"][-1]["tokens"])
        counts = [sum(m.humaneval[name]["passed"]) for name in METHODS if name in m.humaneval]
        of += f", {len(lesa['problems'])} problems, of which {series([*map(str, counts)])} solved"
        if "untouched" in m.humaneval:
            of += f" (untouched base {sum(m.humaneval['untouched']['passed'])})"
        of += f", {tokens:,} tokens (study `code`, 1 seed)"
    return line(CODE, of, values, gaps, "metrics/humaneval/*.json")


def stated_by_the_paper(published: Json) -> dict[str, Line]:
    """A line a measure that the paper has numbers of; differences follow from them."""
    main = {row["method"]: row for row in published["main"] if row["share"] == 1}
    solved = {row["method"]: row for row in published["sft_and_code"]}
    lines = {}
    for measure, rows, key in (
        (AFTER, main, "perplexity"),
        (ACCURACY, main, "average"),
        (TIME, main, "relative"),
        (CODE, solved, "pass_at_1"),
    ):
        said = [rows[method][key].rstrip("%") for method in METHODS if method in rows]
        lesa, *others = map(float, said)
        gaps = [
            f"{math.log(lesa / other):.3f}" if measure == AFTER else f"{lesa - other:.2f}"
            for other in others
        ]
        values = [*said, stated(None)]  # of the base it has none
        lines[measure] = line(
            measure, PAPER, values, NO_GAPS if measure == TIME else gaps, PUBLISHED
        )
    values = [stated(None) for _ in METHODS]
    lines[BEFORE] = line(
        BEFORE, "paper, six models of 1.5B to 70B", values, ("", "below"), PUBLISHED
    )
    return lines


def table(m: Metrics, published: Json) -> Table:
    """A row a measure and who measured it, the paper first."""
    paper = stated_by_the_paper(published)
    lines = [
        paper[BEFORE],
        *before(m),
        paper[AFTER],
        *(found for contest in longest(m) for found in after(m, contest)),
        paper[ACCURACY],
        *map(again, opt_deus.BASES),
        *benchmarks(m, "trained"),
        *benchmarks(m, "longer"),
        paper[TIME],
        *times(m),
        paper[CODE],
        code(m),
    ]
    sources = {(row["measure"], row["of"]): source for row, source in lines}
    return Table(
        "headline",
        "The paper's main numbers and those measured here",
        ", ".join(dict.fromkeys(sources.values())),
        [row for row, _ in lines],
        lambda row, _: sources[row["measure"], row["of"]],
    )
