"""From metrics to REPORT.md, report.html, report.pdf, results.md, figures and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lxml.html
import typst
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lesa.errors import UserError
from lesa.files import whole_file, whole_folder, write_text
from lesa.params import Params
from reports import (
    budget,
    claims,
    conclusions,
    controls,
    domains,
    ends,
    figures,
    headline,
    latex,
    markup,
    measured,
    official,
    opt_deus,
    outcome,
    paper_figures,
    paper_tables,
    rates,
    removal,
    scale,
    speed,
    start,
    summary,
    tables,
    tries,
)
from reports.paired import Interval
from reports.training_runs import machines

HERE = Path(__file__).parent
SCRIPTS = ("sortable.min.js", "sortable.a11y.min.js")  # sortable-tablesort 4.1.7
START, END = "<!-- results -->", "<!-- /results -->"


def flow(text: str) -> str:
    """One line of Markdown: no template indentation, no line breaks, and no HTML."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", markup.unwrapped(text))


def cell(text: str) -> str:
    """A Markdown table cell: bars would end it."""
    return flow(text).replace("|", "\\|")


def sort_key(value: tables.Cell) -> str:
    """The attribute by which a cell is sorted, where its text does not do: what is not measured
    comes last."""
    match value:
        case None:
            return ' data-sort=""'
        case str():
            return ""
        case tables.Measured():
            number = value.value
        case Interval():
            number = value.estimate
        case _:
            number = value
    return f' data-sort="{float(number)!r}"'.replace("inf", "Infinity")  # as scripts write it


def environment(metrics: Path) -> Environment:
    """Templates and the filters of all formats; `linked` knows the files below `metrics`."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # one template serves all formats; each has an escaping filter
    )
    env.filters.update(
        inline=markup.html,
        typst=markup.typst,
        plain=markup.plain,
        quoted=markup.quoted,
        head_lines=markup.head_lines,
        slug=markup.slug,
        literal=markup.literal,
        linked=partial(markup.linked, metrics=metrics),
        target=partial(markup.target, metrics=metrics),
        flow=flow,
        cell=cell,
        sort_key=sort_key,
    )
    return env


def squeeze(text: str) -> str:
    """At most one empty line in a row, none at the start, one newline at the end."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@dataclass
class Entry:
    """A line of the contents: a heading with what stands below it, or a table or figure."""

    id: str
    text: str
    inside: list[Entry] = field(default_factory=list)


def contents(body: str) -> list[Entry]:
    """The contents of a page, read off its headings and captions; what stands before the first
    heading is under the title's."""
    entries: list[Entry] = []
    page = lxml.html.fromstring(f"<main>{body}</main>")
    for element in page.xpath("//h1 | //h2 | //figure[@id]"):
        if element.tag in ("h1", "h2"):
            title = "In short" if element.tag == "h1" else element.text_content()
            entries.append(Entry(element.get("id"), title))
        else:
            caption = element.xpath("string(figcaption/strong)").rstrip(".")
            entries[-1].inside.append(Entry(element.get("id"), caption))
    return entries


def with_contents(markdown: str, entries: list[Entry]) -> str:
    """Markdown with links to its headings before the first of them, and none to its beginning."""
    before, heading, rest = markdown.partition("\n## ")
    links = " · ".join(f"[{entry.text}](#{entry.id})" for entry in entries[1:])
    return f"{before}\nContents: {links}\n{heading}{rest}"


def typeset(source: str, drawings: Path) -> bytes:
    """A PDF with the compiler's own fonts and no date: the same bytes anywhere."""
    return typst.compile(  # type: ignore[type-var]  # its stub wants one type for both paths
        source.encode(), root=drawings, ignore_system_fonts=True, pdf_standards=["ua-1"]
    )


def all_tables(
    m: measured.Metrics, judged: list[claims.Claim], published: measured.Json
) -> dict[str, Any]:
    """The template's tables: each by its own name, which is that of its files too, and those that
    stand in a row as lists; without rows where nothing was measured."""
    alone = (
        tables.run(m),
        headline.table(m, published),
        ends.table(m),
        tables.main(m),
        summary.differences(m),
        paper_tables.recipe(published["recipe"]),
        *paper_tables.all_of(m, published).values(),
        opt_deus.every(),
        tables.tasks(m, offline=True),
        tables.tasks(m, offline=False),
        tables.initial(m),
        tables.structures(m),
        tables.continuities(m),
        tables.grid(m),
        rates.table(m),
        start.distributions(m),
        start.methods(m),
        budget.table(m),
        budget.gaps(m),
        budget.own_gaps(m),
        budget.longer(m),
        budget.longer_gaps(m),
        budget.places(m),
        controls.table(m),
        scale.table(m),
        scale.longer(m),
        tries.table(),
        removal.table(m),
        official.table(m),
        domains.humaneval(m),
        domains.variants(m),
        tables.task_differences(m),
        claims.in_brief(judged),
        claims.table(judged),
        claims.rules(judged),
        claims.findings_table(judged),
        tables.all_scores(m),
        speed.beside_peers(m),
        speed.training_steps(m),
        speed.over_depths(m),
        speed.depth_lines(m),
        speed.machines(m),
    )
    return {table.name: table for table in alone} | {
        "reruns": [opt_deus.table(size) for size in opt_deus.BASES],
        "domains": [t for t in (domains.table(m, study) for study in domains.DOMAINS) if t.rows],
        "predictors": [tables.predictors(m, preset) for preset in m.first_runs],
        "benchmark_profiles": speed.profiles(m),
    }


def write(
    params: Params, metrics: Path, out: Path, readme: Path
) -> tuple[measured.Metrics, dict[str, Any]]:
    """Write all that stage report writes; returns what it read, and its summary."""
    m, judged = render(params, metrics, out)
    found = outcome.write(m, judged, out)
    replace_results(readme, out / "results.md")
    return m, found


def render(params: Params, metrics: Path, out: Path) -> tuple[measured.Metrics, list[claims.Claim]]:
    """Write the whole report below `out` from the files below `metrics`; returns what they hold,
    and the claims as judged by it.

    Everything is computed before the first output is replaced. Raises UserError naming a
    metrics file that a listed model needs and that is missing.
    """
    m = measured.load(metrics, params)
    published = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))
    judged = claims.judge(m)
    found = all_tables(m, judged, published)
    env = environment(metrics)
    with whole_folder(out / "figures") as drawing, whole_folder(out / "tables") as folder:
        context: dict[str, Any] = {
            "t": found,
            "results": tables.results(m),
            "published": published,
            "figures": figures.write_all(m, drawing) | paper_figures.write_all(m, drawing),
            "random": params.base.source == "random",
            "summary": summary.lines(m, judged),
            "answers": summary.answers(m),
            "reach": summary.reach(m),
            "headline_note": headline.NOTE,
            "notes": ends.notes(m, found["ends"]),
            "this_run": summary.this_run(m),
            "agreement": summary.agreement(m, published["main"]),
            "of_parity": conclusions.parity(m),
            "of_start": conclusions.controls(m) + conclusions.predictors(m),
            "of_training": [
                *conclusions.against_base(m),
                *conclusions.overtaking(m.budget),
                *conclusions.other_growths(m),
            ],
            "machines": {study: machines(m, study) for study in measured.TRAINING_STUDIES},
            "warnings": conclusions.precisions(m) + conclusions.rates(m),
            "task_notes": conclusions.tasks(m),
            "m": m,
        }
        for value in found.values():
            for table in value if isinstance(value, list) else [value]:
                if table.rows:  # else nothing was measured
                    csv = folder / f"{table.name}.csv"
                    table.frame().to_csv(csv, index=False, lineterminator="\n")
                    write_text(folder / f"{table.name}.tex", latex.table(table))
        bodies = {
            style: squeeze(env.get_template("report.j2").render(style=f"{style}.j2", **context))
            for style in ("markdown", "html", "typst")
        }
        entries = contents(bodies["html"])
        scripts = (HERE / "templates" / name for name in SCRIPTS)
        page = env.get_template("page.html.j2").render(
            title=f"LESA, reproduced: profile {params.profile}",
            body=bodies["html"],
            contents=entries,
            script="\n".join(path.read_text(encoding="utf-8").strip() for path in scripts),
        )
        results = squeeze(env.get_template("results.md.j2").render(**context))
        pdf = typeset(env.get_template("page.typ.j2").render(body=bodies["typst"]), drawing)
    write_text(out / "REPORT.md", with_contents(bodies["markdown"], entries))
    write_text(out / "report.html", squeeze(page))
    with whole_file(out / "report.pdf") as path:
        path.write_bytes(pdf)
    write_text(out / "results.md", results)
    return m, judged


def replace_results(readme: Path, results: Path) -> None:
    """Put the results block between the README's markers."""
    if not readme.is_file():
        raise UserError(f"{readme}: not found; it must hold the lines {START} and {END}")
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"{readme}: must hold the line {START} and, after it, {END}")
    block = results.read_text(encoding="utf-8").strip()
    write_text(readme, f"{before}{START}\n{block}\n{END}{after}")
