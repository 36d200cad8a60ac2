"""What is true of presets.toml: all of it can be taken by a script, and is what it should be."""

import importlib
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest

import envs
import rmf_sac_gru as sac
import rmf_td3_lstm as td3
from run import UsageError, parse_args

ROOT = Path(__file__).resolve().parents[1]
TABLE = tomllib.loads((ROOT / "presets.toml").read_text())
HEADINGS = [(kind, scripts, families, values) for kind in TABLE
            for scripts, part in TABLE[kind].items() for families, values in part.items()]
FAMILIES = {env_id.split("-")[0] for env_id in envs.ENVIRONMENTS}


def parsed(script, *flags):
    return parse_args(script.Args, script.__name__, list(flags))


# --- HEADINGS AND KEYS ----------------------------------------------------------------------------


def test_there_are_two_tables():
    assert set(TABLE) == {"ours", "paper"}


@pytest.mark.parametrize("kind, scripts, families, values", HEADINGS, ids=lambda x: str(x)[:40])
def test_a_heading_names_what_exists_and_its_values_are_those_of_flags(
        kind, scripts, families, values, capsys):
    assert all((ROOT / f"{name}.py").is_file() or (ROOT / "comparators" / f"{name}.py").is_file()
               for name in scripts.split())
    assert families == "all" or set(families.split()) <= FAMILIES
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    flags = [word for k, v in values.items() for word in (
        "--" + k.replace("_", "-"), *map(str, v if isinstance(v, tuple) else [v]))]
    for name in scripts.split():
        script = importlib.import_module(name)
        assert values.keys() <= {f.name for f in fields(script.Args)}
        script.Args(**values)
        # On a command line each word would be refused that is not of the field's type.
        args = parse_args(script.Args, "no script: no preset", flags)
        assert {k: getattr(args, k) for k in values} == values
        assert all(type(getattr(args, k)) is type(v) for k, v in values.items())


def test_ours_says_nothing_that_is_so_without_it():
    said = {}  # (script, family) -> fields, as they are after the headings so far
    for kind, scripts, families, values in HEADINGS:
        if kind == "ours":
            pairs = [(s, f) for s in scripts.split() for f in families.split()]
            now = [said.setdefault(p, asdict(importlib.import_module(p[0]).Args())) for p in pairs]
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            assert [k for k, v in values.items() if all(n[k] == v for n in now)] == [], families
            for n in now:
                n |= values


# --- WHAT A SCRIPT MAKES OF THEM ------------------------------------------------------------------

NAMES = ("total_timesteps", "gamma", "td_lambda", "hidden_sizes", "learning_starts",
         "updates_per_step", "tau", "inputs")
# Family -> the values of these fields; where SAC and TD3 differ, both.
OURS = {
    "Wind": (187_500, 0.95, {sac: 0.5, td3: 0.7}, (64, 64), 75_000, {sac: 1 / 30, td3: 1 / 20},
             0.02, "oa"),
    "SemiCircle": (432_000, 0.95, {sac: 0.5, td3: 0}, (64, 64), 48_000, 0.025, 0.02, "or"),
    "Pendulum": (30_000, 0.95, 0, (64, 64), 2_000, 0.4, 0.02, "oar"),
    "HalfCheetah": (200_000, 0.99, 0, (128, 128), 10_000, 0.2, 0.005, "oa"),
    "HopperRobust": (200_000, 0.99, 0, (128, 128), 10_000, 0.2, 0.02, "o"),
    "CheetahVel": (500_000, 0.99, 0, (128, 128), 40_000, 0.1, 0.005, "oar"),
}
PAPER = {
    "Wind": (757_500, 0.9, 0, (128, 128), 7_500, 2 / 3, 0.005, "oa"),
    "SemiCircle": (1_548_000, 0.9, 0, (128, 128), 48_000, 1 / 3, 0.005, "or"),
    "Pendulum": (51_000, 0.9, 0, (128, 128), 1_000, 1, 0.005, "oar"),
    "HalfCheetah": (1_510_000, 0.99, 0, (256, 256), 10_000, 1, 0.005, "oa"),
    "HopperRobust": (3_010_000, 0.99, 0, (256, 256), 10_000, 0.2, 0.005, "o"),
    "CheetahVel": (5_200_000, 0.99, 0, (128, 128, 128), 200_000, 0.02, 0.005, "oar"),
}


@pytest.mark.parametrize("script", [sac, td3], ids=lambda s: s.__name__)
@pytest.mark.parametrize("family", OURS)
def test_the_values_are_those_that_the_results_were_made_with(family, script):
    for table, flags in ((OURS, []), (PAPER, ["--paper"])):
        args = parsed(script, "--env-id", f"{family}-v0", *flags)
        expected = [v[script] if isinstance(v, dict) else v for v in table[family]]
        assert [getattr(args, name) for name in NAMES] == expected


@pytest.mark.parametrize("family", sorted(FAMILIES - {
    "DelayedCatch", "DelayedCatch5", "DelayedCatch10", "DelayedCatch20", "KeyToDoor", "CartPole",
    "LunarLander"}))
def test_the_papers_recipe_is_the_same_for_sac_and_td3_but_for_the_kind_of_memory(family):
    ours, theirs = (asdict(parsed(s, "--paper", "--env-id", f"{family}-v0")) for s in (sac, td3))
    differ = {k for k in ours.keys() & theirs.keys() if ours[k] != theirs[k]}
    assert differ <= {"rnn"} and theirs["saturation_cost"] == 0 and ours["alpha"] == "auto"
    assert differ == ({"rnn"} if family in ("Wind", "SemiCircle") else set())
    assert ours["td_lambda"] == ours["rewarded_fraction"] == ours["anneal_lr"] == 0
    assert ours["learning_rate"] == 3e-4 and ours["tau"] == 0.005


def test_a_family_is_an_id_up_to_its_first_dash_with_or_without_a_module():
    wind, pendulum = (parsed(sac, "--env-id", i) for i in ("Wind-v0", "Pendulum-P-v0"))
    assert asdict(parsed(sac, "--env-id", "envs:Wind-v0")) == asdict(wind) | {
        "env_id": "envs:Wind-v0"}
    assert asdict(parsed(sac, "--env-id", "Pendulum-V-v0")) == asdict(pendulum) | {
        "env_id": "Pendulum-V-v0"}
    for stranger in ("Windy-v0", "wind-v0", "PendulumShort-v0"):
        assert asdict(parsed(sac, "--env-id", stranger)) == asdict(sac.Args(env_id=stranger))


def test_a_flag_wins_and_the_run_says_what_it_took_from_where(capsys):
    args = parsed(sac, "--gamma", "0.5", "--td-lambda", "0.5", "--rnn", "lstm")
    assert args.gamma == 0.5 and args.td_lambda == 0.5 and args.tau == 0.02
    preset, flags = capsys.readouterr().out.splitlines()
    assert preset.startswith("preset of Wind: ") and "gamma=0.95" in preset and "tau=0.02" in preset
    assert flags == "flags: rnn=lstm gamma=0.5"  # 0.5 is lambda's preset
    parsed(sac, "--env-id", "Stranger-v0")
    assert capsys.readouterr().out.splitlines()[0] == "preset of Stranger: none"


def test_a_recipe_that_was_not_published_is_refused():
    for env_id in ("Stranger-v0", "CartPole-V-v0", "all-v0"):
        with pytest.raises(UsageError, match=f"--paper: .*{env_id}"):
            parsed(sac, "--paper", "--env-id", env_id)
