"""Check the record: the report against metrics, these against each other, parameters and locks.

`python -m pipelines.verify` takes seconds and runs nothing; with names of stages, or `all`, it also
runs these again in a scratch clone and compares every number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from lesa import params as parameters
from lesa.errors import one_line
from pipelines import locks, rerun
from reports import consistency, rebuilt

ROOT = Path()


def checks(known: locks.Locks) -> list[tuple[str, Callable[[], Iterable[str]]]]:
    """What is checked, by the words that are printed: lines that name the places that fail."""
    params = parameters.load()
    return [
        ("the report, rebuilt from metrics", lambda: rebuilt.changed(params, ROOT)),
        ("metrics against each other", lambda: consistency.contradictions(Path("metrics"))),
        ("learning rates against metrics/rates", lambda: consistency.differing_rates(ROOT)),
        ("parameters against the locks", lambda: locks.differing_params(known)),
        ("files against the locks", lambda: locks.changed_files(known)),
        ("studies' metrics against the locks", lambda: locks.changed_copies(known)),
        ("metrics files by the stage that wrote them", lambda: locks.without_origin(known)),
        ("locks against themselves", lambda: locks.disagreeing(known)),
        ("code in the locks against git's history", lambda: locks.unknown_code(known)),
        ("commits of metrics/provenance", lambda: locks.unknown_commits(known)),
    ]


def verify() -> int:
    """Print every check and its failures; returns how many lines failed."""
    count, known = 0, locks.load(ROOT)
    for name, check in checks(known):
        found = list(dict.fromkeys(check()))
        print(f"{'differs' if found else 'ok':8}{name}")
        print(*(f"        {line}" for line in found), sep="\n", end="\n" * bool(found))
        count += len(found)
    notes = (locks.older_code, locks.earlier_inputs, locks.other_roundings, locks.uncommitted)
    for line in (line for note in notes for line in note(known)):
        print(f"note    {line}")
    return count


def main() -> int:
    parser = argparse.ArgumentParser(prog="pipelines.verify", description=__doc__)
    parser.add_argument("stages", nargs="*", help="stages of dvc.yaml to run again, or `all`")
    args = parser.parse_args()
    with one_line():
        failed = verify()
        if args.stages:
            failed += rerun.rerun(ROOT, args.stages)
    print(f"{failed} lines differ" if failed else "everything agrees")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
