"""Sentences that follow from the numbers: each one is chosen by a comparison."""

from __future__ import annotations

from reports.claims import NOT_SUPPORTED, NOT_TESTED, SUPPORTED, Claim
from reports.measured import Json, Metrics, perplexity_at
from reports.tables import number


def _order(m: Metrics, index: int) -> str:
    values = sorted((perplexity_at(m.pretrain[name], index)[0], name) for name in m.models)
    return ", ".join(f"`{name}` {number(value)}" for value, name in values)


CONTROLS = {"noise": "its noise control", "spectrum": "random matrices of its singular values"}


def controls(m: Metrics) -> list[str]:
    """LESA against its controls at initialisation: over seeds, else the one pair trained."""
    out = []
    for preset, content in m.spread.items():
        seeds = list(content["seeds"].values())
        for name, control in CONTROLS.items() if seeds else ():
            wins = sum(seed["lesa"] < seed[name] for seed in seeds)
            verdict = f"The order of LESA and {control} depends on the seed"
            if wins in (0, len(seeds)):
                verdict = f"LESA {'beats' if wins else 'does not beat'} {control}"
            ours, theirs = (sum(s[side] for s in seeds) / len(seeds) for side in ("lesa", name))
            out.append(
                f"{verdict} at initialisation with preset `{preset}`: mean perplexity "
                f"{number(ours)} vs {number(theirs)}, lower in {wins} of {len(seeds)} "
                "predictor seeds."
            )
    lesa, noise = m.model_of("lesa"), m.model_of("noise")
    if lesa and noise:
        first = [] if out else [(0, "at initialisation")]  # the spread says it better
        for index, when in [*first, (-1, "after training")]:
            a, b = (perplexity_at(m.pretrain[n], index)[0] for n in (lesa, noise))
            out.append(
                f"`{lesa}` {'beats' if a < b else 'does not beat'} its noise control `{noise}` "
                f"{when}: {number(a)} vs {number(b)}, one seed."
            )
    return out


def predictors(m: Metrics) -> list[str]:
    out = []
    for preset, run in m.first_runs.items():
        kinds = m.fit[run]["kinds"]
        held = [c["heldout"]["explained_variance"] for c in kinds.values() if c["heldout"]]
        if held:
            out.append(
                f"With preset `{preset}`, {sum(v > 0 for v in held)} of {len(held)} "
                f"predictors explain any variance of held-out layers ({number(min(held))} "
                f"to {number(max(held))}; 0 is what predicting the mean does)."
            )
    return out


def precisions(m: Metrics) -> list[str]:
    """Whether numbers of two machines, with bfloat16 and without, stand side by side."""
    stages: dict[str, dict[str, Json]] = {"pretrain": m.pretrain, "spread": m.spread}
    stages |= {f"evaluate/{phase}": of_models for phase, of_models in m.evaluate.items()}
    found: dict[str, list[str]] = {}
    for stage, contents in stages.items():
        for name, content in contents.items():
            if "dtype" in content:
                found.setdefault(content["dtype"], []).append(f"{stage}/{name}")
    if len(found) < 2:
        return []
    fewest = min(found, key=lambda dtype: len(found[dtype]))
    return [
        f"Numbers of two precisions stand side by side: {', '.join(found[fewest])} in {fewest}, "
        "the others not. `dvc repro --force` measures all on one machine."
    ]


def rates(m: Metrics) -> list[str]:
    """What the training of each model warned of its learning rate."""
    return [line for content in m.pretrain.values() for line in content.get("rate_warnings", [])]


def tasks(m: Metrics) -> list[str]:
    """Which offline tasks the held-out text does not fit, or fits less than asked for."""
    left_out = [f"`{name}` is left out: {why}" for name, why in m.tasks["left_out"].items()]
    return left_out + [f"`{name}`: {note}" for name, note in m.tasks.get("notes", {}).items()]


def conclusions(m: Metrics, claims: list[Claim]) -> list[str]:
    """The report's opening: orders of the models, the control, the predictors, the claims."""
    out = [
        f"Held-out perplexity at initialisation, lowest first: {_order(m, 0)}.",
        f"After training: {_order(m, -1)}.",
    ]
    out += precisions(m) + controls(m) + predictors(m)
    for verdict in (SUPPORTED, NOT_SUPPORTED, NOT_TESTED):
        ids = [c.id for c in claims if c.verdict == verdict]
        if ids:
            out.append(f"Claims {verdict}: {', '.join(ids)}.")
    return out
