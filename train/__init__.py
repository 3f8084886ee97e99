"""SPot-the-Difference pre-training: `accelerate launch -m train simsiam --data.train DIR --out RUN`."""

import os

# OpenMP threads wait for each other by spinning. If other processes need the cores too, the thread that is waited for
# does not run, and a step takes several times as long. So threads spin for about a tenth of a millisecond and then
# sleep. To sleep at once (OMP_WAIT_POLICY=PASSIVE) costs a tenth of the time where the cores are free. This must be set
# before torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
