"""The config of a deepened model: every per-layer entry is that of the layer it came from."""

from __future__ import annotations

import json
import re
from typing import Any

from lesa.checkpoints.reader import read_config
from lesa.errors import UserError

# Lists of a config whose length says nothing of layers, even where the two are equal.
NOT_OF_LAYERS = re.compile("architectures|.*_token_ids?")
# Lists that a family's code reads at each layer's index, whatever stands behind the last one.
OF_LAYERS = {"no_rope_layers"}


def per_layer(explicit: Any) -> dict[str, list[Any]]:
    """A config's lists with an entry for each layer, by name; derived ones too."""
    depth = explicit.num_hidden_layers
    return {
        key: list(value[:depth])
        for key, value in explicit.to_dict().items()
        if isinstance(value, list | tuple)
        and (len(value) == depth or key in OF_LAYERS)
        and not NOT_OF_LAYERS.fullmatch(key)
    }


def deepened_config(config: dict[str, Any], sources: list[int], where: str) -> dict[str, Any]:
    """`config.json` for a model whose layer i takes its per-layer settings from `sources[i]`.

    What the family's config class derives for each layer is written out. Raises UserError if the
    class would still derive something else for the deeper model.
    """
    explicit = read_config(config, where)
    wanted = {key: [row[i] for i in sources] for key, row in per_layer(explicit).items()}
    own_name = type(explicit).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    depths = {key: len(sources) for key in ("num_hidden_layers", own_name) if key in config}
    depths = depths or {own_name: len(sources)}  # a silent config has its class's default
    new: dict[str, Any] = json.loads(json.dumps(config | wanted | depths))
    found = per_layer(read_config(new, where))
    for key, row in wanted.items():
        if found.get(key) != row:
            raise UserError(f"{where}: {key} of a deeper model cannot be set layer by layer")
    return new
