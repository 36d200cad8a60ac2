"""Run scripts x environments x flags x seeds, as a small table (TOML) says, and pick up what broke.

    python experiments/grid.py experiments/lessons/policies.toml --runs-dir runs/lessons --workers 2
    python experiments/grid.py experiments/lessons/policies.toml --runs-dir runs/lessons --list
    python experiments/grid.py experiments/lessons/policies.toml --runs-dir runs/ray --engine ray

In the table, each [[run]] has a `script`, `seeds`, and flags of that script; a list of scripts or
of values means one run for each of them (a flag that takes several values: a list of lists). Keys
above the first [[run]] hold for all, those in it win.

    script = "rmf_sac_gru.py"
    seeds = [1, 2, 3]
    [[run]]
    env_id = "Wind-v0"
    policy = ["recurrent", "markov", "oracle"]

Each run is a process of its own, with a folder of its own under --runs-dir that holds its log. A
run that is finished is skipped, a broken one goes on from its checkpoint: start the same command
again after any interruption. Runs that two tables share are made once, if --runs-dir is the same.
After changing a script or a preset take a new --runs-dir: finished runs are not made again.

--engine ray spreads the runs over a Ray cluster whose machines share this folder (`pip install
ray`; --address for one that is up, else a local one with --workers workers). Ray starts a run again
when its worker dies, and the run resumes.
"""

import argparse
import csv
import fcntl
import hashlib
import itertools
import json
import subprocess
import sys
import time
import tomllib
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ATTEMPTS = 3  # a run that was killed, or that failed, is started this often


def jobs_of(table):
    """Parsed TOML -> {name: [script, flag, value, ...]}."""
    common = {k: v for k, v in table.items() if k != "run"}
    jobs = {}
    if not isinstance(table.get("run"), list):
        sys.exit("error: the table has no [[run]], in two brackets")
    for run in table["run"]:
        run = common | run
        scripts, seeds = run.pop("script", None), run.pop("seeds", [1])
        scripts = scripts if isinstance(scripts, list) else [scripts]
        if "seed" in run or not isinstance(seeds, list):
            sys.exit("error: seed: say seeds = [1, 2], a list, in the table")
        for script in scripts:
            if not (isinstance(script, str) and (ROOT / script).is_file()):
                sys.exit(f"error: script = {script!r}: name a script of this folder in each "
                         "[[run]], or a list of them")
        values = [v if isinstance(v, list) else [v] for v in run.values()]
        for script, seed, *chosen in itertools.product(scripts, seeds, *values):
            flags = dict(zip(run, chosen)) | {"seed": seed}
            name = "__".join([Path(script).stem, *(f"{k}-{flags[k]}" for k in sorted(flags))])
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            if len(name) > 150:  # too long for a folder's name
                name = name[:140] + "-" + hashlib.sha1(name.encode()).hexdigest()[:8]
            jobs[name] = [script, *itertools.chain(*map(as_flag, flags.items()))]
    return jobs


def as_flag(item):
    """("env_id", "Wind-v0") -> ["--env-id", "Wind-v0"]; true and false are --x and --no-x."""
    flag, value = item[0].replace("_", "-"), item[1]
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]


def state_of(folder):
    """Folder of a job -> share that is done (1: finished), run folder to go on from or None."""
    for config in sorted(folder.glob("*/config.json"), reverse=True):  # the newest first
        run = config.parent
        table, checkpoint = run / "metrics.csv", run / "checkpoint.pt"
        total = json.loads(config.read_text())["args"]["total_timesteps"]
        rows = []
        if table.exists():
            with table.open() as file:
                rows = list(csv.DictReader(file))
        done = float(rows[-1]["env_step"]) / total if rows else 0.0
        # The last row comes first, then the checkpoint that belongs to it.
        complete = done >= 1 and checkpoint.exists() and checkpoint.stat().st_size > 0 and (
            checkpoint.stat().st_mtime_ns >= table.stat().st_mtime_ns)
        return (1.0 if complete else min(done, 0.99)), run
    return 0.0, None


def run_job(name, command, runs_dir):
    """Start or resume one run and wait for it -> 0 if it is finished."""
    folder = Path(runs_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    # The run itself inherits this lock. So if only we are killed and started again, we wait for the
    # run that is still alive instead of starting a second one in the same folder.
    with (folder / "lock").open("w") as lock, (folder / "log.txt").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, run = state_of(folder)
        if done == 1:
            return 0
        script, *flags = command
        if run:  # an id with a module has to be named again
            i = flags.index("--env-id") if "--env-id" in flags else len(flags)
            flags = ["--resume", str(run), *flags[i : i + 2]]
        else:
            flags += ["--runs-dir", str(folder)]
        status = subprocess.run([sys.executable, script, *flags], cwd=ROOT, stdout=log, stderr=log,
                                pass_fds=[lock.fileno()]).returncode
    return status


def locally(jobs, runs_dir, workers):
    """Run all jobs on this machine; yields (name, exit status) as they end."""
    pool = ThreadPoolExecutor(workers)
    running = {pool.submit(run_job, name, jobs[name], runs_dir): (name, 1) for name in jobs}
    try:
        while running:
            ended, _ = wait(running, timeout=10, return_when=FIRST_COMPLETED)
            for future in ended:
                name, attempt = running.pop(future)
                status = future.exception() or future.result()
                if status and attempt < ATTEMPTS:
                    running[pool.submit(run_job, name, jobs[name], runs_dir)] = name, attempt + 1
                else:
                    yield name, status
            if not ended:
                yield None, None  # time to show progress
    finally:  # after Ctrl-C, too: what has not begun does not begin
        pool.shutdown(cancel_futures=True)


def on_ray(jobs, runs_dir, workers, address):
    """The same on a Ray cluster."""
    try:
        import ray
    except ImportError:
        sys.exit("error: --engine ray: Ray is not installed; pip install ray")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        ray.init(num_cpus=workers, log_to_driver=False, include_dashboard=False)
    # max_retries: a worker that dies; retry_exceptions: a run that ends with an error.
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, retry_exceptions=True)(run_or_raise)
    running = {remote.remote(name, jobs[name], str(Path(runs_dir).resolve())): name
               for name in jobs}
    while running:
        ended, _ = ray.wait(list(running), timeout=10)
        for reference in ended:
            name = running.pop(reference)
            try:
                yield name, ray.get(reference)
            except Exception:  # what went wrong is in the run's log
                yield name, 1
        if not ended:
            yield None, None
    ray.shutdown()


def run_or_raise(name, command, runs_dir):
    status = run_job(name, command, runs_dir)
    if status:
        raise RuntimeError(f"{name}: exit status {status}")
    return status


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="TOML file")
    parser.add_argument("--runs-dir", type=Path, required=True, help="folder for all its runs")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address", help="of a Ray cluster that is up; `auto` finds it")
    parser.add_argument("--list", action="store_true", help="show what is done, run nothing")
    options = parser.parse_args()
    if options.workers < 1:
        sys.exit(f"error: --workers {options.workers}: must be 1 or more")
    try:
        jobs = jobs_of(tomllib.loads(options.table.read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        sys.exit(f"error: {options.table}: {error}; see --help for what a table looks like")
    runs_dir = options.runs_dir.resolve()

    def shares():
        return {name: state_of(runs_dir / name)[0] for name in jobs}

    done = shares()
    if options.list:
        for name, share in done.items():
            print(f"{share:5.0%}  {name}")
        return
    todo = {name: command for name, command in jobs.items() if done[name] < 1}
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} finished before", flush=True)
    started, at_start, failed = time.monotonic(), sum(done.values()), []
    results = (on_ray(todo, runs_dir, options.workers, options.address) if options.engine == "ray"
               else locally(todo, runs_dir, options.workers))
    for name, status in results:
        now, minutes = sum(shares().values()), (time.monotonic() - started) / 60
        left = (len(jobs) - now) * minutes / (now - at_start) if now > at_start else float("nan")
        text = f"{now:.1f} of {len(jobs)} runs | {minutes:.1f} min | {left:.0f} min left"
        if name is None:
            print(text, end="\r" if sys.stdout.isatty() else "\n", flush=True)
            continue
        log = runs_dir / name / "log.txt"
        words = [line for line in log.read_text().splitlines() if any(map(str.isalnum, line))]
        failed += [name] if status else []
        print(f"{text} | {'FAILED ' if status else ''}{name}: {words[-1] if words else status}",
              flush=True)
    if failed:
        sys.exit(f"error: {len(failed)} runs failed: {' '.join(failed)}; each folder has a log.txt")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
