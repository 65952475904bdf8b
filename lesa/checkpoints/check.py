"""Is a folder a whole checkpoint that can be deepened?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lesa.checkpoints.families import FAMILIES
from lesa.checkpoints.reader import (
    BUFFER,
    Checkpoint,
    quiet_transformers,
    read_config,
    weight_files,
)
from lesa.errors import UserError, explained
from lesa.files import read_object

NOTE = "LICENSE_NOTE.json"
ADAPTER = "adapter_config.json"
# What a tokenizer may be stored in as JSON objects, of which its loader's errors name none.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
PRODUCT_BYTES = 16  # of which torch's grouped product takes whole multiples in a row
SAMPLE = "A naïve “text” of  2 lines,\nor 3."
LARGEST = 1e15  # of a matrix: float32 holds the sum of 10^8 squares of it
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def check(folder: str | Path) -> dict[str, Any]:
    """Validate `folder`; returns model_type, num_hidden_layers, hidden_size, parameters, files.

    `files` are the names of its safetensors files, in order. Raises UserError, one line, for
    whatever would keep transformers from loading it as it is meant, or the method from deepening
    it: a family that is not in the table, weights that are not whole or not those of the config,
    quantised matrices, a tokenizer that cannot be loaded or has ids that the model has not.
    """
    folder = Path(folder)
    check_folder(folder)
    config = read_config(read_object(folder / "config.json"), str(folder / "config.json"))
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder / ADAPTER}: transformers would put this adapter on the weights; merge it "
            "into them and take the file away"
        )
    if (folder / NOTE).is_file():
        read_object(folder / NOTE)  # for a deeper model's card, which is written last
    checkpoint = Checkpoint(folder)
    check_floats(checkpoint)
    loaded = check_loading(checkpoint)
    check_experts(checkpoint)
    check_layers(checkpoint)
    check_values(checkpoint)
    check_tied(checkpoint)
    check_names(checkpoint, loaded)
    check_tokenizer(checkpoint)
    return {
        "model_type": config.model_type,
        "num_hidden_layers": checkpoint.num_layers,
        "hidden_size": config.hidden_size,
        "parameters": checkpoint.parameters(),
        "files": weight_files(folder),
    }


def check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with config.json and safetensors")


def check_floats(checkpoint: Checkpoint) -> None:
    """The matrices are floating point."""
    # A tensor that holds several matrices is read once.
    for suffix, kind in {view.tensor: kind for kind, view in checkpoint.views.items()}.items():
        name = checkpoint.layer_tensor(0, suffix)
        if checkpoint.tensor(name).dtype not in FLOATS:
            raise UserError(
                f"{checkpoint.folder}: {name} ({kind}) is quantised; expected floating point"
            )


def model_on_meta(explicit: Any, where: str) -> Any:
    """transformers' model of an explicit config: names and shapes, and no weights."""
    from transformers import AutoModelForCausalLM

    said = f"{where}: transformers makes no model of it"
    with quiet_transformers(), explained(said), torch.device("meta"):
        return AutoModelForCausalLM.from_config(explicit)


def check_loading(checkpoint: Checkpoint) -> Any:
    """Compare names and shapes with the model's own, which transformers loads without memory.

    Returns that model, on the meta device.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = checkpoint.folder
    if (path := folder / "generation_config.json").is_file():
        with quiet_transformers(), explained(f"{path}: transformers cannot load it"):
            GenerationConfig.from_pretrained(folder)
    with quiet_transformers(), explained(f"{folder}: transformers cannot load it"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    made, info = loaded
    if (seen := made.config.model_type) != checkpoint.config["model_type"]:
        # transformers tells some kinds of a family by other entries, Mistral's by layer_types.
        raise UserError(
            f"{folder / 'config.json'}: model type {checkpoint.config['model_type']!r}, which "
            f"transformers takes for {seen!r} with these entries; known are {', '.join(FAMILIES)}"
        )
    model = f"a model of type {checkpoint.config['model_type']!r} with this config.json"
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{folder}: lacks {missing[0]}, which {model} has")
    if extra := sorted(n for n in info["unexpected_keys"] if not BUFFER.fullmatch(n)):
        raise UserError(f"{folder}: holds {extra[0]}, which {model} does not have")
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise UserError(f"{folder}: {name} is {tuple(stored)}, but {tuple(wanted)} in {model}")
    check_running(made, str(folder / "config.json"))
    return made


def check_names(checkpoint: Checkpoint, model: Any) -> None:
    """What transformers reads goes back under the names that it was read from, as training saves
    it: a mixture of a layout's older and newer names is read and is no layout."""
    wanted = checkpoint.as_stored(model, dict(model.named_parameters())).keys()
    stored = set(checkpoint.names())
    if differ := sorted((wanted ^ stored) - checkpoint.aliases.keys()):
        held = "holds" if differ[0] in stored else "holds no"
        raise UserError(
            f"{checkpoint.folder}: {held} {differ[0]}, unlike what transformers would save of the "
            "model that it reads there; save it so (save_pretrained)"
        )


def check_running(model: Any, where: str) -> None:
    """The model, on the meta device, reads two tokens as in training: some settings fail there.

    On that device no value can be looked at, so what looks at some is set to what does not.
    """
    check_rotary(model, where)
    model.set_attn_implementation("eager")  # what a config may name needs a device
    if model._can_set_experts_implementation():
        model.set_experts_implementation("batched_mm")  # others look at the router's choices
    for module in model.modules():
        if kinds := getattr(module, "rope_type", None):  # some look at how many positions there are
            every = isinstance(kinds, dict)
            module.rope_type = dict.fromkeys(kinds, "default") if every else "default"
        if hasattr(module, "gradient_checkpointing"):  # with which there is no cache
            module.gradient_checkpointing = False
    with (
        quiet_transformers(),
        explained(f"{where}: transformers makes a model of it that cannot run"),
    ):
        # With a cache, as without one the values of positions are looked at.
        model.train()(torch.zeros((1, 2), dtype=torch.long, device="meta"), use_cache=True)


def check_rotary(model: Any, where: str) -> None:
    """The rotary positions are numbers at the first and at the last position, which are computed
    here: on the meta device none are, and frequencies of long texts are not even asked for."""
    for module in model.modules():
        if (kinds := getattr(module, "rope_type", None)) is None:
            continue
        given = [{"layer_type": kind} for kind in kinds] if isinstance(kinds, dict) else [{}]
        with quiet_transformers(), explained(f"{where}: its rotary positions cannot be computed"):
            positions = torch.tensor([[0, model.config.max_position_embeddings - 1]])
            rotary = type(module)(model.config)
            found = [part for own in given for part in rotary(torch.zeros(1), positions, **own)]
        if not all(bool(part.isfinite().all()) for part in found):
            raise UserError(
                f"{where}: its rotary positions (rope_parameters or rope_scaling) are no numbers "
                "at its last position; factors and rope_theta of a trained model would do"
            )


def check_experts(checkpoint: Checkpoint, computed: torch.dtype | None = None) -> None:
    """transformers runs a mixture's experts in one grouped product, which on the meta device takes
    matrices of any width: as stored and in `computed`, params.yaml's evaluate.dtype, or without it
    in config.json's dtype. All experts are of the first one's shape."""
    where = f"{computed} (params.yaml: evaluate.dtype)" if computed else "config.json's"
    for kind in (kind for kind in checkpoint.kinds if kind.startswith("experts.0.")):
        name, shape = (
            checkpoint.layer_tensor(0, checkpoint.views[kind].tensor),
            checkpoint.shape(kind),
        )
        stored = checkpoint.empty(name).dtype
        narrow = min(stored.itemsize, (computed or checkpoint.explicit.dtype or stored).itemsize)
        some = PRODUCT_BYTES // narrow
        if any(width % some for width in shape):
            raise UserError(
                f"{checkpoint.folder}: {name} ({kind}) is of {shape}; in its dtype or "
                f"{where}, torch's product of a mixture's experts takes multiples of {some}"
            )


def check_layers(checkpoint: Checkpoint) -> None:
    """Each layer is stored as layer 0 is: transformers reads some things under several names."""
    stored = set(checkpoint.names())
    for layer_idx in range(checkpoint.num_layers):
        for suffix in checkpoint.suffixes():
            if (name := checkpoint.layer_tensor(layer_idx, suffix)) not in stored:
                like = checkpoint.layer_tensor(0, suffix)
                raise UserError(f"{checkpoint.folder}: holds {like} and no {name}")


def check_values(checkpoint: Checkpoint) -> None:
    """Every tensor that the model reads is of finite floating point numbers, and those that hold
    matrices of such whose products float32 can hold."""
    holding = {view.tensor for view in checkpoint.views.values()}
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"{checkpoint.folder}: {name} is of {tensor.dtype}; expected floating point"
            )
        # In float64 a number may be one that float32, in which all is computed, has not.
        if not bool((tensor.float() if tensor.dtype == torch.float64 else tensor).isfinite().all()):
            raise UserError(f"{checkpoint.folder}: {name} holds numbers that are not finite")
        split = checkpoint.family.split(name)
        if split and split[1] in holding and not bool((tensor.abs() <= LARGEST).all()):
            raise UserError(
                f"{checkpoint.folder}: {name} holds numbers beyond {LARGEST:g}, of whose products "
                "no basis can be computed; no trained model has such"
            )


def check_tied(checkpoint: Checkpoint) -> None:
    """A stored output layer that the config ties to the embedding must be equal to it."""
    for head, embedding in checkpoint.aliases.items():
        if embedding not in checkpoint.names():
            raise UserError(
                f"{checkpoint.folder}: holds {head} and no {embedding}, which it is tied to; "
                "store it under the embedding's name"
            )
        if not torch.equal(checkpoint.tensor(head), checkpoint.tensor(embedding)):
            raise UserError(
                f"{checkpoint.folder / 'config.json'}: tie_word_embeddings is true, but {head} "
                f"differs from {embedding}; set it to false"
            )


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """It loads, has a token to end texts with, and gives no id that the embedding lacks.

    Special tokens beyond the vocabulary, as multimodal kin of a text model have, are left alone
    unless they begin or end a text: no plain text holds them.
    """
    folder = checkpoint.folder
    for path in map(folder.joinpath, TOKENIZER_FILES):
        if path.is_file():
            read_object(path)
    with explained(f"{folder}: its tokenizer cannot be loaded"):
        tokenizer = tokenizer_of(folder)
        ids = tokenizer("text", add_special_tokens=False)["input_ids"]
        tokenizer(SAMPLE)  # of signs that its vocabulary may lack
        vocabulary = tokenizer.get_vocab().items()
    # transformers makes one that knows no word where there is no file of it.
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    there = any((folder / name).is_file() for name in files)
    if not there and set(ids) <= {tokenizer.unk_token_id}:
        raise UserError(f"{folder}: has no tokenizer; {' or '.join(sorted(files))} must be there")
    size = checkpoint.explicit.vocab_size
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special -= {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if beyond := {i: token for token, i in vocabulary if i >= size and i not in special}:
        index, token = min(beyond.items())
        raise UserError(
            f"{folder}: its tokenizer has the token {token!r} with id {index}, but the model's "
            f"vocabulary ends at {size - 1} (vocab_size in config.json)"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer has no end-of-text token (eos_token)")


def check_same_tokenizer(folder: Path, source: Path) -> None:
    """The checkpoint in `folder`, made from that in `source`, reads texts as that one does."""

    def read(one: Path) -> tuple[dict[str, int], list[int]]:
        tokenizer = tokenizer_of(one)
        return tokenizer.get_vocab(), tokenizer(SAMPLE)["input_ids"]

    with explained(f"{folder}: its tokenizer cannot be loaded"):
        same = read(folder) == read(source)
    if not same:
        raise UserError(
            f"{folder}: its tokenizer is not that of {source}, of which a file was not copied; "
            "one saved there as tokenizer.json would be"
        )


def tokenizer_of(folder: Path) -> Any:
    """transformers' tokenizer of a folder, by its own code alone. Raises UserError for one that
    reads a text in another way every time."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        found = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    model = getattr(getattr(found, "backend_tokenizer", None), "model", None)
    if dropout := getattr(model, "dropout", None):
        raise UserError(
            f"{folder / 'tokenizer.json'}: model.dropout: {dropout:g}: cuts a text otherwise every "
            "time it is read; set it to null"
        )
    return found
