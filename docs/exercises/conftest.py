"""Loads the script that you changed: SCRIPT=my_copy.py pytest docs/exercises/test_burn_in.py"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def script():
    path = os.environ.get("SCRIPT")
    if not path:
        pytest.fail("name the copy that you changed: SCRIPT=my_copy.py pytest docs/exercises/...")
    spec = importlib.util.spec_from_file_location("changed_script", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["changed_script"] = module
    spec.loader.exec_module(module)
    return module
