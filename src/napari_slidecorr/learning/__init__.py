"""torch lives here and nowhere else."""

import os

# While they wait for each other, torch's threads spin by default. On a machine that does anything else, two threads
# then take 3 to 8 times as long as they need (measured: 3.5 s against 0.45 s a step), and a decoding thread starves.
# OpenMP reads this when torch is loaded; a value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
