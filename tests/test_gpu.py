"""What is different on a GPU; skipped where there is none. All other tests run on the CPU."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import AS_STARTED, numbers, read_metrics
from test_siblings import ROOT, SCRIPTS, TINY, each


@pytest.fixture(scope="module", autouse=True)
def skip_without_a_gpu():
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if not torch.version.cuda or subprocess.run([sys.executable, "-c", code], env=AS_STARTED,
                                                cwd=ROOT).returncode:
        pytest.skip("no GPU")


@pytest.mark.parametrize("script", SCRIPTS, **each)
def test_a_run_on_a_gpu_stops_resumes_and_is_evaluated_on_a_cpu(script, tmp_path):
    def start(*arguments, environment=AS_STARTED):
        return subprocess.Popen([sys.executable, script.__file__, *arguments], env=environment,
                                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True)

    process, seen = start(*TINY[script], "--runs-dir", str(tmp_path)), 0
    for line in process.stdout:
        seen += "held-out return" in line
        if seen == 3:  # there were updates
            break
    process.send_signal(signal.SIGINT)
    assert "nothing is lost: go on with --resume" in process.communicate()[0]
    assert process.returncode != 0
    (folder,) = tmp_path.iterdir()

    said = start("--resume", str(folder)).communicate()[0]
    assert "agent; " in said and " on cuda" in said
    rows = read_metrics(folder)
    steps = [int(row["env_step"]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] >= 320  # no row is there twice
    assert float(rows[-1]["charts/updates"]) > 0
    values = [float(x) for row in rows for x in row.values() if x]
    assert np.isfinite(values).all()
    saved = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    weights = saved["things"]["agent"].values()
    assert all(w.dtype in (torch.float32, torch.float64) for w in weights)

    said = start("--evaluate", str(folder), environment=dict(os.environ)).communicate()[0]
    on_cpu = float(re.search(r"held-out return (\S+)", said.splitlines()[-1])[1])
    assert on_cpu == pytest.approx(numbers(folder, "eval/return_mean")[-1], rel=0.01, abs=0.01)
