"""Study removal: what each layer of the base is worth, and which ones ADEPT's places follow."""

from __future__ import annotations

from reports.measured import Metrics, files
from reports.paired import document_means, paired
from reports.tables import Row, Table
from reports.training_runs import called, gaps_of

SOURCES = files("removal", ["base"])


def table(m: Metrics) -> Table:
    """A row a layer: the loss without it minus that of the whole base."""
    rows: list[Row] = []
    if found := m.removal.get("base"):
        documents, adept = found["heldout_documents"], called(m.budget, "adept")
        copied = gaps_of(m, adept).after if adept else ()
        whole = document_means(documents, found["block_losses"])
        for i, losses in enumerate(found["block_losses_without"]):
            rise = paired(document_means(documents, losses), whole)
            said = "yes" if i in copied else "no"
            rows.append({"layer": i, "loss added": rise, "copied": said})
    return Table(
        "removal",
        "What each layer of the base is worth: loss on validation documents without it, minus the "
        "whole model's, nats a token; and whether run adept of study budget has a copy after it",
        SOURCES,
        rows,
    )
