"""The paper's claims, a file each: `c07_initial_perplexity.py` holds what C7 says and its rule.

A file has CLAIM and RULE in words, and `evidence(metrics)`: what the numbers say, and whether the
rule is met. Where they cannot tell it raises NotTestedError with the reason. A claim needs no entry
anywhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pkgutil import iter_modules

from reports.measured import Metrics, files
from reports.tables import Table

SUPPORTED, NOT_SUPPORTED = "supported here", "not supported here"
NOT_TESTED = "not tested here"


class NotTestedError(Exception):
    """Why the metrics of this run say nothing of a claim."""


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    threshold: str
    verdict: str
    evidence: str


def judge_one(name: str, m: Metrics) -> Claim:
    """The claim of the module `name`, with its verdict on this run."""
    module = import_module(f"{__name__}.{name}")
    try:
        evidence, met = module.evidence(m)
        verdict = SUPPORTED if met else NOT_SUPPORTED
    except NotTestedError as reason:
        evidence, verdict = str(reason), NOT_TESTED
    return Claim(f"C{int(name[1:3])}", module.CLAIM, module.RULE, verdict, evidence)


def judge(m: Metrics) -> list[Claim]:
    """Every claim, in the paper's order."""
    return [judge_one(name, m) for name in sorted(module.name for module in iter_modules(__path__))]


def table(claims: list[Claim]) -> Table:
    return Table(
        "claims",
        "The paper's claims, judged by the metrics of this run",
        "the files named in each row",
        [asdict(claim) for claim in claims],
    )


def three(m: Metrics) -> tuple[str, str, str]:
    """The models of this run made by LESA, LLaMA Pro and SOLAR."""
    found = {method: m.model_of(method) for method in ("lesa", "llama_pro", "solar")}
    if missing := [method for method, model in found.items() if model is None]:
        raise NotTestedError(f"no model of this run is made by {', '.join(missing)}")
    lesa, llama_pro, solar = map(str, found.values())
    return lesa, llama_pro, solar


def three_of_equal_tokens(m: Metrics) -> tuple[str, str, str]:
    """The three, if they were trained on equally many tokens and their steps were timed."""
    models = three(m)
    if len({m.pretrain[name]["steps"][-1]["tokens"] for name in models}) > 1:
        raise NotTestedError("the three were trained for different numbers of tokens")
    if not all(m.pretrain[name]["seconds"] for name in models):
        raise NotTestedError("a run timed no training step")
    return models


def first_fit_files(m: Metrics) -> str:
    """How evidence names the fit metrics of each preset's first seed."""
    return files("fit", list(m.first_runs.values()))
