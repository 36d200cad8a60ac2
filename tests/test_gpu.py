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
from test_siblings import ROOT, TINY

import ppo_gru_baseline as ppo
import rmf_sac_discrete_pixels as pixels
import rmf_sac_gru as sac
import rmf_td3_lstm as td3


@pytest.fixture(scope="module", autouse=True)
def skip_without_a_gpu():
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if not torch.version.cuda or subprocess.run([sys.executable, "-c", code], env=AS_STARTED,
                                                cwd=ROOT).returncode:
        pytest.skip("no GPU")


@pytest.mark.parametrize("script, flags", [
    (sac, "--bf16"), (sac, ""), (td3, "--bf16"), (td3, ""), (pixels, "--bf16"), (pixels, ""),
    (ppo, "")], ids=lambda x: getattr(x, "__name__", x))
def test_a_run_on_a_gpu_stops_resumes_and_is_evaluated_on_a_cpu(script, flags, tmp_path):
    def start(*arguments, environment=AS_STARTED):
        return subprocess.Popen([sys.executable, script.__file__, *arguments], env=environment,
                                cwd=ROOT, stdout=subprocess.PIPE, text=True)

    process = start(*TINY[script], *flags.split(), "--runs-dir", str(tmp_path))
    for line in process.stdout:  # up to the evaluation of the untrained agent
        if "held-out return" in line:
            break
    process.send_signal(signal.SIGINT)
    assert "stopped; go on with" in process.communicate()[0] and not process.returncode
    (folder,) = tmp_path.iterdir()

    said = start("--resume", str(folder)).communicate()[0]
    assert "agent on cuda" in said
    rows = read_metrics(folder)
    assert int(rows[-1]["env_step"]) >= 320 and float(rows[-1]["charts/updates"]) > 0
    values = [float(x) for row in rows for x in row.values() if x]
    assert np.isfinite(values).all()
    weights = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["agent"]
    assert not any(w.dtype == torch.bfloat16 for w in weights.values())

    said = start("--evaluate", str(folder), environment=dict(os.environ)).communicate()[0]
    on_cpu = float(re.search(r"held-out return (\S+)", said.splitlines()[-1])[1])
    assert on_cpu == pytest.approx(numbers(folder, "eval/return_mean")[-1], rel=0.01, abs=0.01)
