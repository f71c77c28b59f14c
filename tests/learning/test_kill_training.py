"""Trainings in processes of their own, killed at random moments and resumed."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_training.py"


def test_killed_trainings_resume_to_the_very_weights(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, SCRIPT, "--trials", "2", "--seed", "1", "--json", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["kills"] == 2, done.stdout
    assert figures["unequal_resumes"] == 0, done.stdout
    assert figures["broken_checkpoints"] == 0, done.stdout
