"""What ``fewstep demo`` costs and gives, in several runs with different seeds: does every figure improve in every one of them?

    python benchmarks/demo.py                            # five runs, about three minutes each; into docs/results/demo.json
    python benchmarks/demo.py --seeds 1007 --add         # one run more, beside those that the file holds
    python benchmarks/demo.py --results out/demo.json --seeds 0 -- --concepts 64    # options of the demo after --

The figures are those of the demo's own table (``fewstep.demo.measured``), of one step before the student was made and after.
Minutes are those of a processor, not of the clock: a loaded machine takes longer, but not more.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from fewstep.demo import figures_of
from fewstep.evaluation.record import write_figures

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "demo.json"
SEEDS = (7, 107, 207, 307, 407)
"""Far enough apart that no two runs draw from the same noise."""


def watched(command: list[str]) -> dict[str, float]:
    """Run a command to its end, looked at ten times a second; returns the minutes of processor that it took and the greatest
    resident memory of it and of all below it, in MiB (pages that they share count for each)."""
    peak = spent = 0.0
    with subprocess.Popen(command) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            resident = 0
            for one in (process, *process.children(recursive=True)):
                try:
                    resident += one.memory_info().rss
                    if one == process:
                        times = one.cpu_times()
                        spent = times.user + times.system
                except psutil.NoSuchProcess:  # it has ended since it was listed
                    continue
            peak = max(peak, resident / 2**20)
            time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"the demo ended with {child.returncode}: nothing is written")
    return {"cpu_minutes": round(spent / 60, 2), "peak_mib": round(peak)}


def once(seed: int, options: Sequence[str]) -> dict[str, Any]:
    """One run of the demo: its seed, what it cost, and ``[before, after]`` of every figure."""
    with tempfile.TemporaryDirectory() as folder:
        cost = watched([sys.executable, "-m", "fewstep.cli", "demo", "--out", folder, "--seed", str(seed), *options])
        found = json.loads((Path(folder) / "figures.json").read_text())
    return {"seed": seed, **cost, **found}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over all runs: the mean of every figure before and after with its least and greatest, in how many runs it improved,
    and in how many runs all of them did."""
    found: dict[str, float] = {"runs": len(runs)}
    for name in ("cpu_minutes", "peak_mib"):
        found |= spread(name, [run[name] for run in runs])
    judged = [figures_of({k: v for k, v in run.items() if isinstance(v, list)}) for run in runs]
    for name in (figure.name for figure in judged[0]):
        same = [figure for one in judged for figure in one if figure.name == name]
        found |= spread(f"{name}_before", [figure.before for figure in same])
        found |= spread(f"{name}_after", [figure.after for figure in same])
        found[f"{name}_better"] = sum(figure.better for figure in same)
    found["all_better"] = sum(all(figure.better for figure in one) for one in judged)
    return found


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean, least and greatest."""
    found = {name: statistics.fmean(values), f"{name}_least": min(values), f"{name}_most": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that the figures are written to")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="one run for each")
    parser.add_argument("--add", action="store_true", help="keep the runs of other seeds that the file holds")
    parser.add_argument("options", nargs="*", help="options of fewstep demo, after --")
    o = parser.parse_args()
    runs = json.loads(o.results.read_text())["each"] if o.add and o.results.is_file() else []
    for seed in o.seeds:
        runs = [run for run in runs if run["seed"] != seed] + [once(seed, o.options)]
        seeds = ["--seeds", *(str(run["seed"]) for run in runs)]
        command = ["python", "benchmarks/demo.py", *seeds, *(["--", *o.options] if o.options else [])]
        write_figures(
            o.results, summary(runs), shlex.join(command), runs
        )  # after every run: a stopped series keeps its runs
        print(runs[-1], flush=True)
    print(summary(runs))


if __name__ == "__main__":
    main()
