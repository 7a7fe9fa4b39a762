"""What ``fewstep demo`` costs and gives: its time, the memory of all its processes, and how near its student comes.

    python benchmarks/demo.py [options of fewstep demo]          # about three minutes; default into docs/results/demo.json
    python benchmarks/demo.py --results out/demo.json --concepts 64 --seconds 5 5

The distance is the root mean square between the one-step pictures and the teacher's at its full steps, from the same noise,
before the student was made and after; sharpness is the share of the real drawings' high frequencies.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from fewstep.evaluation.record import write_figures

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "demo.json"


def tree_mib(process: psutil.Process) -> float:
    """Resident memory of a process and all below it; pages that they share count for each."""
    resident = 0
    for one in (process, *process.children(recursive=True)):
        try:
            resident += one.memory_info().rss
        except psutil.NoSuchProcess:  # it has ended since it was listed
            continue
    return resident / 2**20


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; returns its seconds and the greatest memory seen, looked at ten times a second."""
    began, peak = time.monotonic(), 0.0
    with subprocess.Popen(command) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, tree_mib(process))
            time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"the demo ended with {child.returncode}: nothing is written")
    return time.monotonic() - began, peak


def shown(table: str) -> dict[str, float]:
    """Distance and high frequencies before and after, from the demo's own table."""
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.M)
    return {
        f"{what}_{when}": float(value)
        for when, (_, _, highs, distance) in zip(("before", "after"), rows, strict=True)
        for what, value in (("highs", highs), ("distance", distance))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that the figures are written to")
    o, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fewstep.cli", "demo", "--out", folder, *options]
        seconds, peak = watched(command)
        found = shown((Path(folder) / "table.md").read_text())
    figures = {"minutes": round(seconds / 60, 2), "peak_mib": round(peak), **found}
    write_figures(o.results, figures, shlex.join(["python", "benchmarks/demo.py", *options]))
    print(figures)


if __name__ == "__main__":
    main()
