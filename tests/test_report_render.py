"""The report says what the metrics files say, the same bytes each time, or stops with one line."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lesa.errors import UserError
from lesa.method import continuity
from reports import conclusions, figures, measured, paper_figures, speed, tables
from reports.paired import Interval
from reports.render import HERE, environment, render, replace_results
from tests.test_report_synthetic import KINDS, MODELS, SEEDS, blocks, change, params, save, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(metrics, report) of the made-up run, rendered once."""
    root = tmp_path_factory.mktemp("report")
    render(params(), write(root / "metrics"), root / "out")
    return root / "metrics", root / "out"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering without the figures: for tests of the text, ten times as fast."""
    names = ("loss_tokens", "loss_seconds", "spectra", "pca", "budget", "start", "rerun")
    empty = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'

    def draw(m: measured.Metrics, folder: Path) -> dict[str, figures.Drawn]:
        for name in names:
            (folder / f"{name}.svg").write_text(empty)
        return {name: figures.Drawn(name, name, name, empty) for name in names}

    monkeypatch.setattr(figures, "write_all", draw)
    monkeypatch.setattr(paper_figures, "write_all", lambda m, folder: {})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def said(path: Path) -> str:
    """A report's text without its contents, and without its drawings, which are full of numbers."""
    text = re.sub(r"<svg.*?</svg>", "", path.read_text(), flags=re.DOTALL)
    return re.sub(r"<nav.*?</nav>|^Contents: [^\n]*$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_twice_the_same_bytes_and_nothing_half_written(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    metrics, out = made
    render(params(), metrics, tmp_path)
    first, second = contents(out), contents(tmp_path)
    assert first == second
    suffixes = {".md", ".html", ".pdf", ".svg", ".png", ".csv", ".tex"}
    assert {Path(name).suffix for name in first} == suffixes
    assert not [name for name in first if "partial" in name]


@pytest.mark.usefixtures("undrawn")
def test_numbers_follow_the_files(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, before = made
    metrics = write(tmp_path / "metrics")
    change(metrics, "pretrain/lesa", "steps", -1, "heldout_perplexity", value=19.37)
    for seed in range(8):
        change(metrics, f"start/lesa-paper-{seed}", "perplexity", value=77.75)
    change(metrics, "fit/paper-0", "kinds", "up_proj", "heldout", "cosine", value=0.1234)
    change(
        metrics,
        "evaluate/trained/solar",
        "tasks",
        "arc_easy",
        "metrics",
        "acc",
        "value",
        value=0.4321,
    )
    change(metrics, "grid/lesa", "runs", 0, "validation_loss", value=6.543)
    change(metrics, "expand/lesa", "new_weight_structure", "q_proj", "rank_one_share", value=0.7653)
    change(metrics, "corpus", "tokens", "train", value=987654)
    peer = ("deeper", "solar", "medians", "mergekit", "seconds")
    change(metrics, "benchmarks/expansion", *peer, value=43.21)
    render(params(), metrics, tmp_path / "out")
    for name in ("REPORT.md", "report.html"):
        old, new = (said(folder / name) for folder in (before, tmp_path / "out"))
        for number in (
            "19.4 ± ",
            "77.75",
            "0.1234",
            "0.43 ± 0.08",
            "6.543",
            "0.765",
            "987,654",
            "43.21",
        ):
            assert number not in old, number
            assert number in new, number
    old, new = ((folder / "results.md").read_text() for folder in (before, tmp_path / "out"))
    assert "19.4 ± " not in old
    assert "19.4 ± " in new
    csv = (tmp_path / "out" / "tables" / "scores.csv").read_text()
    assert "solar,trained,arc_easy,acc,mirror,40,0.4321,0.08" in csv


def test_conclusions_turn_with_the_numbers(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")

    def concluded() -> str:
        run = measured.load(metrics, params())
        said = [conclusions.controls(run), conclusions.predictors(run)]
        said += [conclusions.against_base(run), conclusions.overtaking(run.budget)]
        return "\n".join(line for lines in said for line in lines)

    first = concluded()
    assert (
        "Over 40 steps LESA is below `identity` at 0 of 4 points after the start, above it" in first
    )
    said = "`lesa (paper)` minus its controls, before training: lower: `constant_row (paper)`"
    assert said in first
    for seed, loss in enumerate((9.0, 8.0, 9.5, 8.5, 7.0, 7.5, 8.2, 8.8)):
        change(metrics, f"start/constant_row-paper-{seed}", "block_losses", value=blocks(loss))
    for seed in SEEDS:  # the last point, of 40 steps
        path = (f"budget/lesa-{seed}", "steps", 4, "block_losses")
        change(metrics, *path, value=blocks(2.5, seed))
    second = concluded()
    assert "below `identity` at 1 of 4 points after the start, first after 81,920 tokens" in second


def test_mixed_precisions_are_told(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    assert conclusions.precisions(measured.load(metrics, params())) == []
    for name in ("evaluate/init/base", "pretrain/solar"):
        change(metrics, name, "dtype", value="bfloat16")
    (told,) = conclusions.precisions(measured.load(metrics, params()))
    assert "pretrain/solar, evaluate/init/base in bfloat16, the others not" in told


@pytest.mark.parametrize(
    "name",
    [
        "pretrain/solar",
        "evaluate/trained/noise",
        "expand/average",
        "expand/base",
        "fit/paper-0",
        "svd",
        "corpus",
    ],
)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    (metrics / f"{name}.json").unlink()
    with pytest.raises(UserError, match=re.escape(f"{name}.json: not found")):
        render(params(), metrics, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "must hold a JSON object"), ("{}", "lacks the key 'learning_rate'")],
)
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    (metrics / "pretrain" / "lesa.json").write_text(text)
    with pytest.raises(UserError, match=message):
        measured.load(metrics, params())


def test_what_is_optional_is_said_to_be_missing(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics", optional=False, layers=6)
    render(params(), metrics, tmp_path / "out")
    text = (tmp_path / "out" / "REPORT.md").read_text()
    for section in (
        "Official tasks",
        "Learning-rate grid",
        "Speed and memory beside a peer",
        "Growing depth",
    ):
        assert f"{section}: not measured." in text
    for study in ("start", "budget", "official"):
        assert f"not measured; `make study NAME={study}`." in text
        assert not (tmp_path / "out" / "tables" / f"{study}.csv").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_one_model_has_a_report(tmp_path: Path) -> None:
    metrics = write(tmp_path, optional=False)
    for name in ("lesa", "base"):
        alone = params(methods={name: params().methods[name].model_dump()})
        render(alone, metrics, tmp_path / name)
        assert "Too few deepened models" in (tmp_path / name / "REPORT.md").read_text()


def test_random_weights_are_shouted(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, real = made
    base = {
        "source": "random",
        "num_hidden_layers": 30,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "seed": 0,
        "license": "none",
    }
    render(params(base=base), write(tmp_path / "metrics"), tmp_path / "out")
    for name in ("REPORT.md", "report.html"):
        shout = "EVERY NUMBER BELOW MEANS NOTHING"
        assert shout in (tmp_path / "out" / name).read_text()
        assert shout not in (real / name).read_text()
    assert "mean nothing" in (tmp_path / "out" / "results.md").read_text()


def test_the_page_stands_alone(made: tuple[Path, Path]) -> None:
    page = (made[1] / "report.html").read_text()
    for word in ("src=", "<link", "<img", "@import", "fetch(", "XMLHttpRequest"):
        assert word not in page
    assert all(target.startswith("#") for target in re.findall(r"""url\(["']?([^)]*)\)""", page))
    # Namespaces name; nothing is read from them.
    elsewhere = set(re.findall(r"""["'](https?:[^"']*)""", page))
    assert elsewhere == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def linked_files(text: str) -> set[str]:
    """Targets of the links and images of a page or of Markdown that are files, not anchors."""
    found = re.findall(r"""<a href="([^"]*)|\]\(([^)]*)\)""", text)
    return {target for pair in found for target in pair if target and not target.startswith("#")}


def test_links_lead_to_files_that_exist(made: tuple[Path, Path]) -> None:
    metrics, out = made
    for name in ("REPORT.md", "report.html"):
        targets = linked_files((out / name).read_text())
        into_the_repository = {"published.yaml", "opt_deus.csv", "tries.json", "../params.yaml"}
        assert targets >= into_the_repository
        for target in targets - into_the_repository - {"rates_of_a_log.json"}:
            assert (out / target).exists(), target
        read = {str(p.relative_to(metrics)) for p in metrics.rglob("*.json")}
        named = {target.removeprefix("../metrics/") for target in targets}
        # Every metrics file of the run is a click away, those of a study by their folder.
        assert {p for p in read if f"{Path(p).parent}/" not in named} <= named
        for kind, suffixes in (("tables", {".csv", ".tex"}), ("figures", {".svg", ".png"})):
            shown = {Path(t) for t in targets if t.startswith(kind)}
            assert {path.suffix for path in shown} == suffixes
    assert all((HERE / name).is_file() for name in into_the_repository)


def test_anchors_of_the_markdown_are_there(made: tuple[Path, Path]) -> None:
    text = (made[1] / "REPORT.md").read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    (line,) = (line for line in text.splitlines() if line.startswith("Contents: "))
    assert [name for name, _ in re.findall(r"\[([^]]*)\]\(#([^)]*)\)", line)] == headings
    # By hand, as code hosts derive them.
    assert "[Appendix: learning-rate grid](#appendix-learning-rate-grid)" in line
    assert "[The paper's claims](#the-papers-claims)" in line
    assert '<a id="table-main"></a>' in text
    assert '<a id="figure-loss_tokens"></a>' in text


def test_the_markdown_refers_to_files_that_exist(made: tuple[Path, Path]) -> None:
    text = (made[1] / "REPORT.md").read_text()
    targets = re.findall(r"\]\((figures/[^)]*)\)", text)
    assert len(targets) == 30  # of ten figures the picture and two links
    # Every table is well formed: each of its lines has as many bars as its header.
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_published_values_are_those_of_the_paper() -> None:
    text = (HERE / "published.yaml").read_text()
    for value in ("5.27", "5.13", "5.44", "8.09", "64.30", "45.6 h", "124%", "31.57", "10.98"):
        assert value in text
    assert text.count("null") >= 6


def test_a_grid_of_another_profile_is_left_out(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    table = tables.grid(measured.load(metrics, params()))
    assert {row["model"] for row in table.rows} == {"lesa"}
    change(metrics, "grid/lesa", "profile", value="another")
    assert tables.grid(measured.load(metrics, params())).rows == []


@pytest.mark.usefixtures("undrawn")
def test_rates_of_another_profile_are_shouted(made: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    change(metrics, "grid/lesa", "profile", value="another")
    change(metrics, "pretrain/solar", "rate_warnings", value=["the checkpoint has changed since"])
    render(params(), metrics, tmp_path / "out")
    for name in ("REPORT.md", "report.html"):
        text, before = (said(folder / name) for folder in (tmp_path / "out", made[1]))
        loud = text.index("LEARNING RATES CHOSEN ON ANOTHER PROFILE")
        warning = text.index("the checkpoint has changed since")
        main = text.index("time with the frozen layers", loud)  # of the main table's caption
        assert loud < main < text.index("This run: held-out perplexity", main) < warning
        assert "LEARNING RATES CHOSEN" not in before
        assert "the checkpoint has changed" not in before
    assert "`lesa` on `another`." in (tmp_path / "out" / "REPORT.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_what_the_text_lacks_is_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    change(metrics, "corpus", "begins_with", value=["<bos>"])
    change(metrics, "corpus", "duplicates", value=3)
    left_out = {"wiki_last_word": "The held-out text has 3 examples."}
    notes = {"wiki_perplexity": "All 8 held-out documents are scored."}
    tasks = {"tasks": {"wiki_perplexity": 8}, "left_out": left_out, "notes": notes}
    save(metrics, "tasks", tasks)
    render(params(), metrics, tmp_path / "out")
    text, before = ((folder / "REPORT.md").read_text() for folder in (tmp_path / "out", made[1]))
    assert "| documents begin with | &lt;bos> |" in text
    assert "| duplicates left out | 3 |" in text
    assert f"- `wiki_last_word` is left out: {left_out['wiki_last_word']}\n" in text
    assert f"- `wiki_perplexity`: {notes['wiki_perplexity']}\n" in text
    assert "&lt;bos&gt;" in (tmp_path / "out" / "report.html").read_text()
    for usual in ("documents begin with | no special token", "duplicates left out | 0"):
        assert f"| {usual} |" in before
    assert "is left out: " not in before


MIXTURE = [f"{name}_proj" for name in "qkvo"] + [
    f"experts.{expert}.{name}_proj" for expert in range(3) for name in ("gate", "up", "down")
]


def test_a_mixture_has_one_column_for_all_experts(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics", layers=6, kinds=MIXTURE)
    for model in MODELS:
        change(metrics, f"expand/{model}", "router", value=True)
    own = ("expand/lesa", "new_weight_structure", "experts.1.up_proj")
    change(metrics, *own, value={"rank_one_share": 0.33, "mean_cosine": None})
    render(params(), metrics, tmp_path / "out")
    run = measured.load(metrics, params())
    rows = {(row["model"], row["statistic"]): row for row in tables.structures(run).rows}
    names = ["experts.*.gate_proj", "experts.*.up_proj", "experts.*.down_proj"]
    assert list(rows["base", "cosine"]) == ["model", "statistic", *MIXTURE[:4], *names]
    # By hand: two experts of 0.93 and one of 0.33; two of 0.91 and one without a value.
    assert rows["lesa", "σ₁²/‖W‖²"]["experts.*.up_proj"] == pytest.approx(0.73)
    assert rows["lesa", "cosine"]["experts.*.up_proj"] == pytest.approx(0.91)
    assert rows["base", "cosine"]["experts.*.up_proj"] == pytest.approx(0.002)
    assert [row["kind"] for row in tables.predictors(run, "paper").rows] == MIXTURE
    assert list(figures.shown(run)) == MIXTURE[:7]
    text = (tmp_path / "out" / "REPORT.md").read_text()
    assert "router of each predicted layer is copied from the layer below it" in text
    assert "a panel a matrix kind; of a mixture's experts the first.*" in text


@pytest.mark.usefixtures("undrawn")
def test_a_family_without_a_gate_has_no_gate(tmp_path: Path, made: tuple[Path, Path]) -> None:
    kinds = [kind for kind in KINDS if kind != "gate_proj"]
    metrics = write(tmp_path / "metrics", layers=10, kinds=kinds)
    render(params(), metrics, tmp_path / "out")
    figure = figures.planes(measured.load(metrics, params()))
    assert [axes.get_title() for axes in figure.axes] == [*kinds, ""]  # and the colour-bar's
    text = (tmp_path / "out" / "REPORT.md").read_text()
    assert "this family has no gate_proj" in text  # the paper's figure is of it
    for word in ("| gate_proj |", "router", "mixture"):
        assert word not in text
    for word in ("router", "mixture"):  # nor has a Llama a router
        assert word not in (made[1] / "REPORT.md").read_text()


def test_a_model_without_new_layers_has_no_structure(made: tuple[Path, Path]) -> None:
    run = measured.load(made[0], params())
    found = [row["model"] for row in tables.structures(run).rows]
    # The base's two are of its own layers, from metrics/svd.json; SOLAR and the base add none.
    deepened = ["lesa", "lesa_official", "llama_pro", "average", "noise"]
    assert found == [name for name in ("base", *deepened) for _ in range(2)]


def test_files_of_models_that_are_not_listed_are_ignored(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    for stage in ("expand", "pretrain", "grid", "evaluate/init", "evaluate/trained"):
        (metrics / stage / "solar.json").write_text("{")
    methods = {name: {"method": name} for name in ("lesa", "base")}
    run = measured.load(metrics, params(methods=methods))
    assert [row["model"] for row in tables.main(run).rows] == ["lesa", "base"]


EVIL = '"><b onclick=x>|`</td><!-- /results -->$\n# x'


class Tags(HTMLParser):
    """Names of all elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str | None] = set()
        self.comments: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


@pytest.mark.usefixtures("undrawn")
def test_nothing_of_the_metrics_becomes_markup(made: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics", layers=10, kinds=[*KINDS, EVIL])
    for key in ("source", "license"):
        change(metrics, "base", key, value=EVIL)
    for name in MODELS:
        change(metrics, f"pretrain/{name}", "dtype", value=EVIL)
    change(metrics, "pretrain/lesa", "rate_warnings", value=[EVIL])
    change(metrics, "grid/lesa", "profile", value=EVIL)
    change(metrics, "corpus", "begins_with", value=[EVIL])
    change(metrics, "corpus", "documents", EVIL, value=3)
    change(metrics, "evaluate/init/base", "dtype", value=EVIL)
    tree = json.loads((metrics / "evaluate/init/base.json").read_text())["tasks"]
    tree[EVIL] = tree["wiki_last_word"]
    change(metrics, "evaluate/init/base", "tasks", value=tree)
    save(metrics, "tasks", {"tasks": {}, "left_out": {EVIL: EVIL}})
    benchmark = (metrics / "benchmarks/expansion.json").read_text()
    (metrics / "benchmarks" / f"{EVIL.replace('/', '')}.json").write_text(benchmark)
    render(params(), metrics, tmp_path / "out")
    page, usual = (Tags((out / "report.html").read_text()) for out in (tmp_path / "out", made[1]))
    assert page.elements <= usual.elements
    assert page.attributes <= usual.attributes
    assert page.comments == []
    for name in ("REPORT.md", "results.md"):
        text = (tmp_path / "out" / name).read_text()
        shown = EVIL.split("|", maxsplit=1)[0].replace("<", "&lt;") in text
        assert shown  # in the results' block by the base's name
        assert re.search(r"<[a-zA-Z/!?]", re.sub(r'<a id="[\w-]+"></a>', "", text)) is None
        assert "\n# x" not in text
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\nend\n")
    for _ in range(2):
        replace_results(readme, tmp_path / "out" / "results.md")
    assert readme.read_text().count("<!-- /results -->") == 1
    assert readme.read_text().endswith("\n<!-- /results -->\nend\n")


def test_ids_alternative_texts_and_captions_are_escaped(tmp_path: Path) -> None:
    table = tables.Table(EVIL, EVIL, EVIL, [{EVIL: EVIL}])
    drawn = figures.Drawn("name", EVIL, EVIL, "")
    template = '{% import "html.j2" as f %}{{ f.table(t) }}{{ f.figure(d) }}'
    page = Tags(environment(tmp_path).from_string(template).render(t=table, d=drawn))
    allowed = {"div", "table", "strong", "thead", "tr", "th", "tbody", "td"}
    assert page.elements <= allowed | {"figure", "figcaption", "span", "a"}
    assert page.attributes <= {"class", "id", "href", "role", "tabindex", "aria-label", "scope"}


@pytest.mark.parametrize("style", ["markdown", "html", "typst"])
def test_a_table_without_rows_is_not_shown(style: str, tmp_path: Path) -> None:
    """Such as the budget's gaps of a study without LESA: no file of it is there to link to."""
    empty = tables.Table("empty", "Nothing", "metrics/base.json", [])
    template = f'{{% import "{style}.j2" as f %}}{{{{ f.table(t) }}}}'
    assert environment(tmp_path).from_string(template).render(t=empty).strip() == ""


def test_benchmarks_are_found_wherever_they_stand(tmp_path: Path) -> None:
    run = measured.load(write(tmp_path / "metrics"), params())
    table = speed.beside_peers(run)
    step, merge, basis = sorted(table.rows, key=lambda row: str(row["peer"]), reverse=True)
    assert basis["benchmark"] == "basis-default, q_proj"
    assert merge["benchmark"] == "expansion, deeper, solar"
    assert (basis["side"], basis["peer"], basis["runs"]) == ("gram", "concat", 3)
    assert (basis["seconds"], basis["seconds, peer"], basis["times as fast"]) == (1.25, 8.75, 7.0)
    assert (basis["peak MiB"], basis["peak MiB, peer"]) == (300, 900)
    assert basis["agreement"] == "singular values to 3.5e-07"
    assert merge["agreement"] == "10 of 12 tensors bit for bit, 2 but for the sign of zeros"
    assert step["benchmark"] == "pretrain-float32, one step"
    assert step["agreement"] == "losses to 1e-06"


def test_profiles_say_what_they_are_of(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    (table,) = speed.profiles(measured.load(metrics, params()))
    assert table.name == "benchmark_pretrain-float32_profile"
    assert "of a training step in float32" in table.caption
    assert table.rows == [
        {
            "matrix products": 0.75,
            "all else": 0.25,
            "seconds of the products alone": 2.5,
            "times as fast with nothing else": 4.25,
        }
    ]


def test_depths_and_their_lines(tmp_path: Path) -> None:
    run = measured.load(write(tmp_path / "metrics"), params())
    depths, lines = speed.over_depths(run), speed.depth_lines(run)
    assert [row["layers"] for row in depths.rows] == [4, 8]
    assert depths.cells[0][-1] == "not measured"
    assert depths.rows[1]["peak MiB, no file pages"] == 640
    assert [row["stage"] for row in lines.rows] == ["all stages"]  # one depth makes no line


def test_continuity_tells_a_path_from_noise() -> None:
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(size=(20, 8)), axis=0)
    assert continuity.continuity(path, "raw").p_value == pytest.approx(1e-4)
    assert continuity.continuity(rng.permutation(path), "raw").p_value > 0.01
    signs = rng.choice([-1.0, 1.0], size=(20, 1))
    free = continuity.continuity(path * signs, "sign-free")
    assert free == continuity.continuity(path, "sign-free")
    sizes = np.linspace(1, 9, 20)[:, None] * np.array([[1.0, 2.0]])  # only the length drifts
    assert continuity.continuity(sizes, "raw").ratio < 0.5
    assert continuity.continuity(sizes, "direction").p_value == pytest.approx(1.0)
    assert continuity.continuity(np.ones((5, 3)), "raw") == continuity.Continuity(1.0, 1.0)


def test_neighbour_ratio_by_hand() -> None:
    rows = np.array([[0.0], [1.0], [3.0]])  # neighbours 1 and 2; all pairs 1, 2, 3
    found = continuity.continuity(rows, "raw")
    assert found.ratio == pytest.approx(1.5 / 2)
    # Of the six orders two each have 1 and 2, 1 and 3, 2 and 3 beside one another.
    assert found.p_value == pytest.approx(1 / 3, abs=0.02)
    assert found.random_orders == pytest.approx((1.5 / 2, 2.5 / 2))
    assert continuity.smallest_p(3) == pytest.approx(1 / 3)


def test_a_cell_has_the_digits_that_its_error_leaves() -> None:
    assert tables.show(None) == "not measured"
    assert tables.show(tables.Measured(0.475, 0.0796)) == "0.47 ± 0.08"
    assert tables.show(tables.Measured(1234.5, 12.3)) == "1,234 ± 12"
    # The examples of the rule in the Review of Particle Physics, section 5.3.
    assert tables.show(tables.Measured(0.827, 0.119)) == "0.83 ± 0.12"
    assert tables.show(tables.Measured(0.827, 0.367)) == "0.8 ± 0.4"
    assert tables.show(tables.Measured(0.827, 0.0996)) == "0.83 ± 0.10"
    assert tables.show(tables.Measured(29.1234, None)) == "29.12"
    assert tables.show(53_000_000) == "53,000,000"
    assert tables.show(0.0005) == "0.0005"
    assert tables.show(Interval(-0.0431, -0.0612, -0.0251, 12)) == "-0.043 [-0.061, -0.025]"
    assert tables.show(Interval(1234.5, 1200.2, 1268.8, 12)) == "1,234 [1,200, 1,269]"
    assert tables.show(Interval(0.25, 0.25, 0.25, 12)) == "0.25 [0.25, 0.25]"
    assert tables.show(Interval(math.inf, 0.9, math.inf, 12)) == "∞ [0.9, ∞]"
    frame = tables.Table("t", "", "", [{"gap": Interval(1.0, 0.5, 1.5, 12)}]).frame()
    assert frame.iloc[0].to_dict() == {"gap": 1.0, "gap, low": 0.5, "gap, high": 1.5}


def test_standard_errors_of_perplexities_come_from_the_documents(tmp_path: Path) -> None:
    run = measured.load(write(tmp_path / "metrics"), params()).pretrain["lesa"]
    value, error = measured.perplexity_at(run, 0)
    # By hand: two blocks a document in their order, the mean of each; the exponential's derivative.
    means = np.array(run["steps"][0]["block_losses"]).reshape(12, 2).mean(1)
    assert error is not None
    assert math.isclose(error, value * means.std(ddof=1) / 12**0.5)


@pytest.mark.parametrize("stage", ["pretrain/lesa", "budget/lesa-0"])
def test_a_point_without_the_loss_of_every_block_is_refused(stage: str, tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    change(metrics, stage, "steps", 2, "block_losses", value=[3.0])
    with pytest.raises(UserError, match="must have 24 block_losses, as heldout_documents has"):
        measured.load(metrics, params())


@pytest.mark.parametrize("key", ["fitted", "zero_mse"])
def test_an_older_fit_is_refused(key: str, tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    scores = json.loads((metrics / "fit/paper-0.json").read_text())["kinds"]["q_proj"]["heldout"]
    del scores[key]
    change(metrics, "fit/paper-0", "kinds", "q_proj", "heldout", value=scores)
    with pytest.raises(UserError, match=f"kinds.q_proj.heldout lacks the key '{key}'"):
        measured.load(metrics, params())


@pytest.mark.parametrize("stage", ["pretrain/solar", "start/noise", "budget/solar-1"])
def test_other_held_out_documents_are_refused(stage: str, tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    change(metrics, stage, "heldout_documents", 0, value="another")
    with pytest.raises(UserError, match=re.escape(f"{stage}.json: heldout_documents must be")):
        measured.load(metrics, params())


def test_a_study_of_another_profile_is_left_out(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics")
    change(metrics, "start/noise", "profile", value="another")
    change(metrics, "start/solar", "profile", value="made-up")
    found = measured.load(metrics, params()).start
    assert "solar" in found
    assert "noise" not in found


def test_readme_block(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results.md"
    results.write_text("| new |\n")
    readme.write_text("top\n<!-- results -->\nold\n<!-- /results -->\nend\n")
    for _ in range(2):  # again changes nothing
        replace_results(readme, results)
        assert readme.read_text() == ("top\n<!-- results -->\n| new |\n<!-- /results -->\nend\n")
    readme.write_text("no markers\n")
    with pytest.raises(UserError, match="must hold the line"):
        replace_results(readme, results)
    assert readme.read_text() == "no markers\n"
