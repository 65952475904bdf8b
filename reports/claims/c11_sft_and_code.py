"""C11: loss after supervised fine-tuning (SFT), and after pre-training on code."""

from __future__ import annotations

from reports import rates, scale
from reports.claims import FEWEST, RIVALS, Finding, above, below, cannot, of_enough
from reports.domains import DOMAINS, GROUPS, PASS_AT_1, by_model, difference, files_of, solved_minus
from reports.measured import Metrics, files
from reports.tables import show_interval
from reports.training_runs import called, shared_seeds
from reports.training_runs import difference as difference_of_runs

CLAIM = "After SFT, and in the code domain, LESA stays ahead"
SHORT = "LESA stays ahead after SFT and on code"
SECTION = "After SFT and on code"
RULE = (
    "held-out loss minus each baseline's below 0 by its interval, a package or module being one "
    f"observation, or a file or example where there are fewer than {GROUPS}; not decided by fewer "
    f"than {FEWEST} seeds. HumanEval's share solved above theirs by Newcombe's interval of paired "
    "shares, for the one seed whose programs are run. SFT begins with expansions that were not "
    "trained before, where the paper's follows pre-training; rates are those of the run's grid, "
    "sought on its own text"
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
            said += f", {rates.over_seeds(m, 'scale', lesa, other)}"
            case = f"code, {lesa.tokens:,} tokens"
            finding = Finding(of, said, below(gap), scale.SOURCES, case=case, rival=rival)
            found.append(of_enough(finding, len(shared_seeds(lesa, other))))
    return found


def compared(m: Metrics, study: str) -> list[Finding]:
    domain, content = DOMAINS[study], by_model(m, study)
    found = []
    for other, rival in RIVALS.items():
        of = f"{domain.name}, against {other}"
        lesa, theirs = content.get("lesa"), content.get(other)
        gap, by = difference(lesa, theirs, domain)
        if lesa is None or theirs is None or gap is None:
            found.append(cannot(of, "not measured", f"make study NAME={study}"))
            continue
        said = f"lesa minus {other} {show_interval(gap)} {domain.unit} of {domain.text}"
        sources = files_of(m, study, ["lesa", other])
        said += f", over {gap.n} {by}"
        finding = Finding(of, said, below(gap), sources, case=domain.name, rival=rival)
        found.append(of_enough(finding, len(shared_seeds(lesa, theirs))))
    return found
