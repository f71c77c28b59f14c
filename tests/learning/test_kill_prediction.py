import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_prediction.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked here")
def test_a_prediction_that_is_killed_goes_on_to_the_same_map(tmp_path):
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--json", str(tmp_path / "told.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["kills"], told["unequal_maps"], told["false_complete"]) == (3, 0, 0)
    assert told["kills_while_writing"] > 0
    assert told["finished_maps"] > 0
