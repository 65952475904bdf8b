"""C11: loss after supervised fine-tuning (SFT), and after pre-training on code."""

from __future__ import annotations

from reports.claims import Finding, below, cannot
from reports.measured import Json, Metrics, files
from reports.paired import Array, document_means, paired
from reports.tables import show_interval

STUDIES = {
    "code": ("code", "bits per byte of the packages held out"),
    "sft": ("SFT", "loss of the completions held out, nats a token"),
}
CLAIM = "After SFT, and in the code domain, LESA stays ahead"
RULE = "held-out loss minus each baseline's below 0 by its interval, paired by document or example"
PAPER = (
    "HumanEval pass@1 25.00 against 10.98 (LLaMA Pro) and 2.44 (SOLAR); average after SFT 31.57, "
    "of which LLaMA Pro reaches 77% and SOLAR 84%"
)


def findings(m: Metrics) -> list[Finding]:
    return [finding for study in STUDIES for finding in compared(m, study)]


def compared(m: Metrics, study: str) -> list[Finding]:
    name, unit = STUDIES[study]
    content: dict[str, Json] = getattr(m, study)
    if "lesa" not in content or not {"llama_pro", "solar"} & set(content):
        return [cannot(name, "not measured", f"make study NAME={study}")]
    found = []
    for other in ("llama_pro", "solar"):
        if other in content:
            ours, theirs = (means(content[model]) for model in ("lesa", other))
            gap = paired(ours, theirs)
            said = f"lesa minus {other} {show_interval(gap)} {unit}"
            sources = files(study, ["lesa", other])
            found.append(Finding(f"{name}, against {other}", said, below(gap), sources))
    return found


def means(content: Json) -> Array:
    """Mean of each held-out group (a package's files, a module's examples), in the file's order."""
    return document_means(content["groups"], content["values"])
