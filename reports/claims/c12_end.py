"""C12: LESA's loss after training minus each baseline's, at equal steps: the paper's main table."""

from __future__ import annotations

from reports import budget, official, rates
from reports.claims import (
    FEWEST,
    RIVALS,
    Finding,
    above,
    attempted,
    below,
    of_enough,
    three_of_equal_tokens,
)
from reports.measured import Metrics, files, losses_at
from reports.paired import paired
from reports.tables import counted, show_interval
from reports.training_runs import difference, shared_seeds

CLAIM = "After equally many steps LESA ends below LLaMA Pro and SOLAR, in perplexity and benchmarks"
SHORT = "after equally many steps LESA is ahead of both"
SECTION = "Main results"
RULE = (
    "final held-out loss minus each baseline's below 0, mean accuracy minus theirs above 0, each "
    f"by its interval; a study decides it by {FEWEST} seeds or more"
)
PAPER = "perplexity 5.13 against 5.44 and 8.09, average 64.30 against 62.67 and 47.86"


def findings(m: Metrics) -> list[Finding]:
    return [*studied(m), *attempted(this_run, m), *benchmarks(m)]


def studied(m: Metrics) -> list[Finding]:
    """Runs of the studies, first those on this run's text, the longest schedule first."""
    found = []
    for study, text, lesa in budget.of_lesa(m):
        for method, other in budget.equally_long(m, study, lesa).items():
            if (gap := difference(lesa, other)) is None:
                continue
            case, rival = f"{lesa.model} after {lesa.max_steps} steps{text}", RIVALS[method]
            said = f"LESA minus {rival} {show_interval(gap)} nats, "
            said += rates.over_seeds(m, study, lesa, other)
            source, of = files(study, ["*"]), f"{case} against {method}"
            finding = Finding(of, said, below(gap), source, case=case, rival=rival)
            found.append(of_enough(finding, len(shared_seeds(lesa, other))))
    return found


def this_run(m: Metrics) -> list[Finding]:
    """The models of this run, paired by document."""
    models, found = three_of_equal_tokens(m), []
    for method, rival in RIVALS.items():
        names = [models["lesa"], models[method]]
        gap = paired(*(losses_at(m.pretrain[name], -1) for name in names))
        said = f"LESA minus {rival} {show_interval(gap)} nats"
        of, source = f"this run against {names[1]}", files("pretrain", names)
        found.append(Finding(of, said, below(gap), source, case="this run", rival=rival))
    return found


def benchmarks(m: Metrics) -> list[Finding]:
    """Mean accuracies of study official, over the seeds of both."""
    found = []
    for phase, words in official.PHASES.items():
        lesa, runs = official.of_model(m, "lesa", phase), official.trained_runs(m, phase)
        if phase == "init" or lesa is None or runs is None:
            continue
        for method, rival in RIVALS.items():
            other = official.of_model(m, method, phase)
            if other is None or (gap := official.difference(lesa, other)) is None:
                continue
            case = f"benchmarks, {words}, {runs.max_steps} steps"
            seeds = len(shared_seeds(lesa, other))
            said = f"LESA minus {rival} {show_interval(gap)} points, {counted(seeds, 'seed')}"
            of, source = f"{case} against {method}", official.SOURCES
            finding = Finding(of, said, above(gap), source, case=case, rival=rival)
            found.append(of_enough(finding, seeds))
    return found
