"""Write the tables of the docs from the runs behind them, so that no number is typed twice.

    python experiments/plot.py picture.png --by script,policy --table table.csv runs/*
    python experiments/tables.py table.csv        # into experiments/results/unseen.csv and the docs
    python experiments/tables.py --check          # status 1 if a table is not what the runs say

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Runs are kept in
experiments/results/unseen.csv, one row each; a run that is given again takes the place of the old.
"""

import argparse
import csv
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "experiments" / "results" / "unseen.csv"
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md"]
SCRIPTS = {"rmf_sac_gru": "SAC-GRU", "rmf_td3_lstm": "TD3-LSTM", "ppo_gru_baseline": "PPO-GRU",
           "rmf_sac_discrete_pixels": "discrete SAC-LSTM"}
POLICIES = {"recurrent": "recurrent", "oracle": "oracle", "markov": "Markovian"}


def key(run):
    return run["env_id"], run["group"], int(run["seed"])


def in_order(run):
    script, policy = run["group"].split(", ")
    names = list(SCRIPTS).index(script), run["env_id"], list(POLICIES).index(policy)
    return *names, int(run["seed"])


def grouped(runs):
    """-> (env id, script) -> policy -> runs."""
    groups = defaultdict(dict)
    for run in sorted(runs, key=in_order):
        script, policy = run["group"].split(", ")
        groups[run["env_id"], script].setdefault(policy, []).append(run)
    return groups


def number(x, scores):
    """Two decimals where scores are small, none where they are in the thousands."""
    return f"{x:.{0 if np.abs(scores).max() >= 1000 else 1}f}"


def scores_of(runs):
    return np.array([float(run["eval/return_mean"]) for run in runs])


def seeds_of(runs):
    seeds = [int(run["seed"]) for run in runs]
    whole = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))


def minutes_of(runs):
    minutes = [float(run["seconds"]) / 60 for run in runs]
    low, high = (f"{x:.1f}" if x < 10 else f"{x:.0f}" for x in (min(minutes), max(minutes)))
    return low if low == high else f"{low} to {high}"


def steps_of(runs):
    steps = {int(run["env_step"]) for run in runs}
    return f"{steps.pop():,}" if len(steps) == 1 else f"{min(steps):,} to {max(steps):,}"


def every_run(runs):
    """A row for each environment, script and policy."""
    yield ("| environment | agent | seeds | mean (lowest to highest) | SD over seeds | "
           "each seed | standard error within a run | env steps | minutes |")
    yield "|---" * 9 + "|"
    for (env_id, script), policies in grouped(runs).items():
        for policy, of_policy in policies.items():
            scores = scores_of(of_policy)
            errors = [float(run["eval/return_std"]) / max(float(run["eval/episodes"]) - 1, 1) ** 0.5
                      for run in of_policy]
            spread = number(scores.std(ddof=1), scores) if len(scores) > 1 else "–"
            yield (f"| {env_id} | {SCRIPTS[script]}, {POLICIES[policy]} | {seeds_of(of_policy)} | "
                   f"**{number(scores.mean(), scores)}** ({number(scores.min(), scores)} to "
                   f"{number(scores.max(), scores)}) | {spread} | "
                   f"{', '.join(number(x, scores) for x in scores)} | "
                   f"{number(np.mean(errors), scores)} | {steps_of(of_policy)} | "
                   f"{minutes_of(of_policy)} |")


def short(runs):
    """A row for each environment and script."""
    yield ("| environment | algorithm | recurrent | oracle | Markovian | seeds | env steps | "
           "minutes |")
    yield "|---" * 8 + "|"
    for (env_id, script), policies in grouped(runs).items():
        cells = []
        for policy in POLICIES:
            scores = scores_of(policies.get(policy, []))
            mean = number(scores.mean(), scores) if len(scores) else ""
            cells.append(f"**{mean}** ({number(scores.min(), scores)} to "
                         f"{number(scores.max(), scores)})"
                         if policy == "recurrent" and len(scores) else mean)
        of_memory = policies["recurrent"]
        counts = ", ".join(str(len(policies[p])) for p in POLICIES if p in policies)
        yield (f"| {env_id.removesuffix('-v0')} | {SCRIPTS[script]} | {' | '.join(cells)} | "
               f"{counts} | {steps_of(of_memory)} | {minutes_of(of_memory)} |")


TABLES = {"every run": every_run, "short": short}


def filled(text, runs):
    """A page -> the same with its tables made anew."""
    for name, table in TABLES.items():
        text = re.sub(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)",
                      lambda m: m[1] + "\n".join(table(runs)) + "\n" + m[2], text, flags=re.DOTALL)
    return text


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="*", help="files that plot.py --table wrote")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    runs = {key(run): run for path in [RUNS, *options.tables] for run in read(path)}
    runs = sorted(runs.values(), key=in_order)
    if options.tables:
        with RUNS.open("w", newline="") as file:
            writer = csv.DictWriter(file, runs[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(runs)
    stale = [page for page in PAGES if filled(page.read_text(), runs) != page.read_text()]
    if options.check and stale:
        sys.exit(f"error: {', '.join(page.name for page in stale)}: tables that are not what "
                 f"{RUNS.relative_to(ROOT)} says; run experiments/tables.py")
    for page in stale:
        page.write_text(filled(page.read_text(), runs))


if __name__ == "__main__":
    main()
