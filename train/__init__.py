"""SPot-the-Difference pre-training: `accelerate launch -m train simsiam --data.train DIR --out RUN`."""

import os

# OpenMP threads wait for each other by spinning. If other processes need the cores too, the thread that is waited for
# does not run, and a step takes several times as long. This must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
