"""A number changed by hand is caught and its place named; DVC itself writes the locks."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lesa.files import read_json, write_json
from pipelines import locks, rerun, verify
from reports import comparison, consistency, rebuilt
from reports.comparison import CHAOTIC, EXACT, ROUNDING, TIMED, Kind, compare
from tests.conftest import OWN_PATH
from tests.test_report_synthetic import MODELS, params, start_row, write

BIN = Path(sys.executable).parent
ROWS = ("lesa_0", "lesa_1")


def command(folder: Path, *words: str) -> None:
    subprocess.run(words, cwd=folder, check=True, capture_output=True, env=OWN_PATH)


def committed(folder: Path) -> None:
    """Make `folder` a repository of git and DVC with one commit."""
    shutil.copytree(Path(__file__).parents[1] / ".dvc", folder / ".dvc",
                    ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))  # fmt: skip
    (folder / ".gitignore").write_text("/artifacts/\n")
    command(folder, "git", "init", "-q")
    for key in ("user.name", "user.email"):
        command(folder, "git", "config", key, "nobody@localhost")
    command(folder, "git", "add", "-A")
    command(folder, "git", "commit", "-qm", "All")


def consistent(metrics: Path) -> None:
    """Give the made-up metrics, each file of which the report can read, numbers that agree."""
    base, corpus = (read_json(metrics / f"{name}.json") for name in ("base", "corpus"))
    size = corpus["block_size"]
    corpus["blocks"] = {split: n // size for split, n in corpus["tokens"].items()}
    corpus["tokens"] = {split: n * size for split, n in corpus["blocks"].items()}
    write_json(metrics / "corpus.json", corpus)
    for model in MODELS:
        path = metrics / "expand" / f"{model}.json"
        expand, pretrain = (
            read_json(metrics / f"{s}/{model}.json") for s in ("expand", "pretrain")
        )
        for slot in expand["plan"]:
            slot["new"] = slot["copy_of"] is None
        expand["parameters_before"] = base["parameters"]
        expand["trainable_parameters"] = pretrain["trainable_parameters"]
        write_json(path, expand)
        for phase in ("init", "trained"):
            path = metrics / "evaluate" / phase / f"{model}.json"
            scores = read_json(path)
            scores["document_perplexity"] |= {"value": float(np.exp(3.25)), "losses": [3.25]}
            write_json(path, scores)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose report, metrics, parameters and locks agree."""
    root = tmp_path_factory.mktemp("record")
    consistent(write(root / "metrics", optional=False))
    (root / "params.yaml").write_text(
        yaml.safe_dump(params().model_dump(mode="json"), sort_keys=False)
    )
    (root / "README.md").write_text("# A\n<!-- results -->\n<!-- /results -->\n")
    (root / "lesa").mkdir()
    (root / "lesa" / "method.py").write_text("SEED = 0\n")
    (root / "artifacts" / "corpus").mkdir(parents=True)
    (root / "artifacts" / "corpus" / "text").write_text("words")
    study = root / "pipelines" / "studies" / "start"
    study.mkdir(parents=True)
    for i, row in enumerate(ROWS):
        content = start_row("lesa", 3.25 + i, row=row, profile="made-up")
        write_json(root / "artifacts" / "start" / "draws" / f"{row}.json", content)
        write_json(root / "metrics" / "start" / f"{row}.json", content)
    rows = {"start": {"draws": {row: {"seed": i} for i, row in enumerate(ROWS)}}}
    (study / "params.yaml").write_text(yaml.safe_dump(rows))
    rebuilt.rebuild(params(), root, root / "scratch")
    shutil.rmtree(root / "reports", ignore_errors=True)
    for path in (root / "scratch").iterdir():
        (root / path.name).unlink(missing_ok=True)
        path.rename(root / path.name)
    (root / "scratch").rmdir()
    measured = [str(p.relative_to(root)) for p in sorted((root / "metrics").rglob("*.json"))
                if p.parent.name != "start"]  # fmt: skip
    written = [str(p.relative_to(root)) for p in sorted((root / "reports").iterdir())]
    uncached = [[{path: {"cache": False}} for path in paths] for paths in (measured, written)]
    keys = ["base", "corpus", "fit", "methods", "train", "svd"]
    stages = {
        "corpus": {"cmd": "true", "deps": ["lesa/method.py"], "outs": ["artifacts/corpus"]},
        "measure": {"cmd": "true", "deps": ["artifacts/corpus", "lesa"], "params": keys,
                    "outs": uncached[0]},
        "report": {"cmd": "true", "deps": ["metrics"], "outs": uncached[1]},
    }  # fmt: skip
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    draws = {
        "wdir": "../../..", "cmd": "true", "deps": ["artifacts/corpus"],
        "params": [{"pipelines/studies/start/params.yaml": ["start.${key}"]}],
        "outs": ["artifacts/start/${key}"],
    }  # fmt: skip
    tree = {"vars": ["params.yaml"], "stages": {"start": {"foreach": "${start}", "do": draws}}}
    (study / "dvc.yaml").write_text(yaml.safe_dump(tree))
    committed(root)
    command(root, str(BIN / "dvc"), "commit", "-f")
    return root


@pytest.fixture
def copy(record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the record to change; the report is not drawn again for each."""
    root = tmp_path / "copy"
    shutil.copytree(record, root, symlinks=True)
    monkeypatch.chdir(root)

    def drawn(_: object, __: Path, again: Path) -> None:
        shutil.copy(record / "README.md", again)
        shutil.copytree(record / "reports", again / "reports")

    monkeypatch.setattr(rebuilt, "rebuild", drawn)
    return root


def verified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["verify"])
    status = verify.main()
    return status, capsys.readouterr().out


def test_an_unchanged_record_agrees_when_the_report_is_drawn_again(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(record)
    status, said = verified(monkeypatch, capsys)
    assert (status, said.splitlines()[-1]) == (0, "everything agrees"), said


def digit(text: str) -> str:
    """`text` with its last number's last digit changed."""
    found = list(re.finditer(r"\d\.\d+", text))[-1]
    last = found.end() - 1
    return f"{text[:last]}{(int(text[last]) + 1) % 10}{text[last + 1 :]}"


def recorded(pattern: str, new: str) -> Callable[[str], str]:
    """A change of what a pattern finds first; it must be there."""

    def change(text: str) -> str:
        changed, count = re.subn(pattern, new, text, count=1, flags=re.DOTALL)
        assert count
        assert changed != text
        return changed

    return change


@pytest.mark.parametrize(
    ("name", "change", "place"),
    [
        ("metrics/pretrain/lesa.json", recorded(r'perplexity": \d', 'perplexity": 9'),
         "steps.0.heldout_perplexity"),
        ("metrics/fit/paper-0.json", digit, "metrics/fit/paper-0.json: not what stage measure"),
        ("metrics/start/lesa_1.json", recorded(r'"loss": 4', '"loss": 5'), "loss is 5"),
        ("metrics/start/lesa_0.json", digit, "metrics/start/"),
        ("reports/tables/main.csv", digit, "reports/tables/main.csv: line"),
        ("reports/figures/spectra.svg", digit, "reports/figures/spectra.svg: line"),
        ("reports/REPORT.md", digit, "reports/REPORT.md: line"),
        ("reports/report.html", digit, "reports/report.html: line"),
        ("reports/summary.json", digit, "reports/summary.json: line"),
        ("reports/plots/spectra.csv", digit, "reports/plots/spectra.csv: line"),
        ("README.md", digit, "README.md: line"),
        ("params.yaml", recorded("heldout_documents: 24", "heldout_documents: 26"),
         "corpus.heldout_documents is 26, but dvc.lock has 24"),
        ("pipelines/studies/start/params.yaml", recorded("seed: 1", "seed: 2"),
         "start.draws.lesa_1.seed is 2"),
        ("dvc.lock", recorded(r"weight_decay: 0.0", "weight_decay: 0.1"), "dvc.lock has 0.1"),
        ("dvc.lock", recorded(r"(base.json\n +hash: md5\n +md5: ).", r"\1x"), "metrics/base.json"),
        ("dvc.lock", recorded(r"(lesa/method.py\n +hash: md5\n +md5: ).", r"\1x"),
         "lesa/method.py: x"),
        ("dvc.lock",
         recorded(r"(outs:\n +- path: artifacts/corpus\n +hash: md5\n +md5: ).", r"\1x"),
         "stage measure: artifacts/corpus"),
        ("dvc.lock", recorded(r"(path: artifacts/corpus\n.+?size: )\d", r"\g<1>9"),
         "stage measure: artifacts/corpus"),
        ("pipelines/studies/start/dvc.lock",
         recorded(r"(artifacts/start/draws\n +hash: md5\n +md5: ).", r"\1x"), "metrics/start/"),
    ],
)  # fmt: skip
def test_a_number_changed_by_hand_is_caught_and_its_place_named(
    name: str,
    change: Callable[[str], str],
    place: str,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = copy / name
    path.chmod(0o644)
    path.write_text(change(path.read_text()))
    status, said = verified(monkeypatch, capsys)
    assert status == 1
    assert place in said


def test_a_pixel_changed_by_hand_is_caught(copy: Path) -> None:
    path = copy / "reports" / "figures" / "spectra.png"
    picture = Image.open(path)
    picture.save(path, compress_level=1)  # other bytes, the same picture
    assert list(rebuilt.changed(params(), copy)) == []
    picture.putpixel((3, 3), (255, 0, 0, 255))
    picture.save(path)
    (said,) = rebuilt.changed(params(), copy)
    assert said.startswith("reports/figures/spectra.png: 1 of ")


def test_files_that_the_metrics_do_not_give_and_missing_ones_are_named(copy: Path) -> None:
    (copy / "reports" / "tables" / "old.csv").write_text("a\n")
    (copy / "reports" / "tables" / "main.csv").unlink()
    assert [line.partition(":")[0] for line in rebuilt.changed(params(), copy)] == [
        "reports/tables/main.csv",
        "reports/tables/old.csv",
    ]


def test_a_forged_number_whose_digest_was_forged_too_contradicts_its_blocks(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lock = copy / "metrics" / "pretrain" / "lesa.json", copy / "dvc.lock"
    before = locks.md5(path)
    content = read_json(path)
    content["steps"][-1]["heldout_loss"] -= 0.01
    write_json(path, content)
    lock.write_text(lock.read_text().replace(before, locks.md5(path)))
    status, said = verified(monkeypatch, capsys)
    assert status == 1
    assert "metrics/pretrain/lesa.json: steps.8.heldout_loss is" in said


def test_a_metrics_file_that_no_stage_wrote_is_named(copy: Path) -> None:
    write_json(copy / "metrics" / "extra.json", {})
    assert list(locks.without_origin(locks.load(copy))) == [
        "metrics/extra.json: no stage of a lock wrote it"
    ]


def test_files_that_no_lock_knows_one_by_one_are_named_by_git(copy: Path) -> None:
    (copy / "metrics" / "notes.txt").write_text("a")
    write_json(copy / "metrics" / "provenance" / "nothing.json", {})
    base = copy / "metrics" / "base.json"
    base.unlink()
    said = [line for line in locks.changed_files(locks.load(copy)) if line.startswith("metrics: ")]
    assert said == [
        "metrics: not what stage report read (dvc.lock); not as git's last commit has them: "
        "metrics/base.json, metrics/notes.txt, metrics/provenance/nothing.json"
    ]
    shutil.rmtree(copy / ".git")
    (line,) = (x for x in locks.changed_files(locks.load(copy)) if x.startswith("metrics: "))
    assert line == "metrics: not what stage report read (dvc.lock)"


BROKEN = ('{"a":', "3", "null", "[]", "{}")


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_metrics_file_is_a_line_and_the_others_are_checked(
    content: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [f"metrics/{name}.json" for name in ("base", "provenance/toy", "rates/budget-lesa")]
    for name in broken:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).unlink(missing_ok=True)
        (copy / name).write_text(content)
    forged = read_json(copy / "metrics/start/lesa_1.json")
    (copy / "metrics/start/lesa_1.json").unlink()
    write_json(copy / "metrics/start/lesa_1.json", forged | {"loss": 5.0})
    status, said = verified(monkeypatch, capsys)
    assert status == 1
    for name in broken:
        assert re.search(rf"^ +{name}: ", said, re.MULTILINE), (name, said)
    assert "metrics/start/lesa_1.json: loss is 5.0" in said


@pytest.mark.parametrize("cut", [0, 40])
def test_a_lock_that_dvc_would_not_take_is_one_line(
    cut: int, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "pipelines" / "studies" / "start" / "dvc.lock"
    path.write_text(path.read_text()[:cut])
    monkeypatch.setattr(sys, "argv", ["verify"])
    with pytest.raises(SystemExit) as ended:
        verify.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: pipelines/studies/start/dvc.lock: no lock of DVC (")
    assert said.count("\n") == 1


def test_numbers_that_are_none_are_a_line(copy: Path) -> None:
    write_json(copy / "metrics" / "odd.json", {"heldout_loss": 1.0, "heldout_perplexity": "many"})
    (said,) = consistency.contradictions(Path("metrics"))
    assert said.startswith("metrics/odd.json: heldout_perplexity cannot be checked (TypeError")


def test_a_broken_file_of_a_studys_params_is_a_line(copy: Path) -> None:
    (copy / "pipelines" / "studies" / "start" / "params.yaml").write_text("start: {")
    (said,) = locks.differing_params(locks.load(copy))
    assert said.startswith("pipelines/studies/start/params.yaml: not YAML (")


def test_a_folder_whose_rows_no_parameter_names_is_not_passed_over(copy: Path) -> None:
    """Only a folder beside a file of its name, as study budget writes, is no metrics."""
    path = copy / "pipelines" / "studies" / "start" / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    stage = next(iter(lock["stages"].values()))
    del stage["params"]
    path.write_text(yaml.safe_dump(lock))
    assert len(list(locks.changed_copies(locks.load(copy)))) == 1
    beside = stage["outs"][0] | {"path": stage["outs"][0]["path"] + ".json", "md5": "0" * 32}
    stage["outs"].append(beside)
    path.write_text(yaml.safe_dump(lock))
    (said,) = locks.changed_copies(locks.load(copy))
    assert said.startswith("metrics/start/draws.json: not the copy")


def test_code_that_has_changed_since_is_a_note(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "lesa" / "method.py").write_text("SEED = 1\n")
    status, said = verified(monkeypatch, capsys)
    assert status == 0
    assert "note    dvc.lock: ran with other code than is here (lesa/method.py): corpus" in said


def test_a_study_may_have_read_an_earlier_committed_version(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The writer's own lock has the version that is here; the study's has the one before it."""
    path = copy / "metrics" / "base.json"
    earlier = "pipelines/studies/start/dvc.lock"
    lock = yaml.safe_load((copy / earlier).read_text())
    stage = next(iter(lock["stages"].values()))
    old = json.dumps({"before": 1}).encode()
    read = {"path": "metrics/base.json", "hash": "md5", "md5": hashlib.md5(old).hexdigest()}
    stage.setdefault("deps", []).append(read | {"size": len(old)})
    now = path.read_bytes()
    other = read | {"md5": hashlib.md5(now).hexdigest(), "size": len(now)}
    lock["stages"]["later"] = {"cmd": "true", "deps": [other]}
    (copy / earlier).write_text(yaml.safe_dump(lock))
    status, said = verified(monkeypatch, capsys)
    assert status == 1  # git never had that version
    assert "metrics/base.json: not what stage" in said
    of_both = f"{earlier}: stage .+: metrics/base.json: .+, but stage .+ read "
    assert re.search(of_both, said)
    path.write_bytes(old)
    command(copy, "git", "add", "metrics")
    command(copy, "git", "commit", "-qm", "Before")
    path.write_bytes(now)
    command(copy, "git", "commit", "-qam", "Now")
    locks.versions.cache_clear()
    status, said = verified(monkeypatch, capsys)
    assert status == 0, said
    assert f"note    {earlier}: read an earlier version of metrics/base.json" in said


def test_kinds_of_numbers() -> None:
    before = {"model": "solar", "seconds": 1.0, "steps": [{"heldout_loss": 3.0, "tokens": 8}]}
    after = {"model": "solar", "seconds": 9.0, "steps": [{"heldout_loss": 3.004, "tokens": 9}]}
    found = {one.place: one for one in compare("pretrain/solar.json", before, after, {})}
    loss, tokens = (found[f"pretrain/solar.json:steps.0.{k}"] for k in ("heldout_loss", "tokens"))
    assert found["pretrain/solar.json:seconds"].kind is TIMED
    assert (loss.kind, loss.within) == (ROUNDING, True)
    assert (tokens.kind, tokens.within) == (EXACT, False)
    after["steps"] = [{"heldout_loss": 3.02, "tokens": 8}]
    fitted = {"solar": "paper"}
    for presets, kind, within in (({}, ROUNDING, False), (fitted, CHAOTIC, True)):
        one = compare("pretrain/solar.json", before, after, presets)[-2]
        assert (one.kind, one.within) == (kind, within)
    missing = compare("base.json", {"layers": 30}, {}, {})
    assert [one.within for one in missing] == [False]


def allowed(kind: Kind) -> str:
    """As the table of docs/reproducing.md says it."""
    if math.isinf(kind.relative):
        return "anything"
    if kind.absolute:
        return f"{kind.absolute:g}"
    return f"{100 * kind.relative:g}%" if kind.relative else "nothing"


def test_tolerances_are_documented() -> None:
    page = (Path(__file__).parents[1] / "docs/reproducing.md").read_text(encoding="utf-8")
    table = page.partition("| kind | may differ by | because |")[2].partition("\n\n")[0]
    rows = [tuple(line.strip("| ").split(" | ")) for line in table.splitlines()[2:]]
    kinds = [kind for kind in vars(comparison).values() if isinstance(kind, Kind)]
    reasons = {kind: kind.reason.partition(": not compared")[0] for kind in kinds}
    assert sorted(rows) == sorted((kind.name, allowed(kind), reasons[kind]) for kind in kinds)


MAKE = """
import json, pathlib, sys
pathlib.Path('metrics').mkdir(exist_ok=True)
loss = 3.0 + float(sys.argv[2]) if 'verify' in str(pathlib.Path.cwd()) else 3.0
pathlib.Path(f'metrics/{sys.argv[1]}.json').write_text(json.dumps({'loss': loss, 'seconds': 1.0}))
"""


@pytest.mark.parametrize(("stages", "out", "compared"), [(["near"], 0, 1), (["all"], 1, 2)])
def test_stages_run_again_are_compared(
    stages: list[str], out: int, compared: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One gives the same but for rounding, the other does not: in the scratch clone alone."""
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(params().model_dump(mode="json"), sort_keys=False)
    )
    names = {"near": 1e-4, "far": 0.1}
    made = {
        name: {"cmd": f"python make.py {name} {shift}", "deps": ["make.py"],
               "outs": [{f"metrics/{name}.json": {"cache": False}}]}
        for name, shift in names.items()
    }  # fmt: skip
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": made}))
    committed(tmp_path)
    command(tmp_path, str(BIN / "dvc"), "repro")
    command(tmp_path, "git", "add", "-A")
    command(tmp_path, "git", "commit", "-qm", "Recorded")
    assert rerun.rerun(tmp_path, stages) == out
    said = capsys.readouterr().out
    assert said.count("Running stage") == compared
    assert ("far.json:loss" in said) == bool(out)
    assert json.loads((tmp_path / "metrics" / "far.json").read_text())["loss"] == 3.0
    assert not list((tmp_path / "artifacts").iterdir())


@pytest.mark.parametrize(
    ("path", "out", "size", "noted"),
    [
        ("artifacts/svd", False, 7, True),
        ("artifacts/svd", False, 8, False),  # of other matrices
        ("artifacts/svd", True, 7, False),
        ("artifacts/base", False, 7, False),
    ],
)
def test_an_svd_may_be_another_processors(path: str, out: bool, size: int, noted: bool) -> None:
    """Its last digits differ, and no more: that is a note. What differs otherwise fails."""

    def stage(role: str, md5: str, size: int) -> dict[str, object]:
        return {role: [{"path": path, "md5": md5, "size": size}]}

    stages = {f"start@{i}": stage("deps", "aa", 7) for i in range(3)}
    stages["start@mine"] = stage("outs" if out else "deps", "bb", size)
    known = locks.Locks(Path(), {"pipelines/studies/start/dvc.lock": stages})
    failing, notes = list(locks.disagreeing(known)), list(locks.other_roundings(known))
    assert (not failing, bool(notes)) == (noted, noted)
    assert all(line.endswith(": start@mine") for line in notes)
