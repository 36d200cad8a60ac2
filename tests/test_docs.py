"""What is true of the words: help texts, flags, metrics and links."""

import ast
import csv
import importlib
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from conftest import read_metrics
from test_siblings import COMPARATORS, SCRIPTS, TINY

import run

ROOT = Path(__file__).resolve().parents[1]
README, DIARY = ROOT / "README.md", ROOT / "docs" / "lab_notebook.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OTHER_TOOLS = {"--help", "--upgrade", "--index-url", "--extra-index-url", "--depth",
               "--json", "--pdf", "--allow-local-files"}


def flag(field):
    return "--" + field.replace("_", "-")


every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def page_of(script):
    return ROOT / "docs" / f"{script.__name__}.md"


def tables(page):
    """-> lists of lines: the rows of each table, without its head."""
    found, previous = [], ""
    for line in page.read_text().splitlines():
        if line.startswith("|") and not previous.startswith("|"):
            found.append([])
        if line.startswith("|"):
            found[-1].append(line)
        previous = line
    return [rows[2:] for rows in found]


@pytest.mark.parametrize("module", [run, *SCRIPTS, *COMPARATORS], ids=lambda m: m.__name__)
def test_every_argument_has_a_help_text_of_its_own(module):
    args = run.RunArgs if module is run else module.Args
    tree = ast.parse(Path(module.__file__).read_text())
    (body,) = [n.body for n in tree.body
               if isinstance(n, ast.ClassDef) and n.name == args.__name__]
    texts = {}
    for node, following in zip(body, body[1:]):
        if isinstance(node, ast.AnnAssign):
            value = following.value if isinstance(following, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) else None
            texts[node.target.id] = text if isinstance(text, str) else None
    shared = {f.name for f in fields(run.RunArgs)} if module is not run else set()
    assert texts.keys() | shared == {f.name for f in fields(args)}
    assert [name for name, text in texts.items() if not (text and len(text.strip()) > 8)] == []
    assert len(set(texts.values())) == len(texts)


@pytest.mark.parametrize("script", SCRIPTS + COMPARATORS, ids=lambda s: s.__name__)
def test_the_page_lists_exactly_the_metrics_that_are_logged(script, tmp_path, no_pictures):
    tiny = TINY.get(script) or importlib.import_module(f"test_{script.__name__}").TINY
    folder = script.main([*tiny, "--runs-dir", str(tmp_path)])
    logged = {*read_metrics(folder)[0], "eval/success_rate"}  # the last where an env knows of it
    text = page_of(script).read_text()
    named = set(re.findall(r"`((?:losses|charts|grads|eval)/[^`]+)`", text))
    assert named - logged == set()
    rows = "\n".join(line for table in tables(page_of(script)) for line in table)
    assert [column for column in sorted(logged) if f"`{column}`" not in rows] == []


@every_page
def test_every_metric_in_the_docs_exists(page):
    """By the table of any script's page; the test above holds those to what is logged."""
    known = set()
    for script in SCRIPTS + COMPARATORS:
        for line in sum(tables(page_of(script)), []):
            known |= set(re.findall(r"`([\w/]+)`", line.split("|")[1]))
    named = set(re.findall(r"`((?:losses|charts|grads|eval)/[^`]+)`", page.read_text()))
    assert page == DIARY or named - known == set()


@pytest.mark.parametrize("page, most", [
    (README, 110), *((page_of(script), 200) for script in SCRIPTS),
    *((page_of(script), 100) for script in COMPARATORS)], ids=lambda x: getattr(
        x, "name", x))
def test_a_page_is_short(page, most):
    assert len(page.read_text().splitlines()) <= most
    assert page != README or max(map(len, tables(page))) <= 12


@every_page
def test_every_flag_in_the_docs_exists(page):
    if page == DIARY:
        pytest.skip("what was tried, with the flags of its day")
    of_all = SCRIPTS + COMPARATORS
    scripts = [s for s in of_all if s.__name__ == page.stem] or of_all  # a script's own page
    arguments = [f for s in scripts for f in fields(s.Args)]
    flags = {flag(f.name) for f in arguments}
    flags |= {flag("no_" + f.name) for f in arguments if f.type is bool}
    for file in (ROOT / "experiments").glob("*.py"):
        flags |= set(re.findall(r"add_argument\(\s*\"(--[a-z-]+)", file.read_text()))
    mentioned = set(re.findall(r"(?<![\w!-])--[a-z][a-z0-9-]*", page.read_text()))
    assert mentioned - flags - OTHER_TOOLS == set()


def anchors(page):
    """-> what a link may name in a page after `#`: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_to_a_file_and_a_line_or_a_heading(page):
    text = page.read_text()
    targets = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = page.parent / path if path else page
        lines = [int(n) for n in re.findall(r"L(\d+)", anchor)]
        n_lines = len(file.read_text().splitlines()) if lines and file.is_file() else 0
        if not file.exists() or (lines and not all(0 < n <= n_lines for n in lines)):
            broken.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(target)
    assert broken == []


@every_page
def test_a_link_to_a_line_lands_on_the_definition_of_what_it_names(page):
    links = re.findall(r"\[`(?:\w+\.)?(\w+)`\]\((?:\.\./)*([\w./]+)#L(\d+)\)", page.read_text())
    assert links or page.stem not in {script.__name__ for script in SCRIPTS}
    for name, path, line in links:
        there = (ROOT / path).read_text().splitlines()[int(line) - 1]
        assert re.match(rf"\s*(def|class) {name}\b", there), (name, line)


def test_no_file_names_a_path_of_somebodys_machine():
    git = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                         cwd=ROOT, capture_output=True, text=True)
    names = git.stdout.splitlines() or [  # no git: an unpacked archive
        p.relative_to(ROOT) for p in ROOT.rglob("*") if ".venv" not in p.parts]
    files = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert all(Path(s.__file__) in files for s in SCRIPTS)
    places = b"work", b"home", b"root", b"tmp", b"Users"
    pattern = re.compile(rb"(?<![\w.~-])/(?:" + b"|".join(places) + rb")/\w")
    assert pattern.search(b"cd /" + b"tmp/x") and not pattern.search(b"https://a.org/" + b"home/x")
    assert [str(f) for f in files if pattern.search(f.read_bytes())] == []


@every_page
def test_no_place_is_left_to_be_filled_in(page):
    assert re.findall(r"^[A-Z]{5,}$|^@+[A-Z]+@+$", page.read_text(), re.M) == []


def test_the_returns_on_the_way_of_lesson_2_are_those_of_its_curves():
    with (ROOT / "experiments/results/curves/shared_encoder.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if 6000 <= float(row["env_step"]) <= 11000]
    page = (ROOT / "docs" / "lessons.md").read_text()
    table = page[page.index("held-out return on the way") :]
    for routing in dict.fromkeys(row["group"] for row in rows):
        means = [np.mean([float(row["eval/return_mean"]) for row in rows
                          if (row["group"], row["seed"]) == (routing, seed)])
                 for seed in ("11", "12", "13")]
        said = re.search(rf"^\| `{routing}` \| (.*?) \|", table, re.M)[1].replace("*", "")
        assert said == ", ".join(f"{mean:.0f}" for mean in means)


def test_tables_are_what_their_runs_say():
    process = subprocess.run([sys.executable, "experiments/tables.py", "--check"], cwd=ROOT,
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for page, name in ((README, "short"), (ROOT / "docs" / "results.md", "every run")):
        assert re.search(rf"<!-- table: {name} -->\n\|.*<!-- end of table -->", page.read_text(),
                         re.DOTALL), page


def test_a_table_is_made_of_its_runs():
    sys.path.insert(0, str(ROOT / "experiments"))
    import tables

    run = {"env_id": "Wind-v0", "env_step": "300", "eval/episodes": "5", "eval/return_std": "4"}
    runs = [run | {"group": f"rmf_sac_gru, {policy}", "seed": str(seed), "seconds": str(60 * seed),
                   "eval/return_mean": str(score)}
            for policy, seed, score in (("recurrent", 11, 60.04), ("recurrent", 12, 64.0),
                                        ("markov", 11, 9.0))]
    page = "before\n<!-- table: every run -->\nold\n<!-- end of table -->\nafter\n"
    first, _, head, rule, *rows, end, last = tables.filled(page, lambda name: runs).splitlines()
    assert first == "before" and last == "after" and head.count("|") == rule.count("|")
    assert rows == [
        "| Wind-v0 | SAC-GRU, recurrent | 11-12 | **62.0** (60.0 to 64.0) | 2.8 | 60.0, 64.0 | 2.0 "
        "| 300 | 11 to 12 |",
        "| Wind-v0 | SAC-GRU, Markovian | 11 | **9.0** (9.0 to 9.0) | – | 9.0 | 2.0 | 300 | 11 |"]
    page = page.replace("every run", "short")
    assert tables.filled(page, lambda name: runs).splitlines()[4] == (
        "| Wind | SAC-GRU | **62.0** (60.0 to 64.0) |  | 9.0 | 2, 1 | 300 | 11 to 12 |")
    runs[2] |= {"eval/success_rate": "0.25"}
    of_successes = page.replace("short", "success_rate of it")
    assert tables.filled(of_successes, {"it": runs[2:]}.get).splitlines()[2:-2] == [
        "| environment | agent | seeds | successes in 100, each seed | mean | minutes |",
        "|---|---|---|---|---|---|", "| Wind-v0 | SAC-GRU, Markovian | 11 | 25.0 | 25.0 | 11 |"]
    page = page.replace("short", "lesson_of_wind") + (
        "It is 1.5<!-- mean of lesson_of_wind: Wind-v0, rmf_sac_gru, recurrent -->, at worst "
        "-2<!-- low of lesson_of_wind: Wind-v0, rmf_sac_gru, recurrent -->.")
    assert tables.filled(page, {"lesson_of_wind": runs}.get).splitlines()[4:] == [
        "| Wind-v0 | SAC-GRU, Markovian | 11 | 9.0 | 9.0 | 11 |",
        "| Wind-v0 | SAC-GRU, recurrent | 11-12 | 60.0, 64.0 | 62.0 | 11 to 12 |",
        "<!-- end of table -->", "after",
        "It is 62.0<!-- mean of lesson_of_wind: Wind-v0, rmf_sac_gru, recurrent -->, at worst "
        "60.0<!-- low of lesson_of_wind: Wind-v0, rmf_sac_gru, recurrent -->."]
