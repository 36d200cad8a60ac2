"""What is true of the notebook: it runs from top to bottom, and shows what it says."""

import json
import os
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "what_the_memory_remembers.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs_and_compiles():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    for text in code_cells():
        compile(text, NOTEBOOK.name, "exec")


@pytest.mark.slow
def test_the_notebook_runs_and_the_wind_is_in_the_memory(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT)
    names = {}
    for text in code_cells():
        exec(text.replace("runs/notebook", str(tmp_path)), names)
    assert os.getcwd() == str(ROOT) and names["folder"].parent == tmp_path
    # Late in the episode the agent stands in the goal: what it sees says little about the wind.
    assert min(names["from_memory"][20:]) > 0.8 and max(names["from_sight"][20:]) < 0.4
