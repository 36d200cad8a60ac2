"""Write the tables of the docs from the runs behind them, so that no number is typed twice.

    python experiments/plot.py picture.png --by script,policy --table table.csv runs/*
    python experiments/tables.py table.csv        # into experiments/results/unseen.csv and the docs
    python experiments/tables.py --check          # status 1 if a table is not what the runs say

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`: `short`, `every run`
and `of SCRIPT` are of experiments/results/unseen.csv, any other is of results/NAME.csv: returns, or
what a word before says, as in `success_rate of NAME`, `return_worst10 of NAME`. A number of
a sentence has a comment behind it, `63.2<!-- mean of unseen: Wind-v0, rmf_sac_gru, recurrent -->`
(or low, high), and is written anew, too. A run that is given again takes its old row's place in
unseen.csv.
"""

import argparse
import csv
import re
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
RUNS = RESULTS / "unseen.csv"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"rmf_sac_gru": "SAC-GRU", "rmf_td3_lstm": "TD3-LSTM", "ppo_gru_baseline": "PPO-GRU",
           "rmf_sac_discrete_pixels": "discrete SAC-LSTM",
           "varibad_offpolicy": "off-policy variBAD", "vrm": "VRM", "impala_sr": "actor-critic",
           "varibad_onpolicy": "on-policy", "algo varibad": "variBAD", "algo rl2": "RL^2",
           "robust_ppo": "PPO without memory"}
SHORT = {  # rows of the README
    "rmf_sac_gru": "Wind SemiCircle Pendulum-V HalfCheetah-V", "rmf_td3_lstm": "Wind",
    "ppo_gru_baseline": "Pendulum-V CartPole-P",
    "rmf_sac_discrete_pixels": "DelayedCatch KeyToDoor"}
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
    """One decimal, none where scores are in the thousands."""
    return f"{x:.{0 if np.abs(scores).max() >= 1000 else 1}f}"


def scores_of(runs, column="return_mean"):
    return np.array([float(run[f"eval/{column}"]) for run in runs])


def seeds_of(runs):
    seeds = [int(run["seed"]) for run in runs]
    whole = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))


def minutes_of(runs):
    if not all(run["seconds"] for run in runs):
        return "GPU"  # made side by side on one; their minutes say nothing about a laptop
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


def short(runs, every=False):
    """A row for each environment and script that `SHORT` names, or for every one."""
    yield ("| environment | algorithm | recurrent | oracle | Markovian | seeds | env steps | "
           "minutes |")
    yield "|---" * 8 + "|"
    groups = grouped(runs)
    named = [(f"{name}-v0", script) for script in SHORT for name in SHORT[script].split()]
    for env_id, script in groups if every else named:
        cells, policies = [], groups.get((env_id, script))
        if not policies:
            continue
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


def lesson(runs, column="return_mean"):
    """A row for each environment and group, in the order of the settings."""
    groups = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run["env_id"], len(run["group"]), *key(run))):
        groups[run["env_id"], run["group"]].append(run)
    yield f"| environment | agent | seeds | {WORDS[column]}, each seed | mean | minutes |"
    yield "|---" * 6 + "|"
    for (env_id, group), of_group in groups.items():
        scores = scores_of(of_group, column) * (100 if column == "success_rate" else 1)
        words = ", ".join(SCRIPTS.get(part, POLICIES.get(part, part.replace("_", " ")))
                          for part in group.split(", "))
        yield (f"| {env_id} | {words} | {seeds_of(of_group)} | "
               f"{', '.join(number(x, scores) for x in scores)} | "
               f"{number(scores.mean(), scores)} | {minutes_of(of_group)} |")


TABLES = {"every run": every_run, "short": short}
WORDS = {"return_mean": "held-out return", "return_worst10": "mean of the worst 10 %",
         "success_rate": "successes in 100"}
STATISTICS = {"mean": np.mean, "low": np.min, "high": np.max}


def filled(text, runs):
    """A page -> the same with its tables and the numbers of its sentences made anew. runs: name of
    a file in results/ -> its rows."""
    def table(match):
        name = match[2]
        if name in TABLES:
            rows = TABLES[name](runs("unseen"))
        elif name.startswith("of "):
            mine = [run for run in runs("unseen") if run["group"].startswith(name[3:])]
            rows = short(mine, every=True)
        elif " of " in name:
            column, _, name = name.partition(" of ")
            rows = lesson(runs(name), column)
        else:
            rows = lesson(runs(name))
        return match[1] + "\n".join(rows) + "\n" + match[3]

    def value(match):
        scores = scores_of([run for run in runs(match[2])
                            if f"{run['env_id']}, {run['group']}" == match[3]])
        if not len(scores):
            sys.exit(f"error: {match[0]}: no such runs in {match[2]}.csv")
        return number(STATISTICS[match[1]](scores), scores) + match[0][match[0].index("<"):]

    text = re.sub(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end of table -->)", table, text,
                  flags=re.DOTALL)
    return re.sub(r"-?[\d.]+<!-- (mean|low|high) of (\w+): ([^>]+) -->", value, text)


@cache
def read(path):
    try:
        with path.open() as file:
            return list(csv.DictReader(file))
    except OSError:
        sys.exit(f"error: {path}: no such file; plot.py --table writes one")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="*", help="files that plot.py --table wrote")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    if options.tables:
        runs = {key(run): run for path in [RUNS, *options.tables] for run in read(path)}
        with RUNS.open("w", newline="") as file:
            columns = max(runs.values(), key=len)  # older tables know fewer
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(runs.values(), key=in_order))
        read.cache_clear()
    pages = {page: filled(page.read_text(), lambda name: read(RESULTS / f"{name}.csv"))
             for page in PAGES}
    stale = [page for page, text in pages.items() if text != page.read_text()]
    if options.check and stale:
        sys.exit(f"error: {', '.join(page.name for page in stale)}: tables that are not what "
                 f"experiments/results says; run experiments/tables.py")
    for page in stale:
        page.write_text(pages[page])


if __name__ == "__main__":
    main()
