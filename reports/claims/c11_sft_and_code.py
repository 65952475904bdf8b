"""C11: loss after supervised fine-tuning (SFT), and after pre-training on code."""

from __future__ import annotations

from reports import rates, scale
from reports.claims import RIVALS, Finding, below, cannot
from reports.domains import DOMAINS, GROUPS, NOT_RUN, difference, solved
from reports.measured import Metrics, files, of_models
from reports.tables import show_interval
from reports.training_runs import called
from reports.training_runs import difference as difference_of_runs

CLAIM = "After SFT, and in the code domain, LESA stays ahead"
SHORT = "LESA stays ahead after SFT and on code"
SECTION = "After SFT and on code"
RULE = (
    "held-out loss minus each baseline's below 0 by its interval, paired and resampled by package "
    f"or module, or by file or example where there are fewer than {GROUPS}"
)
PAPER = (
    "HumanEval pass@1 25.00 against 10.98 (LLaMA Pro) and 2.44 (SOLAR); average after SFT 31.57, "
    "of which LLaMA Pro reaches 77% and SOLAR 84%"
)


def findings(m: Metrics) -> list[Finding]:
    found = [*(finding for study in DOMAINS for finding in compared(m, study)), *longer(m)]
    if "lesa" in m.code and solved(m, "lesa") == NOT_RUN:
        why = "no generated code was run (humaneval.run in pipelines/studies/code/params.yaml)"
        found.append(cannot("HumanEval pass@1", why, "make study NAME=code"))
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
    domain, content = DOMAINS[study], of_models(getattr(m, study))
    found = []
    for other, rival in RIVALS.items():
        of = f"{domain.name}, against {other}"
        if "lesa" not in content or other not in content:
            found.append(cannot(of, "not measured", f"make study NAME={study}"))
            continue
        gap, by = difference(content["lesa"], content[other], domain)
        said = f"lesa minus {other} {show_interval(gap)} {domain.unit} of {domain.text}"
        sources = files(study, ["lesa", other])
        said += f", by {gap.n} {by}"
        found.append(Finding(of, said, below(gap), sources, case=domain.name, rival=rival))
    return found
