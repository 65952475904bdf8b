"""Stage corpus: text, tokenised and packed; documents split into train, validation and test."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lesa.files import whole_folder, write_json
from lesa.params import HubText, Params
from lesa.text.corpus import build
from pipelines.folders import BASE, CORPUS
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

METRICS = Path("metrics/corpus.json")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    log.params({"corpus": params.corpus.model_dump()})
    if not isinstance(params.corpus.text, HubText):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is first imported
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(BASE), AutoTokenizer.from_pretrained(BASE)
    with whole_folder(CORPUS) as partial:
        metrics = build(params.corpus, tokenizer, config, partial)
    write_json(METRICS, metrics)
    log.metrics(
        {
            f"{what}/{split}": number
            for what in ("documents", "tokens", "blocks")
            for split, number in metrics[what].items()
        }
    )
    log.artifact(METRICS)


if __name__ == "__main__":
    run_stage("corpus", work)
