"""C11: loss after supervised fine-tuning (SFT), and after pre-training on code."""

from __future__ import annotations

from reports import rates, scale
from reports.claims import RIVALS, Finding, above, below, cannot
from reports.domains import (
    DOMAINS,
    GROUPS,
    PASS_AT_1,
    by_model,
    difference,
    files_of,
    solved_minus,
)
from reports.measured import Metrics, files
from reports.tables import show_interval
from reports.training_runs import called
from reports.training_runs import difference as difference_of_runs

CLAIM = "After SFT, and in the code domain, LESA stays ahead"
SHORT = "LESA stays ahead after SFT and on code"
SECTION = "After SFT and on code"
RULE = (
    "held-out loss minus each baseline's below 0 by its interval, a package or module being one "
    f"observation, or a file or example where there are fewer than {GROUPS}; HumanEval's share "
    "solved above theirs by Newcombe's interval of paired shares; of one seed where a study has no "
    "more, whose interval does not know what another seed does"
)
PAPER = (
    "HumanEval pass@1 25.00 against 10.98 (LLaMA Pro) and 2.44 (SOLAR); average after SFT 31.57, "
    "of which LLaMA Pro reaches 77% and SOLAR 84%"
)


def findings(m: Metrics) -> list[Finding]:
    on_text = [finding for study in DOMAINS for finding in compared(m, study)]
    return [*longer(m), *on_text, *written(m)]


def written(m: Metrics) -> list[Finding]:
    """Programs that the models of the study code write, which pass their tests."""
    found = []
    for other, rival in RIVALS.items():
        of = f"{PASS_AT_1}, against {other}"
        if (gap := solved_minus(m, "lesa", other)) is None:
            found.append(cannot(of, "no generated code was run", "make study NAME=humaneval"))
            continue
        said = f"lesa minus {other} {show_interval(gap)} points of {gap.n} problems"
        said += f", of which lesa solves {sum(m.humaneval['lesa']['passed']) / gap.n:.1%}"
        sources = files("humaneval", ["lesa", other])
        found.append(Finding(of, said, above(gap), sources, case="HumanEval", rival=rival))
    return found


def longer(m: Metrics) -> list[Finding]:
    """The models of the study of many times the tokens of code, at their end."""
    found = []
    lesa = called(m.scale, "lesa")
    for name, rival in RIVALS.items():
        other = called(m.scale, name)
        if lesa and other and (gap := difference_of_runs(lesa, other)) is not None:
            of = f"code, {lesa.tokens:,} tokens, against {name}"
            said = f"lesa minus {name} {show_interval(gap)} nats a token of the packages held out"
            said += f", {rates.limits(m, 'scale', lesa, other)}"
            case = f"code, {lesa.tokens:,} tokens"
            found.append(Finding(of, said, below(gap), scale.SOURCES, case=case, rival=rival))
    return found


def compared(m: Metrics, study: str) -> list[Finding]:
    domain, content = DOMAINS[study], by_model(m, study)
    found = []
    for other, rival in RIVALS.items():
        of = f"{domain.name}, against {other}"
        gap, by = difference(content.get("lesa"), content.get(other), domain)
        if gap is None:
            found.append(cannot(of, "not measured", f"make study NAME={study}"))
            continue
        said = f"lesa minus {other} {show_interval(gap)} {domain.unit} of {domain.text}"
        sources = files_of(m, study, ["lesa", other])
        said += f", over {gap.n} {by}"
        found.append(Finding(of, said, below(gap), sources, case=domain.name, rival=rival))
    return found
