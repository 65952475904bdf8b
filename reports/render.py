"""From metrics to REPORT.md, report.html, results.md, figures and tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from lesa.errors import UserError
from lesa.files import whole_folder, write_text
from lesa.params import Params
from reports import (
    budget,
    claims,
    conclusions,
    figures,
    measured,
    official,
    paper_figures,
    paper_tables,
    rerun,
    speed,
    start,
    summary,
    tables,
)

HERE = Path(__file__).parent
START, END = "<!-- results -->", "<!-- /results -->"


def inline(text: str) -> str:
    """Escape text for HTML; `code`, **bold** and [a link](../or/#anchor) keep their meaning."""
    text = str(escape(" ".join(str(text).split())))
    text = re.sub(r"\[([^\[\]]+)\]\(((?:#|\.\./)[\w./-]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def flow(text: str) -> str:
    """One line of Markdown: no template indentation, no line breaks, and no HTML."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", " ".join(str(text).split()))


def cell(text: str) -> str:
    """A Markdown table cell: bars would end it."""
    return flow(text).replace("|", "\\|")


def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # one template serves Markdown too; HTML goes through `inline`
    )
    env.filters.update(inline=inline, flow=flow, cell=cell)
    return env


def squeeze(text: str) -> str:
    """At most one empty line in a row, none at the start, one newline at the end."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def all_tables(
    m: measured.Metrics, judged: list[claims.Claim], published: measured.Json
) -> dict[str, Any]:
    """The template's tables by name; without rows where nothing was measured."""
    return {
        "run": tables.run(m),
        "main": tables.main(m),
        "results": tables.results(m),
        "differences": summary.differences(m),
        "recipe": paper_tables.recipe(published["recipe"]),
        **paper_tables.all_of(m, published),
        "rerun": [rerun.table(model) for model in rerun.models()[::-1]],
        "rerun_all": rerun.every(),
        "offline": tables.tasks(m, offline=True),
        "official": tables.tasks(m, offline=False),
        "initial": tables.initial(m),
        "structure": tables.structures(m),
        "continuity": tables.continuities(m),
        "grid": tables.grid(m),
        "start": start.distributions(m),
        "start_methods": start.methods(m),
        "budget": budget.table(m),
        "budget_gaps": budget.gaps(m),
        "benchmark_averages": official.table(m),
        "task_differences": tables.task_differences(m),
        "claims": claims.table(judged),
        "rules": claims.rules(judged),
        "findings": claims.findings_table(judged),
        "scores": tables.all_scores(m),
        "predictors": [tables.predictors(m, preset) for preset in m.first_runs],
        "benchmarks": speed.beside_peers(m),
        "training_steps": speed.training_steps(m),
        "benchmark_profiles": speed.profiles(m),
        "benchmark_depth": [t for t in (speed.over_depths(m), speed.depth_lines(m)) if t.rows],
        "benchmark_machines": speed.machines(m),
    }


def render(params: Params, metrics: str | Path, out: str | Path) -> None:
    """Write the whole report below `out` from the files below `metrics`.

    Everything is computed before the first output is replaced. Raises UserError naming a
    metrics file that a listed model needs and that is missing.
    """
    out = Path(out)
    m = measured.load(metrics, params)
    published = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))
    judged = claims.judge(m)
    found = all_tables(m, judged, published)
    env = environment()
    with whole_folder(out / "figures") as drawing, whole_folder(out / "tables") as folder:
        context: dict[str, Any] = {
            "t": found,
            "published": published,
            "figures": figures.draw(m, drawing) | paper_figures.draw(m, drawing),
            "random": params.base.source == "random",
            "summary": summary.paragraph(m, judged),
            "agreement": summary.agreement(m, published["main"]),
            "conclusions": conclusions.conclusions(m),
            "rate_warnings": conclusions.rates(m),
            "task_notes": conclusions.tasks(m),
            "m": m,
        }
        for value in found.values():
            for table in value if isinstance(value, list) else [value]:
                table.write_csv(folder)
        markdown = squeeze(env.get_template("report.j2").render(style="markdown.j2", **context))
        body = squeeze(env.get_template("report.j2").render(style="html.j2", **context))
        page = squeeze(env.get_template("page.html.j2").render(body=body))
        results = squeeze(env.get_template("results.md.j2").render(**context))
    write_text(out / "REPORT.md", markdown)
    write_text(out / "report.html", page)
    write_text(out / "results.md", results)


def replace_results(readme: str | Path, results: str | Path) -> None:
    """Put the results block between the README's markers."""
    readme = Path(readme)
    if not readme.is_file():
        raise UserError(f"{readme}: not found; it must hold the lines {START} and {END}")
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"{readme}: must hold the line {START} and, after it, {END}")
    block = Path(results).read_text(encoding="utf-8").strip()
    write_text(readme, f"{before}{START}\n{block}\n{END}{after}")
