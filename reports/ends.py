"""LESA beside every other model, at the start and at each budget: the report's first answer."""

from __future__ import annotations

from reports import rates, start
from reports.claims import RIVALS
from reports.contest import Contest, by_side, of_other_text, of_own_text
from reports.measured import Metrics
from reports.paired import Interval
from reports.speed import time_ratio
from reports.tables import Row, Table, counted, listed, number, series
from reports.training_runs import Runs, added, difference, file_of

# Beside whose loss LESA's is told in words.
BESIDE = {
    "llama_pro": "LLaMA Pro's",
    "solar": "SOLAR's",
    "noise": "that of Gaussian noise of equal norms",
}
ALONE = ", so with intervals over documents alone"
TRAINED = {
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
    said = [part for part in (at_the_start(m), after_training(m), in_time(m)) if part]
    return [f"**In short:** {'. '.join(said)}."] if said else []


def at_the_start(m: Metrics) -> str:
    """On which side of the others' loss LESA's draws begin."""
    for lesa in start.lesa_starts(m)[:1]:
        gaps = {name: start_gap(m, lesa, model) for model, name in BESIDE.items()}
        sides = by_side((name, gap) for name, gap in gaps.items() if gap)
        if told := series([f"{side} {series(names)}" for side, names in sides.items()]):
            draws = counted(len(lesa.rows), "draw")
            return f"Before training LESA's loss is {told} (preset `{lesa.preset}`, {draws})"
    return ""


def start_gap(m: Metrics, lesa: start.Start, method: str) -> Interval | None:
    """LESA's first loss minus a method's."""
    other = start.beside(m, lesa, method)
    return start.difference(lesa, other) if other else None


def after_training(m: Metrics) -> str:
    """On which side of the others' loss LESA's is at every budget."""
    told = [said for model, name in BESIDE.items() if (said := at_every_budget(m, model, name))]
    return f"After training LESA's loss is {'; '.join(told)}" if told else ""


def at_every_budget(m: Metrics, model: str, name: str) -> str:
    """`below SOLAR's after 49,152 and 262,144 tokens and above it after 5,242,880 tokens`."""
    sides = by_side(
        (number(contest.tokens), gap)
        for contest in budgets(m)
        if (other := contest.runs.get(model))
        and (gap := difference(contest.runs["lesa"], other)) is not None
    )
    if len(sides) == 1:
        ((side, tokens),) = sides.items()
        if len(tokens) > 1:
            return f"{side} {name} at all {len(tokens)} budgets"
    return " and ".join(
        f"{side} {'it' if i else name} after {series(tokens)} tokens"
        for i, (side, tokens) in enumerate(sides.items())
    )


def in_time(m: Metrics) -> str:
    """What a training step of the paper's rivals takes of LESA's time."""
    ratios = {name: time_ratio(m, method) for method, name in RIVALS.items()}
    said = [f"{name}'s takes {ratio.estimate:.0%}" for name, ratio in ratios.items() if ratio]
    return f"Of the time of LESA's training step {series(said)}" if said else ""


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
            row[title] = start_gap(m, lesa, str(models[model].first["method"]))
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
        "LESA's loss minus each other model's, nats a token: below 0 LESA is the better one",
        ", ".join(dict.fromkeys([*(start.SOURCES for _ in drawn), *folders])),
        rows,
        origin,
    )


def notes(m: Metrics, ends: Table) -> str:
    """What the table of differences leaves unsaid; nothing where it has no rows."""
    if not ends.rows:
        return ""
    names = ["lesa", *(str(row["model"]) for row in ends.rows)]
    own = [number(contest.runs["lesa"].final_loss) for contest in budgets(m)]
    there = {row["trains"] for row in ends.rows}
    meant = [f"`{word}`: {what}" for word, what in TRAINED.items() if word in there]
    trains = f" Trains {', '.join(meant)}." if meant else ""
    found = " Rates of the longer budgets were sought in study `rates`" if rates.sought(m) else ""
    found += f"{borrowed(m, budgets(m)[0], names)}." if found else ""
    fewer = "".join(fewer_seeds(contest, names) for contest in budgets(m))
    return f"LESA's own loss is {series(own)}.{trains}{found}{fewer_draws(m, names)}{fewer}"


def borrowed(m: Metrics, contest: Contest, names: list[str]) -> str:
    """Which models have at a budget, for want of a grid of their own, the rate that a
    grid gave LESA or LLaMA Pro."""
    owners = ("llama_pro", "lesa")
    given = {float(m.grid[name]["best"]): f"`{name}`'s" for name in owners if name in m.grid}
    found: dict[str, list[str]] = {}
    for model in names:
        rate = float(contest.runs[model].first["learning_rate"])
        if model not in m.grid and rate in given:
            found.setdefault(given[rate], []).append(model)
    said = [f"{whose} serves {listed(models)}" for whose, models in found.items()]
    return f"; at {contest.tokens:,} tokens {', '.join(said)}" if said else ""


def fewer_draws(m: Metrics, names: list[str]) -> str:
    """Which models have fewer draws before training than LESA; else nothing."""
    said = ""
    for lesa in start.lesa_starts(m)[:1]:
        for model in names:
            other = start.beside(m, lesa, model)
            if other and other.seeded and (n := len(start.pairs(lesa, other))) < len(lesa.rows):
                said += f" Before training `{model}` has {counted(n, 'draw')}."
    return said


def fewer_seeds(contest: Contest, names: list[str]) -> str:
    """Which models have fewer seeds at a budget than others have; else nothing."""
    seeds = {name: contest.runs[name].by_seed for name in names}
    most = max(map(len, seeds.values()))
    few = {name: len(of) for name, of in seeds.items() if len(of) < most}
    return "".join(
        f" With {counted(n, 'seed')} at {contest.tokens:,} tokens{ALONE if n == 1 else ''}: "
        f"{listed([name for name in few if few[name] == n])}."
        for n in sorted(set(few.values()))
    )
