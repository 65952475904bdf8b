"""mergekit's side: `<its python> -P passthrough.py <config.yml> <out> <bytes of a shard>`.

Run by the interpreter of mergekit's own environment, so nothing of this project is imported.
Its time, like that of the other side, is without the imports.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

_, config, out, shard_bytes = sys.argv
# As mergekit's help advises where a layer occurs more than once. Reading is lazy for safetensors
# whatever the options say, and low_cpu_memory moves data to an accelerator, which is not there.
options = MergeOptions(clone_tensors=True, out_shard_size=int(shard_bytes), quiet=True)
start = time.perf_counter()
source = Path(config).read_text(encoding="utf-8")
run_merge(MergeConfiguration.model_validate(yaml.safe_load(source)), out, options, source)
seconds = time.perf_counter() - start
versions = {name: version(name) for name in ("mergekit", "safetensors", "torch", "transformers")}
print(json.dumps({"seconds": seconds, "result": {"versions": versions}}))
