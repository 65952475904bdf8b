"""Write params.yaml for a profile: conf/default.yaml with conf/<profile>.yaml laid over it.

OmegaConf's merge, as in DVC's own Hydra composition; that one acts in `dvc exp run` only, and
plain `dvc repro` must work for every profile.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from baselines import check_methods
from lesa.errors import UserError, one_line
from lesa.files import write_text
from lesa.params import parse

SOURCES = ("base", "corpus.text")  # another source has other keys


def replaced(tree: Any, overlay: Any) -> list[str]:
    """Keys whose mapping in `overlay` takes the place of the default's whole, as it is of another
    form: sources, and gaps that are listed where the default's are a range, or the other way."""
    found = [key for key in SOURCES if OmegaConf.select(overlay, key) is not None]
    for key in ("gaps", *(f"methods.{name}.gaps" for name in overlay.get("methods") or {})):
        both = [OmegaConf.select(one, key) for one in (tree, overlay)]
        listed = {"after" in one for one in both if isinstance(one, DictConfig)}
        if len(listed) > 1:
            found.append(key)
    return found


def compose(profile: str, conf: Path = Path("conf")) -> dict[str, Any]:
    """The merged and validated parameters of a profile, as a nested dict."""
    path = conf / f"{profile}.yaml"
    if not os.path.isfile(path):  # which takes a name of any length
        known = ", ".join(sorted(p.stem for p in conf.glob("*.yaml")))
        raise UserError(f"PROFILE: no profile {profile!r} in {conf}; it has {known}")
    try:
        tree = OmegaConf.load(conf / "default.yaml")
        overlay = OmegaConf.load(path) if profile != "default" else OmegaConf.create()
        for key in replaced(tree, overlay):
            OmegaConf.update(tree, key, {}, merge=False)
        merged: Any = OmegaConf.to_container(OmegaConf.merge(tree, overlay), resolve=True)
    except (
        OmegaConfBaseException, OSError, YAMLError, TypeError, ValueError, RecursionError
    ) as error:  # fmt: skip
        line = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: cannot be merged with the default ({line})") from None
    choose_models(merged, str(path))
    params = parse(merged, str(path))
    check_methods(params, str(path))
    if params.profile != profile:
        raise UserError(
            f"{path}: profile: {params.profile!r}, which all that is measured would be told as; "
            f"must be {profile!r}, as the file is called"
        )
    return dict(merged)


def choose_models(tree: dict[str, Any], where: str) -> None:
    """Leave of `methods` those that the profile's list `models` names, in its order.

    A merge can add methods and change them, but not take one away.
    """
    if "models" not in tree:
        return
    wanted, methods = tree.pop("models"), tree["methods"] or {}
    if not isinstance(methods, dict):
        raise UserError(f"{where}: methods: must be a mapping of names to methods")
    if not isinstance(wanted, list) or not wanted or not all(isinstance(n, str) for n in wanted):
        raise UserError(f"{where}: models: must be a list of names of methods")
    for name in wanted:
        if name not in methods:
            raise UserError(
                f"{where}: models: no method {name!r}; there are {', '.join(map(str, methods))}"
            )
    tree["methods"] = {name: methods[name] for name in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(prog="pipelines.profile")
    parser.add_argument("profile")
    profile = parser.parse_args().profile
    with one_line():
        merged = compose(profile)
        if profile == "default":
            write_text("params.yaml", Path("conf/default.yaml").read_text())
        else:
            head = f"# Written by `make profile PROFILE={profile}` from conf/; edit freely.\n"
            write_text("params.yaml", head + OmegaConf.to_yaml(OmegaConf.create(merged)))
    print(f"params.yaml: profile {profile}")
    if profile not in ("default", "smoke"):
        print("learning rates in metrics/grid are not tuned for this model: run `make grid` first")


if __name__ == "__main__":
    main()
