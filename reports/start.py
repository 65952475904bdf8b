"""The study `start`: what each way of making the new layers loses before any training.

A row of the study is one checkpoint. Rows that differ in a seed, of the predictor or of what a
method draws, or in the signs of U's columns alone are draws of one start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from reports.measured import Json, Metrics, files, start_losses
from reports.paired import Array, Interval, exact_share, interval
from reports.tables import Row, Table

SOURCES = "metrics/start/*.json"
RAW = "without SVD"
AGAIN = "other SVD digits"  # drawn again, on an SVD whose last digits another processor gave
FEWEST = 6  # draws: of five, all below SOLAR's would not put the interval of a share above 1/2


@dataclass(frozen=True)
class Start:
    """All draws of one start.

    settings: how its predictors were fitted, where that is not the preset's way. options: what it
    has beyond the options of LESA's own entry in the params and the seed of what a method draws,
    and its gaps if they are not those of the params. Both are empty for a method as the params have
    it.
    """

    method: str
    preset: str | None
    settings: str
    options: str
    rows: list[Json] = field(default_factory=list)

    @property
    def name(self) -> str:
        said = [part for part in (self.preset, self.settings, self.options) if part]
        return self.method + (f" ({', '.join(said)})" if said else "")

    @property
    def plain(self) -> bool:
        return not self.settings and not self.options

    @property
    def raw(self) -> bool:
        """Whether it is LESA without the SVD, and as its preset otherwise."""
        return (self.method, self.settings, self.options) == ("lesa", RAW, "")

    @property
    def losses(self) -> Array:
        """Mean loss of each draw (draws,)."""
        return np.array([start_losses(row).mean() for row in self.rows])

    @property
    def source(self) -> str:
        """The file of its one draw; of several, the folder's."""
        return files("start", [str(self.rows[0]["row"])]) if len(self.rows) == 1 else SOURCES

    @property
    def perplexities(self) -> Array:
        return np.array([float(row["perplexity"]) for row in self.rows])

    @property
    def document_perplexities(self) -> Array | None:
        """Mean over documents of exp(loss) of each draw, as the official code has it; None where it
        was not measured of all."""
        found = [row.get("document_perplexity") for row in self.rows]
        return None if None in found else np.array(found, dtype=np.float64)

    @property
    def seeded(self) -> bool:
        return any(row["seed"] is not None or row["signs"] is not None for row in self.rows)


def _settings(row: Json) -> str:
    said = [f"{key}={value}" for key, value in sorted((row["settings"] or {}).items())]
    return " ".join([*said, *([RAW] if row["raw"] else []), *([AGAIN] if row.get("again") else [])])


def _options(m: Metrics, row: Json) -> str:
    lesa = m.model_of("lesa")
    usual = m.params.methods[lesa].model_extra or {} if lesa else {}
    own = {k: v for k, v in row["options"].items() if k != "seed" and usual.get(k) != v}
    said = [f"{k}={v}" for k, v in sorted(own.items())]
    if (gaps := row["gaps"]) and gaps != m.params.gaps.model_dump():
        listed = gaps.get("after")
        said.append(
            f"{len(listed)} gaps from {listed[0]} to {listed[-1]}"
            if listed
            else f"gaps {gaps['first']} to {gaps['last']}"
        )
    return " ".join(said)


def starts(m: Metrics) -> list[Start]:
    """The study's rows by what they are draws of, in the order of their names."""
    found: dict[tuple[str, str | None, str, str], Start] = {}
    for row in m.start.values():
        key = (str(row["method"]), row["preset"], _settings(row), _options(m, row))
        found.setdefault(key, Start(*key)).rows.append(row)
    return sorted(found.values(), key=lambda start: start.name)


def lesa_starts(m: Metrics, settings: str = "") -> list[Start]:
    """LESA's own starts that were drawn often enough to speak of a distribution, one a preset, in
    the order of the params; of the settings AGAIN those of the draws that were fitted again.
    """
    order = list(m.params.fit.presets)
    found = [
        start
        for start in starts(m)
        if (start.method, start.settings, start.options) == ("lesa", settings, "")
        and len(start.rows) >= FEWEST
    ]
    return sorted(found, key=lambda s: order.index(s.preset) if s.preset in order else len(order))


def of_method(m: Metrics, method: str) -> Start | None:
    """The start of a method as the params have it."""
    found = (s for s in starts(m) if s.method == method and s.plain)
    return next(found, None)


def of_lesa(m: Metrics, preset: str | None) -> Start | None:
    """LESA's start as a preset has it."""
    return next((start for start in of_preset(m, "lesa", preset) if start.plain), None)


def of_preset(m: Metrics, method: str, preset: str | None) -> list[Start]:
    """A method's starts with predictors of a preset, however they were fitted."""
    return [s for s in starts(m) if (s.method, s.preset) == (method, preset)]


def by_norm_weight(m: Metrics, preset: str | None) -> dict[float, Start]:
    """LESA's starts that differ from the preset's own in the norm term's weight alone, by it."""
    key = "norm_weight="
    return {
        float(one.settings.removeprefix(key)): one
        for one in of_preset(m, "lesa", preset)
        if not one.options and one.settings.startswith(key) and " " not in one.settings
    }


def beside(m: Metrics, lesa: Start, method: str) -> Start | None:
    """A method's start to compare LESA's with: made with LESA's predictors where it has any."""
    own = (s for s in of_preset(m, method, lesa.preset) if not s.settings)
    return next(own, None) or of_method(m, method)


def pairs(ours: Start, theirs: Start) -> list[tuple[Json, Json]]:
    """Rows of both that share their draw: predictor seed and signs."""
    return [
        (a, b)
        for a in ours.rows
        for b in theirs.rows
        if (a["seed"], a["signs"]) == (b["seed"], b["signs"])
    ]


def matched(ours: Start, theirs: Start) -> Array:
    """Differences `ours - theirs` of the documents' losses (draws, documents), draw by draw.

    A start without draws is compared with every one of the other's. Of two with draws those of one
    seed and signs are paired; without any, each start's mean over its draws stands for it. What
    else is drawn, such as a permutation of one fit's predictions, is no other draw: its mean.
    """
    if not theirs.seeded:
        return np.stack([start_losses(row) - start_losses(theirs.rows[0]) for row in ours.rows])
    if not ours.seeded:
        return -matched(theirs, ours)
    found: dict[tuple[int, str], list[Array]] = {}
    for a, b in pairs(ours, theirs):
        found.setdefault((a["seed"], a["signs"]), []).append(start_losses(a) - start_losses(b))
    if found:
        return np.stack([np.mean(of_draw, axis=0) for of_draw in found.values()])
    means = [np.mean([start_losses(row) for row in of.rows], axis=0) for of in (ours, theirs)]
    return np.atleast_2d(means[0] - means[1])


def lower_in(matched_draws: Array) -> str:
    """In how many of `matched`'s draws the loss is below the other's, in words."""
    return f"lower in {int((matched_draws.mean(1) < 0).sum())} of {len(matched_draws)}"


def difference(ours: Start, theirs: Start) -> Interval:
    return interval(matched(ours, theirs))


def below_share(ours: Start, theirs: Start) -> Interval:
    """Share of the draws whose mean loss is below that of the other, which is one model."""
    return exact_share(int((ours.losses < theirs.losses[0]).sum()), len(ours.rows))


def rank_correlation(m: Metrics, start: Start) -> tuple[float, float] | None:
    """Spearman's correlation of LESA's losses with its constant row's, and p."""
    constant = next(iter(of_preset(m, "constant_row", start.preset)), None)
    if constant is None:
        return None
    found = [(start_losses(a).mean(), start_losses(b).mean()) for a, b in pairs(start, constant)]
    if len(found) < 3:
        return None
    test = stats.spearmanr(*zip(*found, strict=True))
    return float(test.statistic), float(test.pvalue)


def f_test_p(start: Start, key: str) -> float | None:
    """p of a one-way F test: are draws of one `key`, seed or signs, nearer in loss than others?

    None where no two draws share one, or all do. Shares of draws below a value are counted as if
    draws were independent, which a small p would refute.
    """
    groups: dict[str, list[float]] = {}
    for row, loss in zip(start.rows, start.losses, strict=True):
        groups.setdefault(str(row[key]), []).append(float(loss))
    if len(groups) in (1, len(start.rows)):
        return None
    p = float(stats.f_oneway(*groups.values()).pvalue)
    return None if math.isnan(p) else p  # all draws are equal


def distributions(m: Metrics) -> Table:
    """LESA's perplexity over draws of the predictor's seed and of U's signs, a row a preset."""
    solar = of_method(m, "solar")
    rows: list[Row] = []
    for start in lesa_starts(m):
        low, middle, high = np.quantile(start.perplexities, (0.25, 0.5, 0.75))
        correlation = rank_correlation(m, start)
        rows.append(
            {
                "preset": start.preset,
                "draws": len(start.rows),
                "smallest": float(start.perplexities.min()),
                "lower quartile": float(low),
                "median": float(middle),
                "upper quartile": float(high),
                "largest": float(start.perplexities.max()),
                "SOLAR": float(solar.perplexities[0]) if solar else None,
                "share below SOLAR": below_share(start, solar) if solar else None,
                "rank correlation with the constant row": correlation[0] if correlation else None,
                "p": correlation[1] if correlation else None,
                "F test over seeds, p": f_test_p(start, "seed"),
                "F test over signs, p": f_test_p(start, "signs"),
            }
        )
    return Table(
        "start",
        "LESA's perplexity at initialisation over draws of predictor seed and signs of U's columns",
        SOURCES,
        rows,
    )


def methods(m: Metrics) -> Table:
    """Every start of the study: perplexity both ways, and what was inserted."""
    base, sources = of_method(m, "base"), {start.name: start.source for start in starts(m)}
    rows: list[Row] = []
    for start in starts(m):
        by_document = start.document_perplexities
        structure = [c for row in start.rows for c in _structure(row)]
        ratios = [float(r) for row in start.rows for r in (row["norm_ratio"] or {}).values()]
        rows.append(
            {
                "start": start.name,
                "draws": len(start.rows),
                "perplexity": float(np.median(start.perplexities)),
                "mean over documents of exp(loss)": None
                if by_document is None
                else float(np.median(by_document)),
                "loss, minus the base's": difference(start, base) if base else None,
                "norm ratio of predictions": float(np.mean(ratios)) if ratios else None,
                "σ₁²/‖W‖²": _mean(structure, "rank_one_share"),
                "cosine": _mean(structure, "mean_cosine"),
            }
        )
    return Table(
        "start_methods",
        "Every start of the study: the median of its draws' perplexities, and size and direction "
        "of what was inserted (means over kinds, new layers and draws)",
        SOURCES,
        rows,
        lambda row, _: sources[str(row["start"])],
    )


def _structure(row: Json) -> list[Json]:
    return [kind for kind in row["new_weight_structure"].values() if kind]


def _mean(structure: list[Json], key: str) -> float | None:
    known = [float(kind[key]) for kind in structure if kind[key] is not None]
    return float(np.mean(known)) if known else None
