"""How much `import spd_weights` costs over `import timm`, which it needs: fresh processes, one after another.

    python -m tests.bench.import_time [PROCESSES]

Each process imports timm and then spd_weights. Prints one JSON object: the median processor seconds of either (so
other programs do not count), and `ratio`, of both together to timm alone, the median and the extremes.
"""

import json
import statistics
import subprocess
import sys

_IMPORTS = """
import time
start = time.process_time()
import timm
between = time.process_time()
import spd_weights
print(between - start, time.process_time() - between)
"""


def main() -> None:
    """Measure."""
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    measure()  # compiled and in the page cache from here on
    times = [measure() for _ in range(processes)]
    ratios = sorted((timm + ours) / timm for timm, ours in times)
    timm, ours = (statistics.median(column) for column in zip(*times, strict=True))
    found = {"timm": timm, "more": ours, "ratio": statistics.median(ratios), "from": ratios[0], "to": ratios[-1]}
    print(json.dumps(found))


def measure() -> tuple[float, float]:
    """Processor seconds of `import timm`, and of `import spd_weights` after it."""
    done = subprocess.run([sys.executable, "-c", _IMPORTS], check=True, capture_output=True, text=True)
    timm, ours = map(float, done.stdout.split())
    return timm, ours


if __name__ == "__main__":
    main()
