"""All benchmarks, one after the other: `python -m benchmarks [name …]`."""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = ("basis", "fit", "expansion", "pretrain", "training_steps", "depth")


def main() -> int:
    """Exit status of the first that fails, else 0; the results of the others stay."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="name", help=str(NAMES))
    chosen = parser.parse_args().names
    if unknown := set(chosen) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in chosen:
        status = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
