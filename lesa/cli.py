"""The command `lesa`: arguments in, a table or JSON out; `lesa.commands` does the work.

Exit status 0, 1 for a result that fails its check, 2 for bad input; of both one line on stderr.
Progress goes to stderr, so that with --json stdout is JSON alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

import lesa
from lesa.errors import CheckError, UserError, fail, one_line, replace_unprintable

if TYPE_CHECKING:
    from lesa.commands.evaluate import Score
    from lesa.commands.inspect import Inspection, Kind
    from lesa.commands.retrained import Retrained
    from lesa.commands.workshop import Model

app = typer.Typer(
    name="lesa",
    help="Make a pretrained language model deeper: LESA and the methods it is compared with.",
    epilog="A first look: lesa inspect MY_MODEL. Each command's --help has examples.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="Folder with config.json, safetensors and a tokenizer.",
        show_default=False,
    ),
]
Base = Annotated[
    Path,
    typer.Argument(metavar="BASE", help="Folder of the checkpoint to deepen.", show_default=False),
]
MethodName = Annotated[
    str, typer.Option("--method", "-m", help="How new layers are made; `lesa inspect` lists all.")
]
Layers = Annotated[
    int | None,
    typer.Option("--layers", "-n", help="Layers of the deeper model.", show_default=False),
]
Positions = Annotated[
    str | None,
    typer.Option(
        help="Where new layers go: top, middle, bottom, or gaps such as 15-30, which is one "
        "between layers 15 and 16 … 30 and 31, 0-based, or 3,7,11, one after each. "
        "Methods with places of their own (llama_pro, solar) take the number alone. Default: top, "
        "as published.",
        show_default=False,
        autocompletion=lambda: ["top", "middle", "bottom"],
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="How LESA's predictors are fitted: paper or official_code.",
        autocompletion=lambda: ["paper", "official_code"],
    ),
]
Seed = Annotated[int, typer.Option(help="Of the predictors, and of what a method draws.", min=0)]
OptionList = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE", help="A method's own option; may be repeated."
    ),
]
TEXT = "A text in UTF-8 that perplexity is measured on: in windows of 512 tokens, each read alone."
Text = Annotated[Path, typer.Option(help=TEXT, show_default=False)]
SomeText = Annotated[Path | None, typer.Option(help=TEXT, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]


def examples(*lines: str) -> str:
    """What stands below a command's options."""
    return "\b\nExamples:\n" + "\n".join(f"  lesa {line}" for line in lines)


@app.command(
    epilog=examples(
        "inspect my_model",
        "inspect my_model --no-spectra --json",
        "inspect my_model --text heldout.txt",
    )
)
def inspect(
    path: Checkpoint,
    spectra: Annotated[
        bool,
        typer.Option(help="Read all matrices: how their singular values fall, and continuity."),
    ] = True,
    text: Annotated[
        Path | None,
        typer.Option(
            help="A text in UTF-8: also say how much its loss rises without each layer. Scores it "
            "once a layer.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a checkpoint is made of and what it can be deepened by.

    Continuity is the mean distance of neighbouring layers' top coefficient rows over that of all
    pairs: 1 where the order of the layers says nothing. p is the share of random orders in which
    neighbours are as near.
    """
    use_threads()
    found = lesa.inspect(path, spectra=spectra, text=text)
    if as_json:
        return print_json(found)
    print_pairs(
        ("family", found.model_type),
        ("layers", str(found.layers)),
        ("hidden size", str(found.hidden_size)),
        ("vocabulary", f"{found.vocab_size:,}"),
        ("parameters", f"{found.parameters:,} of {found.dtype}"),
        ("of one layer", f"{found.layer_parameters:,}"),
        ("output layer", "tied to the embedding" if found.tied else "of its own"),
    )
    print_kinds(found)
    print_pairs(("not predicted by LESA", ", ".join(found.unpredicted)))
    if found.routers:
        print_pairs(("router", "the lower neighbour's in a layer predicted by LESA"))
    from lesa.upscaling.plan import ranges

    print_rows(
        ["method", "new layers it can add"],
        [[name, ", ".join(ranges(sizes)) or "none"] for name, sizes in found.new_layers.items()],
    )
    if found.removal is not None:
        print_rows(
            ["layer", "loss without it, minus the whole model's"],
            [
                [str(i), "-" if rise is None else f"{rise:+.4f}"]
                for i, rise in enumerate(found.removal)
            ],
        )


@app.command(
    epilog=examples(
        "plan my_model --layers 48",
        "plan my_model --method llama_pro --layers 40",
        "plan my_model --positions 15-30 --json",
    )
)
def plan(
    path: Checkpoint,
    method: MethodName = "lesa",
    layers: Layers = None,
    positions: Positions = None,
    preset: Preset = "paper",
    seed: Seed = 0,
    option: OptionList = None,
    as_json: AsJson = False,
) -> None:
    """Say what `lesa expand` would make, and what it takes here.

    That is memory, disk and time of each step on this machine; time is an estimate from rates
    measured just now. Of the checkpoint config.json alone is read.
    Exit status 1 where memory or disk will not do.
    """
    use_threads()
    found = lesa.plan(
        path, method=method, layers=layers, positions=positions, preset=preset, seed=seed,
        options=options_of(option),
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        from lesa.files import gib
        from lesa.planning.budget import duration

        print_pairs(
            ("layers", f"{found.layers_before} to {found.layers_after}"),
            ("plan", found.layer_plan),
            ("", "0-14: copies. +: new, between its neighbours. +3: new, made of layer 3."),
            ("parameters", f"{found.parameters_before:,} to {found.parameters_after:,}"),
            ("of these train", f"{found.trainable_parameters:,}"),
        )
        steps = [
            [name, gib(step.memory), gib(step.disk), duration(step.seconds)]
            for name, step in found.steps.items()
        ]
        whole = ["all", gib(found.memory), gib(found.disk), duration(found.seconds)]
        print_rows(["step", "memory", "disk", "time"], [*steps, whole])
    if found.lacking:
        raise CheckError(found.lacking)


@app.command(
    epilog=examples(
        "expand my_model deeper --layers 48 --text heldout.txt",
        "expand my_model deeper --method llama_pro --layers 40",
        "expand my_model deeper --positions 15-30 --preset official_code --seed 1",
        "expand my_model deeper --method ridge --layers 48 --option penalty=0.01",
    )
)
def expand(
    base: Base,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)],
    method: MethodName = "lesa",
    layers: Layers = None,
    positions: Positions = None,
    preset: Preset = "paper",
    seed: Seed = 0,
    option: OptionList = None,
    text: SomeText = None,
    as_json: AsJson = False,
) -> None:
    """Deepen a checkpoint into a new folder that transformers loads.

    OUT appears when it is whole and has passed its check. Stopped in between, the same command goes
    on where it was. OUT/layer_plan.json says which layers are new, and which are meant to train.
    """
    use_threads()
    found = lesa.expand(
        base, out, method=method, layers=layers, positions=positions, preset=preset, seed=seed,
        options=options_of(option), text=text,
    )  # fmt: skip
    if as_json:
        return print_json(found)
    from lesa.files import gib
    from lesa.planning.budget import duration

    print_pairs(
        ("made", f"{found.out}, {found.layers} layers by {found.method}"),
        ("plan", found.layer_plan),
        ("parameters", f"{found.parameters:,}, of which {found.trainable_parameters:,} train"),
        ("time", ", ".join(f"{step} {duration(s)}" for step, s in found.seconds.items())),
        ("peak memory", gib(found.peak_memory)),
        ("check", "transformers loads it, no tensor missing or left over"),
    )
    if found.score:
        print_pairs(("perplexity", said(found.score)))


@app.command(
    epilog=examples(
        "fit-outputs deeper fitted --train train.txt --text heldout.txt",
        "fit-outputs deeper fitted --train train.txt --tokens 4096 --rounds 2 --json",
    )
)
def fit_outputs(
    start: Annotated[
        Path,
        typer.Argument(
            metavar="START",
            help="Folder that `lesa expand` made by an identity method.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)],
    train: Annotated[Path, typer.Option(help="A text in UTF-8 to fit on.", show_default=False)],
    tokens: Annotated[int, typer.Option(help="How much of it is read.", min=1)] = 8192,
    rounds: Annotated[int, typer.Option(help="Steps, each on its share of the tokens.", min=1)] = 4,
    step_size: Annotated[float, typer.Option(help="Of the first round; it shrinks.")] = 0.2,
    damping: Annotated[float, typer.Option(help="Of directions that are hardly seen.")] = 0.1,
    text: SomeText = None,
    as_json: AsJson = False,
) -> None:
    """Bring an identity start (llama_pro, identity, opt_deus …) below its base's loss.

    The zeroed output projections of its new layers take a few whitened gradient steps, each from
    one forward and one backward pass over its tokens; these count as training tokens.
    """
    use_threads()
    found = lesa.fit_outputs(
        start, out, train, tokens=tokens, rounds=rounds, step_size=step_size, damping=damping,
        text=text,
    )  # fmt: skip
    if as_json:
        return print_json(found)
    print_retrained(found, f"{found.tokens:,} in {found.rounds} rounds")


@app.command(
    epilog=examples(
        "train deeper trained --train train.txt --text heldout.txt",
        "train deeper trained --trains lora --train train.txt --text heldout.txt",
        "train my_model rival --trains all --train train.txt --text heldout.txt",
    )
)
def train(
    start: Annotated[
        Path,
        typer.Argument(metavar="START", help="Folder that `lesa expand` made.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)],
    train: Annotated[Path, typer.Option(help="A text in UTF-8 to learn.", show_default=False)],
    text: Text,
    trains: Annotated[
        str,
        typer.Option(
            help="new: the layers that its plan marks. lora: adapters beside all layers, as many "
            "parameters as the new ones, merged at the end. all: everything, of any checkpoint.",
            autocompletion=lambda: ["new", "lora", "all"],
        ),
    ] = "new",
    tokens: Annotated[int, typer.Option(help="How much is read, in all.", min=1)] = 49152,
    batch_size: Annotated[int, typer.Option(help="Windows of 512 tokens a step.", min=1)] = 2,
    learning_rate: Annotated[
        float,
        typer.Option(
            help="At its highest. On the report's model the best of a grid was 3e-4 for identity "
            "starts and lora, 1e-3 for LESA's layers, 1e-4 for all of a base."
        ),
    ] = 3e-4,
    seed: Annotated[int, typer.Option(help="Of the order of the windows.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a deepened checkpoint on a text. Stopped, the same command goes on where it was.

    In this repository's measurements `--trains lora` on llama_pro's start was below every deeper
    model of which only new layers train, and level with the base trained whole: compare with that
    rival, too.
    """
    use_threads()
    found = lesa.train(
        start, out, train, text, trains=trains, tokens=tokens, batch_size=batch_size,
        learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    if as_json:
        return print_json(found)
    print_retrained(found, f"{found.tokens:,}, {found.trainable_parameters:,} parameters train")
    print_rows(
        ["tokens", "held-out loss"], [[f"{read:,}", f"{loss:.4f}"] for read, loss in found.curve]
    )


@app.command(
    epilog=examples("evaluate deeper --text heldout.txt", "evaluate my_model --text a.txt --json")
)
def evaluate(path: Checkpoint, text: Text, as_json: AsJson = False) -> None:
    """Measure a checkpoint's perplexity on a text."""
    use_threads()
    found = lesa.evaluate(path, text)
    if as_json:
        return print_json(found)
    print_pairs(("perplexity", said(found)))


@app.command(
    epilog=examples(
        "compare my_model --methods lesa,solar,average --layers 45 --text heldout.txt",
        "compare my_model --methods lesa,identity --positions 0-7 --text heldout.txt --json",
    )
)
def compare(
    base: Base,
    methods: Annotated[str, typer.Option(help="Names with commas between.", show_default=False)],
    text: Text,
    layers: Layers = None,
    positions: Positions = None,
    preset: Preset = "paper",
    seed: Seed = 0,
    option: OptionList = None,
    as_json: AsJson = False,
) -> None:
    """Measure where several methods start, beside the base.

    That is before any training. Where a model starts says little of where it ends: the report of
    the reproduction has both.
    """
    use_threads()
    names = [name.strip() for name in methods.split(",") if name.strip()]
    found = lesa.compare(
        base, names, text, layers=layers, positions=positions, preset=preset, seed=seed,
        options=options_of(option),
    )  # fmt: skip
    if as_json:
        return print_json(found)
    print_rows(
        ["method", "layers", "parameters", "of these train", "loss", "perplexity"],
        [model_row(model) for model in found],
    )


def use_threads() -> None:
    """OMP_NUM_THREADS of them, or all cores that may be used."""
    from lesa.machine import set_threads

    set_threads()


def options_of(given: Sequence[str] | None) -> dict[str, Any]:
    """`["penalty=0.01"]` to `{"penalty": 0.01}`: values are read as params.yaml's are."""
    found = {}
    for said in given or ():
        key, equals, value = said.partition("=")
        if not equals or not key:
            raise UserError(f"--option {said}: must be KEY=VALUE, such as seed=1")
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):  # a date, a number beyond bounds
            raise UserError(f"--option {said}: the value is no number, word or text") from None
    return found


def print_json(found: Any) -> None:
    value = [asdict(one) for one in found] if isinstance(found, list) else asdict(found)
    print(json.dumps(value, indent=2, allow_nan=False))


def console() -> Console:
    """Of a terminal its width; what goes into a file or a pipe is not wrapped to one."""
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_pairs(*pairs: tuple[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(min_width=15)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    console().print(table)


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose columns but the first are to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(header):
        table.add_column(name, justify="right" if at else "left")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_kinds(found: Inspection) -> None:
    """A row a kind; the experts of a mixture, which are alike, have one with their means."""
    groups: dict[str, list[Kind]] = {}
    for name, kind in found.kinds.items():
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(kind)
    header = ["kind", "shape"]
    spectra = all(kind.spectrum for kind in found.kinds.values())
    if spectra:
        header += ["rank", "largest singular value's share", "for 90%", "continuity", "p"]
    print_rows(header, [kind_row(name, kinds) for name, kinds in groups.items()])


def kind_row(name: str, kinds: Sequence[Kind]) -> list[str]:
    row = [name, " x ".join(map(str, kinds[0].shape))]
    spectra = [kind.spectrum for kind in kinds if kind.spectrum]
    if spectra:
        row += [f"{fmean(s.rank for s in spectra):.0f}"]
        row += [f"{fmean(s.largest_share for s in spectra):.1%}"]
        row += [f"{fmean(s.rank_90 for s in spectra):.0f}"]
        for values in ([s.continuity for s in spectra], [s.p_value for s in spectra]):
            known = [value for value in values if value is not None]
            row.append(f"{fmean(known):.3g}" if known else "-")
    return row


def model_row(model: Model) -> list[str]:
    score = model.score
    numbers = [f"{model.parameters:,}", f"{model.trainable_parameters:,}"]
    row = [model.method, str(model.layers), *numbers]
    return [*row, f"{score.loss:.4f}", perplexity(score)] if score else [*row, "-", "-"]


def print_retrained(found: Retrained, tokens: str) -> None:
    from lesa.planning.budget import duration

    print_pairs(("made", found.out), ("tokens", tokens), ("time", duration(found.seconds)))
    if found.before and found.after:
        print_pairs(
            ("perplexity before", said(found.before)), ("perplexity after", said(found.after))
        )


def perplexity(score: Score) -> str:
    return "above 1e304" if score.perplexity is None else f"{score.perplexity:,.4g}"


def said(score: Score) -> str:
    """A score in words."""
    return (
        f"{perplexity(score)} (loss {score.loss:.4f}) over {score.tokens:,} tokens, {score.dtype}"
    )


def main() -> None:
    replace_unprintable()
    with one_line():
        for argument in sys.argv[1:]:
            if argument != argument.encode(errors="ignore").decode():
                # The readers of weights and tokenizers take no such path.
                raise UserError(f"{argument!a}: is not UTF-8; another name would do")
        try:
            status = app(standalone_mode=False, prog_name="lesa")
        except TyperException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "lesa"
            fail(f"{error.format_message().rstrip('.')}; see {path} --help")
        except typer.Abort:
            sys.exit(130)  # as a shell has it for an interrupted command
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
