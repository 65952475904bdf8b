"""The paper's claims, a file each: `c07_initial_perplexity.py` holds what C7 says and its rule.

A file has CLAIM, RULE and PAPER (the paper's number, or "not stated") in words, SHORT (the claim in
a few words), SECTION (the heading in the report that shows it) and `findings(metrics)`: what the
numbers say of each preset and seed, each with its own verdict. A claim needs no entry anywhere
else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules

from reports.markup import slug
from reports.measured import Metrics
from reports.paired import Interval
from reports.tables import Row, Table


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "not decided"  # the interval spans the threshold, or is of too few seeds
    CANNOT = "cannot be tested here"


PARTLY = "holds in part"  # in some of its cases, and in others not


class CannotTestError(Exception):
    """Why the metrics of this run say nothing of a claim, and the command that would change it."""

    def __init__(self, why: str, command: str) -> None:
        super().__init__(f"{why}; `{command}`")


@dataclass(frozen=True)
class Finding:
    """What the numbers say of one subject, such as "preset paper, seed 0".

    sources: the metrics files. beside: context that the claim does not speak of, which its overall
    verdict leaves out. number: what `said` rests on, with its interval; empty: all that is said.
    case: findings of one case are parts of one statement, such as one against each `rival`, whose
    name is empty where there is none. few: is it of too few seeds to decide anything?
    """

    subject: str
    said: str
    verdict: Verdict
    sources: str
    beside: bool = False
    number: str = ""
    case: str = ""
    rival: str = ""
    few: bool = False

    @property
    def brief(self) -> str:
        """Whose, and how much."""
        return f"{self.subject}: {self.number or self.said}"


RIVALS = {"llama_pro": "LLaMA Pro", "solar": "SOLAR"}


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    short: str
    section: str
    paper: str
    rule: str
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        return in_short(self.findings)


def cannot(subject: str, why: str, command: str, beside: bool = False) -> Finding:
    """A finding that needs what was not measured, with the command that measures it."""
    return Finding(subject, f"{why}; `{command}`", Verdict.CANNOT, "", beside)


FEWEST = 3  # draws of seed and signs, or seeds of training


def of_enough(finding: Finding, count: int) -> Finding:
    """Not decided by fewer than FEWEST: an interval over documents or steps says little of other
    seeds. This run's own findings speak of its seed alone."""
    if count >= FEWEST:
        return finding
    return replace(finding, verdict=Verdict.UNDECIDED, few=True)


def attempted(findings: Callable[[Metrics], list[Finding]], m: Metrics) -> list[Finding]:
    """What `findings` says of this run, or the reason why it can say nothing."""
    try:
        return findings(m)
    except CannotTestError as reason:
        return [Finding("this run", str(reason), Verdict.CANNOT, "")]


def below(found: Interval, threshold: float = 0.0) -> Verdict:
    """Whether a quantity is below a threshold, by its interval. Equal is not below."""
    if found.high < threshold:
        return Verdict.HOLDS
    return Verdict.FAILS if found.low >= threshold else Verdict.UNDECIDED


def above(found: Interval, threshold: float = 0.0) -> Verdict:
    """Whether a quantity is above a threshold, by its interval. Equal is not above."""
    return below(Interval(-found.estimate, -found.high, -found.low, found.n), -threshold)


def in_order(gap: Interval, lower: str, higher: str, undecided: str) -> str:
    """The words for a difference that its interval puts below 0, above 0 or neither."""
    if below(gap) is Verdict.HOLDS:
        return lower
    return higher if above(gap) is Verdict.HOLDS else undecided


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Whether all of several statements hold."""
    found = set(verdicts)
    for verdict in (Verdict.FAILS, Verdict.CANNOT, Verdict.UNDECIDED):
        if verdict in found:
            return verdict
    return Verdict.HOLDS


def by_case(findings: list[Finding]) -> set[Verdict]:
    """The verdicts of the cases that a claim speaks of: a case holds if all of its findings do."""
    cases: dict[str, list[Verdict]] = {}
    for i, finding in enumerate(findings):
        if not finding.beside:
            cases.setdefault(finding.case or str(i), []).append(finding.verdict)
    return {every(verdicts) for verdicts in cases.values()}


def judge_one(name: str, m: Metrics) -> Claim:
    """The claim of the module `name`, with its verdict on this run."""
    module = import_module(f"{__name__}.{name}")
    found = attempted(module.findings, m)
    id_ = f"C{int(name[1:3])}"
    said = (module.CLAIM, module.SHORT, module.SECTION, module.PAPER, module.RULE)
    return Claim(id_, *said, found)


def judge(m: Metrics) -> list[Claim]:
    """Every claim, in the paper's order."""
    return [judge_one(name, m) for name in sorted(module.name for module in iter_modules(__path__))]


def overall(findings: list[Finding]) -> str:
    """The verdict of what was measured."""
    found = by_case(findings)
    decided = found & {Verdict.HOLDS, Verdict.FAILS}
    if len(decided) > 1:
        return PARTLY
    return str(*(decided or found - {Verdict.CANNOT} or {Verdict.CANNOT}))


def left_open(findings: list[Finding]) -> list[str]:
    """What the verdict leaves open."""
    found, verdict = by_case(findings), overall(findings)
    undecided = any(f.verdict is Verdict.UNDECIDED for f in findings if not f.beside)
    open_cases = verdict in (Verdict.HOLDS, Verdict.FAILS) and undecided
    unmeasured = verdict not in (PARTLY, Verdict.CANNOT) and Verdict.CANNOT in found
    in_part = [f"in part {Verdict.UNDECIDED}"] if open_cases else []
    return [*in_part, *(["as far as measured"] if unmeasured else [])]


def beaten_by(findings: list[Finding]) -> list[str]:
    """The rivals that LESA is nowhere seen to beat, of a claim of several rivals."""
    found: dict[str, set[Verdict]] = {}
    for finding in findings:
        if finding.rival:
            found.setdefault(finding.rival, set()).add(finding.verdict)
    fails = [
        rival
        for rival, verdicts in found.items()
        if Verdict.FAILS in verdicts and Verdict.HOLDS not in verdicts
    ]
    return [f"LESA beats {' and '.join(fails)} in no case"] if fails else []


def in_short(findings: list[Finding]) -> str:
    """The verdict of what was measured, in a few words."""
    verdict = overall(findings)
    whose = beaten_by(findings) if verdict == Verdict.FAILS else []
    return ", ".join([verdict, *whose, *left_open(findings)])


def grouped(findings: list[Finding]) -> str:
    """The judged findings: whose, and how much, by verdict where there are several."""
    found: dict[Verdict, list[str]] = {}
    for finding in findings:
        if not finding.beside:
            found.setdefault(finding.verdict, []).append(finding.brief)
    if len(found) == 1:
        return "; ".join(*found.values())
    return ". ".join(f"**{v}:** {'; '.join(found[v])}" for v in Verdict if v in found)


def deciding(findings: list[Finding]) -> list[Finding]:
    """Of several rivals the first finding against each, whatever it says; else the first of each
    verdict that the claim comes to. A claim's findings begin with those of most draws, or of the
    longest training on the text that it speaks of; those of too few seeds come last."""
    shown = overall(findings)
    wanted = (Verdict.HOLDS, Verdict.FAILS) if shown == PARTLY else (shown,)
    found: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda finding: finding.few):
        if not finding.beside and (finding.rival or finding.verdict in wanted):
            found.setdefault(finding.rival or finding.verdict, finding)
    return sorted(found.values(), key=lambda finding: list(Verdict).index(finding.verdict))


def in_brief(claims: list[Claim]) -> Table:
    """A row a claim: its verdict and the number that decides it, for the first screen."""
    rows: list[Row] = []
    for claim in claims:
        shown = deciding(claim.findings)
        mixed = len({finding.verdict for finding in shown}) > 1
        said = [f"{f'{f.verdict}: ' * mixed}{f.brief}" for f in shown]
        found: Row = {"id": claim.id, "claim": claim.short, "verdict here": claim.verdict}
        rows.append(found | {"paper": claim.paper, "here": "; ".join(said)})
    return Table(
        "verdicts",
        "The paper's claims, the verdict here and what decides it: against each rival the number "
        f"of most draws or of the longest training on the claim's text, of {FEWEST} seeds or more "
        "where there is one",
        "reports/claims",
        rows,
    )


def table(claims: list[Claim]) -> Table:
    """A row a claim: what the paper says, what was found, and where to see it."""
    return Table(
        "claims",
        "The paper's claims and what was found; [low, high] is a 95% interval",
        "the files named in each row",
        [
            {
                "id": claim.id,
                "claim": claim.claim,
                "paper's number": claim.paper,
                "verdict": claim.verdict,
                "found here": grouped(claim.findings),
                "shown in": f"[{claim.section}](#{slug(claim.section)})",
                "metrics": ", ".join(
                    dict.fromkeys(f.sources for f in claim.findings if f.sources and not f.beside)
                ),
            }
            for claim in claims
        ],
    )


def rules(claims: list[Claim]) -> Table:
    return Table(
        "rules",
        "The rule behind each verdict",
        "reports/claims",
        [{"id": claim.id, "claim": claim.claim, "rule": claim.rule} for claim in claims],
    )


def findings_table(claims: list[Claim]) -> Table:
    return Table(
        "findings",
        "What each verdict rests on: [low, high] is a 95% interval",
        "the files named in each row",
        [
            {
                "id": claim.id,
                "of": finding.subject,
                "found": finding.said,
                "verdict": f"({finding.verdict})" if finding.beside else str(finding.verdict),
                "files": finding.sources,
            }
            for claim in claims
            for finding in claim.findings
        ],
    )


def three(m: Metrics) -> dict[str, str]:
    """The models of this run made by LESA, LLaMA Pro and SOLAR, by method."""
    methods = ("lesa", *RIVALS)
    found = {method: model for method in methods if (model := m.model_of(method))}
    if missing := [method for method in methods if method not in found]:
        raise CannotTestError(
            f"no model of this run is made by {', '.join(missing)}", "make profile PROFILE=default"
        )
    return found


def three_of_equal_tokens(m: Metrics) -> dict[str, str]:
    """The three, if they were trained on equally many tokens and their steps were timed."""
    models = three(m)
    if len({m.pretrain[name]["steps"][-1]["tokens"] for name in models.values()}) > 1:
        raise CannotTestError(
            "the three were trained for different numbers of tokens", "dvc repro --force pretrain"
        )
    if not all(m.pretrain[name]["seconds"] for name in models.values()):
        raise CannotTestError("a run timed no training step", "dvc repro --force pretrain")
    return models
