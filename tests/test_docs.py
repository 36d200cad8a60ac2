"""What is true of the words: help texts, flags, metrics and links."""

import ast
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

import ppo_gru_baseline as ppo
import rmf_sac_discrete_pixels as pixels
import rmf_sac_gru as sac
import rmf_td3_lstm as td3

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [sac, td3, pixels, ppo]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_TOOLS = {"--help", "--upgrade", "--index-url", "--extra-index-url", "--depth"}


def flag(field):
    return "--" + field.replace("_", "-")


every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


@every_script
def test_every_argument_has_a_help_text_of_its_own(script):
    tree = ast.parse(Path(script.__file__).read_text())
    (body,) = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Args"]
    texts = {}
    for node, following in zip(body, body[1:]):
        if isinstance(node, ast.AnnAssign):
            value = following.value if isinstance(following, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) else None
            texts[node.target.id] = text if isinstance(text, str) else None
    assert list(texts) == [f.name for f in fields(script.Args)]
    assert [name for name, text in texts.items() if not (text and len(text.strip()) > 8)] == []
    assert len(set(texts.values())) == len(texts)


@every_script
def test_the_page_lists_exactly_the_metrics_that_are_logged(script):
    text = (ROOT / "docs" / f"{script.__name__}.md").read_text()
    named = set(re.findall(r"`((?:losses|charts|grads|eval)/[^`]*)`", text))
    assert named - set(script.COLUMNS) == set()
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert [column for column in script.COLUMNS if f"`{column}`" not in table] == []


@every_page
def test_every_flag_in_the_docs_exists(page):
    scripts = [s for s in SCRIPTS if s.__name__ == page.stem] or SCRIPTS  # a script's own page
    arguments = [f for s in scripts for f in fields(s.Args)]
    flags = {flag(f.name) for f in arguments}
    flags |= {flag("no_" + f.name) for f in arguments if f.type is bool}
    for file in (ROOT / "experiments").glob("*.py"):
        flags |= set(re.findall(r"add_argument\(\s*\"(--[a-z-]+)", file.read_text()))
    mentioned = set(re.findall(r"(?<![\w!-])--[a-z][a-z0-9-]*", page.read_text()))
    assert mentioned - flags - OTHER_TOOLS == set()


@every_page
def test_every_link_leads_to_a_file_and_a_line(page):
    text = page.read_text()
    targets = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            continue
        file = page.parent / path
        lines = [int(n) for n in re.findall(r"L(\d+)", anchor)]
        n_lines = len(file.read_text().splitlines()) if lines and file.is_file() else 0
        if not file.exists() or (lines and not all(0 < n <= n_lines for n in lines)):
            broken.append(target)
    assert broken == []


@every_script
def test_a_link_to_a_line_lands_on_what_it_names(script):
    page = ROOT / "docs" / f"{script.__name__}.md"
    links = re.findall(r"\[`(\w+)`\]\(\.\./([\w./]+)#L(\d+)\)", page.read_text())
    assert links
    for name, path, line in links:
        assert name in (ROOT / path).read_text().splitlines()[int(line) - 1], (name, line)


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
