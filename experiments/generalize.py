"""Agents in bodies that they were not trained in: returns and successes, by training and by test.

    python experiments/generalize.py table.csv runs/figure_6/*/*

For runs of HopperGeneralize or CheetahGeneralize in mode D (one body) or R (bodies that differ a
little): plays each agent in D, R and E (extreme ones), 100 held-out episodes with the most likely
actions, and writes a row for each, as `HopperGeneralize, R on E`. Then the paper's two scores, of a
seed's two runs: interpolation, R on R, and extrapolation, the mean of D on R, D on E and R on E.
`--by` names what tells agents apart, as for plot.py. Folders without a checkpoint are passed over.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from plot import label_of

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("eval/return_mean", "eval/return_std", "eval/episodes", "eval/return_worst10",
           "eval/success_rate")


def evaluated(folder, script, env_id):
    """-> the last evaluation's columns, of the trained agent of a run, in another environment."""
    path = next(p for p in (ROOT / script, ROOT / "comparators" / script) if p.exists())
    command = [sys.executable, path, "--evaluate", folder, "--env-id", env_id]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"error: {folder}: {process.stderr.strip()}")
    pairs = (line.split(": ") for line in process.stdout.splitlines() if line.startswith("eval/"))
    return {name: float(value) for name, value in pairs if name in COLUMNS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", type=Path, help="write a row per run and mode to this CSV file")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--by", default="script,select", help="what tells agents apart: a,b,c")
    options = parser.parse_args()

    rows = []
    scores = defaultdict(dict)  # (task, group, seed) -> (trained in, tested in) -> columns
    seconds = {}  # (task, group, seed, trained in) -> how long it was trained
    for folder in options.runs:
        if not (folder / "checkpoint.pt").exists():
            continue
        config = json.loads((folder / "config.json").read_text())
        args = config["args"] | {"script": Path(config["script"]).stem}
        task, _, trained = args["env_id"].removesuffix("-v0").partition("-")
        if not task.endswith("Generalize"):
            sys.exit(f"error: {folder}: trained in {args['env_id']}; name runs of HopperGeneralize "
                     "or CheetahGeneralize")
        group = label_of(args, options.by.split(","))
        with (folder / "metrics.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        known = {"group": group, "seed": args["seed"], "git": config["git_commit"][:7]}
        known |= {k: last[k] for k in ("env_step", "seconds", "charts/updates")}
        seconds[task, group, args["seed"], trained or "R"] = float(last["seconds"])
        for tested in "DRE":
            found = evaluated(folder, config["script"], f"{task}-{tested}-v0")
            scores[task, group, args["seed"]][trained or "R", tested] = found
            rows.append({"env_id": f"{task}, {trained or 'R'} on {tested}"} | known | found)
            print(rows[-1]["env_id"], group, args["seed"], found, flush=True)
    for (task, group, seed), found in scores.items():
        for name, parts in (("interpolation", ["RR"]), ("extrapolation", ["DR", "DE", "RE"])):
            if all(tuple(part) in found for part in parts):
                mean = {c: sum(found[tuple(part)][c] for part in parts) / len(parts)
                        for c in ("eval/return_mean", "eval/success_rate")}
                modes = {part[0] for part in parts}
                both = sum(seconds[task, group, seed, mode] for mode in modes)
                rows.append({"env_id": f"{task}, {name}", "group": group, "seed": seed,
                             "seconds": both} | mean)
    with options.table.open("w", newline="") as file:
        names = ("env_id", "group", "seed", "env_step", "charts/updates", *COLUMNS, "seconds",
                 "git")
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
