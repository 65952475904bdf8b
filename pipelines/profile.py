"""Write params.yaml for a profile: conf/default.yaml with conf/<profile>.yaml laid over it.

OmegaConf's merge, as in DVC's own Hydra composition; that one acts in `dvc exp run` only, and
plain `dvc repro` must work for every profile.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lesa.errors import UserError
from lesa.files import write_text
from lesa.params import parse
from pipelines.stage import fail

# Tagged unions: another source has other keys, so its mapping replaces the default's whole.
REPLACED = (("base",), ("corpus", "text"))


def compose(profile: str, conf: Path = Path("conf")) -> dict[str, Any]:
    """The merged and validated parameters of a profile, as a nested dict."""
    path = conf / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in conf.glob("*.yaml")))
        raise UserError(f"PROFILE: no profile {profile!r} in {conf}; it has {known}")
    tree = OmegaConf.load(conf / "default.yaml")
    if profile != "default":
        overlay = OmegaConf.load(path)
        for keys in REPLACED:
            if OmegaConf.select(overlay, ".".join(keys)) is not None:
                OmegaConf.update(tree, ".".join(keys), {}, merge=False)
        tree = OmegaConf.merge(tree, overlay)
    merged: dict[str, Any] = OmegaConf.to_container(tree)  # type: ignore[assignment]
    parse(merged, str(path))
    return merged


def main() -> None:
    try:
        profile = sys.argv[1]
        merged = compose(profile)
    except UserError as error:
        fail(str(error))
    if profile == "default":
        write_text("params.yaml", Path("conf/default.yaml").read_text())
    else:
        head = f"# Written by `make profile PROFILE={profile}` from conf/; edit freely.\n"
        write_text("params.yaml", head + OmegaConf.to_yaml(OmegaConf.create(merged)))
    print(f"params.yaml: profile {profile}")


if __name__ == "__main__":
    main()
