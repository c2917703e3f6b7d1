"""The HTML report of a finished run: the time of the whole command, and the size of the file.

python benchmarks/reporting.py RUN
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from measure import report


def main(rounds: int = 5) -> None:
    run = sys.argv[1]
    command = Path(sys.executable).with_name("adaptive-depth")
    with tempfile.TemporaryDirectory() as folder:
        page, seconds = Path(folder) / "report.html", []
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run([command, "report", run, "--output", page], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        megabytes = page.stat().st_size / 1e6
    parts = sorted(file.name for file in Path(run).iterdir() if file.suffix in (".json", ".csv", ".png"))
    result = {"targets": "at most 5 s, under 2 MB", "seconds": median(seconds), "megabytes": megabytes, "run": parts}
    report("reporting", result, passed=median(seconds) <= 5 and megabytes < 2)


if __name__ == "__main__":
    main()
