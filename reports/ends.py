"""LESA beside every other model, at the start and at each budget: the report's first answer."""

from __future__ import annotations

from reports import rates, start
from reports.claims import RIVALS
from reports.contest import (
    NOT_APART,
    TOO_FEW,
    Contest,
    by_side,
    enough,
    of_other_text,
    of_own_text,
    phrase,
    placed,
    seeds,
    sides,
)
from reports.measured import Json, Metrics
from reports.paired import interval
from reports.speed import time_ratio
from reports.tables import Row, Table, counted, listed, number, series, show_interval
from reports.training_runs import Runs, added, difference, file_of

# Beside whose loss LESA's is told in words.
BESIDE = {
    "llama_pro": "LLaMA Pro's",
    "solar": "SOLAR's",
    "noise": "that of Gaussian noise of equal norms",
}
UNSOUGHT = " (at a rate not sought for it)"
ALONE = ", so with intervals over documents or packages alone"
TRAINS = {
    "new": "the new layers",
    "all": "every layer",
    "lora": "LoRA beside every layer",
    "original": "as many of the base's own layers",
}


def budgets(m: Metrics) -> list[Contest]:
    """The budgets that LESA was trained for: the studies', or this run's; its own text first."""
    found = [*of_own_text(m), *of_other_text(m)]
    return [contest for contest in found if "lesa" in contest.runs]


def of_all_budgets(m: Metrics) -> dict[str, Runs]:
    """The models of the longest schedule on this run's own text that are in every other budget,
    too; none where a study has one budget, whose models are many."""
    found = budgets(m)
    if not found or (len(found) == 1 and found[0].study):
        return {}
    own = of_own_text(m)[-1].runs
    return {n: r for n, r in own.items() if all(n in contest.runs for contest in found)}


def in_short(m: Metrics) -> list[str]:
    """What became of the paper's three promises: a lower start, a better end, lower cost."""
    said = [part for part in (at_the_start(m), *after_training(m), in_time(m)) if part]
    return [f"**In short:** {'. '.join(said)}."] if said else []


def at_the_start(m: Metrics) -> str:
    """On which side of the others' loss LESA's draws begin, in the mean and one by one: where a few
    draws lie far above all others, the two differ."""
    for lesa in start.lesa_starts(m)[:1]:
        gaps = []
        for model, name in BESIDE.items():
            if other := start.beside(m, lesa, model):
                drawn = start.matched(lesa, other)
                gap = interval(drawn)
                of = f" ({start.lower_in(drawn)})" * (placed(gap) == NOT_APART)
                gaps.append((name + of, gap))
        if told := sides(gaps):
            few = [f"{n} of `{model}`" for model, n in fewer_draws(m, list(BESIDE))]
            draws = ", ".join([counted(len(lesa.rows), "draw"), *few])
            return f"Before training LESA's mean loss is {told} (preset `{lesa.preset}`, {draws})"
    return ""


def after_training(m: Metrics) -> list[str]:
    """On which side of the others' loss LESA's is at every budget, a sentence a text."""
    by_text: dict[str, list[Contest]] = {}
    for contest in budgets(m):
        by_text.setdefault(contest.text, []).append(contest)
    found = {
        of[0].read if len(of) == 1 else text or "this run's text": trained_on(m, of)
        for text, of in by_text.items()
    }
    return [f"Trained on {read} {said}" for read, said in found.items() if said]


def trained_on(m: Metrics, contests: list[Contest]) -> str:
    """On which side of each other model's loss LESA's is at the budgets `contests` of one text."""
    always, mixed = dict[str, list[str]](), []
    for model, name in BESIDE.items():
        found = by_side(
            (f"{contest.tokens:,} tokens{UNSOUGHT * unsought(m, contest, model)}", gap)
            for contest in contests
            if (other := contest.runs.get(model))
            and (gap := difference(contest.runs["lesa"], other)) is not None
        )
        if [len(after) for after in found.values()] == [len(contests)]:
            always.setdefault(next(iter(found)), []).append(name)
        elif found:
            parts = [
                f"{side} {'it' if i else name} after {series(after)}"
                for i, (side, after) in enumerate(found.items())
            ]
            mixed.append(" and ".join(parts))
    told = [phrase(always)] if always else []
    if told and len(contests) > 1:
        told[0] += f" at {'both' if len(contests) == 2 else f'all {len(contests)}'} budgets"
    last = contests[-1]
    runs = [c.runs[n] for c in contests for n in ("lesa", *BESIDE) if n in c.runs]
    of = seeds(runs) + rates.at_edge(m, last.study, last.runs["lesa"])
    said = ", ".join([*told, *mixed])
    if not said:
        return ""
    if last.study and not enough(runs):
        return f"({of}) LESA's mean loss is {said}; {TOO_FEW}"
    return f"({of}) LESA's loss is {said}"


def unsought(m: Metrics, contest: Contest, model: str) -> bool:
    """Whether no grid and no study sought the rate that a model has at a budget."""
    return bool(contest.study) and search_of(m, contest, model) is None


def search_of(m: Metrics, contest: Contest, model: str) -> Json | None:
    """What found the rate that a model has at a budget: study `rates`, else the grid."""
    runs = contest.runs[model]
    if own := rates.sought_for(m, contest.study, runs):
        return own
    grid = m.grid.get(model)
    return grid if grid and grid["best"] == runs.first["learning_rate"] else None


def in_time(m: Metrics) -> str:
    """What a training step of the paper's rivals takes of LESA's time."""
    ratios = {name: time_ratio(m, method) for method, name in RIVALS.items()}
    said = [f"{name} {ratio.estimate:.2f}" for name, ratio in ratios.items() if ratio]
    if not said:
        return ""
    return f"A training step takes {series(said)} times as long as LESA, whose fit is not counted"


def table(m: Metrics) -> Table:
    """A row a model that is in every budget, the lowest on this run's text first: LESA's loss minus
    its loss, before training and at each budget."""
    models = of_all_budgets(m)
    columns = {contest.where(*models): contest for contest in budgets(m)} if models else {}
    folders = [f"metrics/{contest.folder}/*.json" for contest in columns.values()]
    drawn = start.lesa_starts(m)[:1]
    rows: list[Row] = []
    others = [name for name in models if name != "lesa"]
    for model in sorted(others, key=lambda name: models[name].final_loss):
        row: Row = {
            "model": model,
            "new layers": added(m, models[model]),
            "trains": str(models[model].first["trains"]),
        }
        for lesa in drawn:
            title = f"before training (study `start`, {counted(len(lesa.rows), 'draw')})"
            other = start.beside(m, lesa, str(models[model].first["method"]))
            row[title] = start.difference(lesa, other) if other else None
        for title, contest in columns.items():
            row[title] = difference(contest.runs["lesa"], contest.runs[model])
        rows.append(row)

    def origin(row: Row, column: str) -> str:
        if column.startswith("before"):
            return start.SOURCES
        contest = columns.get(column, of_own_text(m)[-1])
        return file_of(contest.folder, contest.runs.get(str(row["model"])))

    return Table(
        "ends",
        "LESA's loss minus each other model's, nats a token; negative: LESA is better",
        ", ".join(dict.fromkeys([*(start.SOURCES for _ in drawn), *folders])),
        rows,
        origin,
    )


def notes(m: Metrics, ends: Table) -> str:
    """What the table of differences leaves unsaid; nothing where it has no rows."""
    if not ends.rows:
        return ""
    names = ["lesa", *(str(row["model"]) for row in ends.rows)]
    own = [f"{number(c.runs['lesa'].final_loss)} after {c.read}" for c in budgets(m)]
    there = {row["trains"] for row in ends.rows}
    meant = [f"`{word}`: {what}" for word, what in TRAINS.items() if word in there]
    trains = f" Trains {', '.join(meant)}." if meant else ""
    of = "".join(how_sought(m, c, names) + fewer_seeds(c, names) for c in budgets(m))
    drawn = "".join(
        f" Before training `{model}` has {counted(n, 'draw')}."
        for model, n in fewer_draws(m, names)
    )
    began = trained_starts(m, names[1:])
    return f"LESA's own loss is {series(own)}.{trains}{began}{drawn}{of}"


def trained_starts(m: Metrics, names: list[str]) -> str:
    """Where the LESAs began whose ends the table has: of a few seeds, and not of all draws."""
    found = of_all_budgets(m)
    if not start.lesa_starts(m) or "lesa" not in found:
        return ""
    said = [
        f"{show_interval(gap)} nats from {of}"
        for name, of in BESIDE.items()
        if name in names and (gap := difference(found["lesa"], found[name], 0, 0)) is not None
    ]
    of = seeds([found["lesa"]])
    return f" Those of {of} that were trained began {series(said)}." if said else ""


def how_sought(m: Metrics, contest: Contest, names: list[str]) -> str:
    """Of which models no grid has the rate, and which were sought at fewer steps than a budget."""
    if not contest.study:
        return ""
    searches = {name: search_of(m, contest, name) for name in names}
    unsure = [name for name, own in searches.items() if own is None]
    whole = contest.runs["lesa"].max_steps
    by_steps: dict[int, list[str]] = {}
    for name, own in searches.items():
        if own and own["max_steps"] < whole:
            by_steps.setdefault(int(own["max_steps"]), []).append(name)
    said = [f"no grid has the rates of {listed(unsure)}"] if unsure else []
    for steps, of in sorted(by_steps.items()):
        if len(of) + len(unsure) == len(names):
            which = "rates were"
        elif len(of) == 1:
            which = f"the rate of {listed(of)} was"
        else:
            which = f"the rates of {listed(of)} were"
        said.append(f"{which} sought at {steps} of {whole} steps")
    return f" At {contest.tokens:,} tokens {' and '.join(said)}." if said else ""


def fewer_draws(m: Metrics, names: list[str]) -> list[tuple[str, int]]:
    """Models with fewer draws before training than LESA, and how many they share with it."""
    return [
        (model, n)
        for lesa in start.lesa_starts(m)[:1]
        for model in names
        if (other := start.beside(m, lesa, model))
        and other.seeded
        and (n := len(start.pairs(lesa, other))) < len(lesa.rows)
    ]


def fewer_seeds(contest: Contest, names: list[str]) -> str:
    """Which models have fewer seeds at a budget than others have; else nothing."""
    counts = {name: len(contest.runs[name].by_seed) for name in names}
    most = max(counts.values())
    few = {name: count for name, count in counts.items() if count < most}
    return "".join(
        f" With {counted(n, 'seed')} at {contest.tokens:,} tokens{ALONE if n == 1 else ''}: "
        f"{listed([name for name in few if few[name] == n])}."
        for n in sorted(set(few.values()))
    )
