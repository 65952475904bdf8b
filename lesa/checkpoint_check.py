"""Is a folder a whole checkpoint that the method can expand? Reads headers, never tensors."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from lesa.checkpoint import KINDS, layer_tensor, split_layer
from lesa.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}
FLOATS = {"F16", "BF16", "F32", "F64"}
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))


def check(folder: str | Path) -> dict[str, Any]:
    """Validate `folder`; returns model_type, num_hidden_layers, hidden_size, parameters, files.

    `files` are the names of its safetensors files, in order. Raises UserError, one line, when the
    folder or a file is missing, cut short or unreadable, or when a projection is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with config.json and safetensors")
    config = read_object(folder / "config.json")
    layers, model_type = config.get("num_hidden_layers"), config.get("model_type")
    files, tensors = read_tensors(folder)
    check_projections(folder, model_type, layers, tensors)
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise UserError(f"{folder}: has no tokenizer; tokenizer.json (or its kin) must be there")
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": config.get("hidden_size"),
        "parameters": sum(math.prod(entry["shape"]) for entry in tensors.values()),
        "files": files,
    }


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file that must be there."""
    if not path.is_file():
        raise UserError(f"{path}: missing; a checkpoint folder has it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value


def read_tensors(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Names of the safetensors files, and the header's entry of every tensor in them."""
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return [SINGLE], read_header(folder / SINGLE)
        raise UserError(f"{folder}: holds neither {SINGLE} nor {INDEX}; pickles are not read")
    where = read_object(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{folder / INDEX}: has no weight_map")
    files = sorted(set(where.values()))
    headers = {}
    for name in files:
        if not (folder / name).is_file() or Path(name).name != name:
            raise UserError(f"{folder / INDEX}: names the file {name}, which is not there")
        headers[name] = read_header(folder / name)
    for tensor, name in where.items():
        if tensor not in headers[name]:
            raise UserError(f"{folder / INDEX}: says that {name} holds {tensor}; it does not")
    return files, {tensor: headers[name][tensor] for tensor, name in where.items()}


def read_header(path: Path) -> dict[str, Any]:
    """Entries of a safetensors file, its sizes checked against the file's length.

    Layout: 8 bytes little-endian header length, JSON header, then the data without gaps.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise UserError(f"{path}: not a whole safetensors file (cut short in its header)")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            data = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            damaged = [name for name, entry in header.items() if not fits(entry)]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"{path}: not a safetensors file (its header is unreadable)") from None
    if damaged:
        raise UserError(f"{path}: {damaged[0]} has another size than its shape and dtype say")
    if 8 + length + data != size:
        raise UserError(
            f"{path}: not a whole safetensors file: {size} bytes, expected {8 + length + data}"
        )
    return dict(header)


def fits(entry: dict[str, Any]) -> bool:
    """Do a tensor's offsets agree with its shape and dtype, as far as the dtype is known?"""
    begin, end = entry["data_offsets"]
    bits = BITS.get(entry["dtype"])
    return bits is None or (end - begin) * 8 == bits * math.prod(entry["shape"])


def check_projections(folder: Path, model_type: Any, layers: Any, tensors: dict[str, Any]) -> None:
    """Every layer has the seven matrices, in floating point."""
    needed = ", ".join(KINDS)
    if not isinstance(layers, int) or layers < 1:
        raise UserError(
            f"{folder}: model type {model_type!r} gives no num_hidden_layers in config.json; "
            f"expected a decoder with {needed} in every layer"
        )
    for index in range(layers):
        for suffix in KINDS.values():
            name = layer_tensor(index, suffix)
            if name not in tensors:
                raise UserError(
                    f"{folder}: model type {model_type!r} lacks {name}; "
                    f"expected {needed} in every layer"
                )
            if tensors[name]["dtype"] not in FLOATS or len(tensors[name]["shape"]) != 2:
                raise UserError(f"{folder}: {name} is quantised; expected a floating-point matrix")
    deeper = [name for name in tensors if (split := split_layer(name)) and split[0] >= layers]
    if deeper:
        raise UserError(f"{folder}: holds {deeper[0]}, but config.json says {layers} layers")
