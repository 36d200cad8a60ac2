"""Grade a folder of solutions: one changed copy of a script for each exercise, called as its check.

    python docs/exercises/grade.py my_solutions/                     # burn_in.py, time.py, ...
    python docs/exercises/grade.py my_solutions/ --json grades.json

Prints a table and ends with status 0 if all exercises are right, 1 if not, 2 if there is nothing to
grade. The solutions are run: grade those of people you do not know on a machine that you can lose.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMEOUT = 300  # seconds for an exercise; a check takes five to ten
CHECKS = {  # exercise: lesson
    "time": 1, "actor_only": 2, "unclipped": 3, "burn_in": 4, "no_shortcut": 5, "n_step": 6,
    "markov_critic": 7, "past_only": 8}


def graded(name, solution):
    """-> right, wrong or missing; and why, in a line."""
    if not solution.exists():
        return {"result": "missing", "why": f"no {solution.name}"}
    check = HERE / f"test_{name}.py"
    try:
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-o", "addopts=", "-qx", "--tb=short", check],
            cwd=HERE.parents[1], env=os.environ | {"SCRIPT": str(solution)}, text=True,
            capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"result": "wrong", "why": f"did not end within {TIMEOUT} s"}
    if process.returncode == 0 and " passed" in process.stdout:  # a script can leave with status 0
        return {"result": "right", "why": ""}
    said = [line[2:].strip() for line in process.stdout.splitlines() if line.startswith("E ")]
    said = [line for line in said if "Error" in line] or said or [process.stderr.strip()[-100:]]
    why = said[0].removeprefix("AssertionError: ") or "its check did not run to its end"
    return {"result": "wrong", "why": why}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the grades into this file, too")
    options = parser.parse_args()
    folder = options.folder.resolve()
    found = {path.stem for path in folder.glob("*.py")}
    if not found & CHECKS.keys():
        print(f"error: {folder}: no solutions in it; call them " +
              ", ".join(f"{name}.py" for name in CHECKS), file=sys.stderr)
        return 2
    grades = {}
    print("lesson  exercise       result   why")
    for name, lesson in CHECKS.items():
        grades[name] = {"lesson": lesson} | graded(name, folder / f"{name}.py")
        print(f"{lesson:>6}  {name:13}  {grades[name]['result']:7}  {grades[name]['why'][:60]}",
              flush=True)
    for name in sorted(found - CHECKS.keys()):
        print(f"{name}.py: no exercise is called so")
    n_right = sum(grade["result"] == "right" for grade in grades.values())
    print(f"{n_right} of {len(grades)} exercises are right")
    if options.json:
        options.json.write_text(json.dumps(grades, indent=2) + "\n")
    return 0 if n_right == len(grades) else 1


if __name__ == "__main__":
    sys.exit(main())
