"""A checkpoint as lm-eval's language model, with texts that begin as the tokenizer begins them.

lm-eval scores the token that a tokenizer such as Gemma's puts before a text as if it were text,
given itself. Here that token is given and never scored, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError

from lesa.checkpoints.reader import weight_files
from lesa.errors import UserError
from lesa.files import read_object
from lesa.machine import compute_device
from lesa.text.corpus import beginning
from lesa.training.processes import group

Request = tuple[Any, list[int], list[int]]  # lm-eval's: the strings, context and continuation


class LanguageModel(HFLM):
    """HFLM for which `beginning`, the tokens put before every text, are context alone.

    Where the tokenizer puts none, a document or an empty context begins with one token all the
    same, which is lm-eval's choice: BOS, or EOS where there is no BOS. A BOS that a text itself
    spells out comes after the beginning, as in training.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.beginning = beginning(self.tokenizer)
        if self.beginning:
            self.custom_prefix_token_id = self.beginning[-1]

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        ids: list[int] = super().tok_encode(string, False, left_truncate_len, **kwargs)
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        before, after = super()._encode_pair(context, continuation)
        return [*self.beginning[-1:], *before], after

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Give every text the rest of its beginning: lm-eval itself has room for one token."""
        rest, token = self.beginning[:-1], self.beginning[-1:]
        if rest:
            requests = [
                (strings, [*rest, *context] if context[:1] == token else context, continuation)
                for strings, context, continuation in requests
            ]
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        return scores


def load(checkpoint: Path, dtype: str, batch_size: int) -> LanguageModel:
    """The Hugging Face folder `checkpoint`, from local files alone, on this process's device."""
    read_object(checkpoint / "config.json")
    weight_files(checkpoint)
    processes = group()
    try:
        model = LanguageModel(
            pretrained=str(checkpoint.resolve()),  # absolute: never taken for a hub id
            dtype=dtype,
            device=str(compute_device()),
            batch_size=batch_size,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{checkpoint}: cannot be loaded ({line[:200]})") from error
    # Of itself lm-eval shares documents only between the GPUs of one machine.
    model._rank, model._world_size = processes.process_index, processes.num_processes
    return model
