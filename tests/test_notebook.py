"""What is true of the notebook: it runs from top to bottom, and shows what it says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "what_the_memory_remembers.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_with_what_it_shows():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert not any(output["output_type"] == "error" for output in shown)
    for text in code_cells():
        compile(text, NOTEBOOK.name, "exec")


def test_the_first_cell_finds_an_uploaded_copy_of_the_repository(tmp_path, monkeypatch):
    """As on a hosted notebook service: nothing there but the notebook and an archive."""
    (tmp_path / "source").mkdir()
    for name in ("rmf_sac_gru.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    (tmp_path / "there").mkdir()
    shutil.make_archive(tmp_path / "there" / "copy", "zip", tmp_path, "source")
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setattr(sys, "path", sys.path[:])
    exec(code_cells()[0], {})
    assert Path.cwd() == tmp_path / "there" / "source" and sys.path[0] == str(Path.cwd())


@pytest.mark.slow
def test_the_notebook_runs_in_a_fresh_clone_and_the_wind_is_in_the_memory(tmp_path):
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    # Late in the episode the agent stands in the goal: what it sees says little about the wind.
    cells = "\n\n".join([*code_cells(), "assert min(from_memory[20:]) > 0.8",
                         "assert max(from_sight[20:]) < 0.4"])
    subprocess.run([sys.executable, "-c", cells], cwd=tmp_path / "clone" / "docs", check=True,
                   env=os.environ | {"MPLBACKEND": "Agg"})
    assert len([*(tmp_path / "clone" / "runs" / "notebook").glob("*/wind-in-memory.png")]) == 1
