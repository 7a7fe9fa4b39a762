r"""Quality against variety: models of a results file beside their teacher, as one picture; all of them, or those that are named.

    python benchmarks/front.py docs/results/emoji64_winner.json docs/pictures/winner_front.svg
    python benchmarks/front.py docs/results/emoji64_means.json docs/pictures/means_front.svg shipped_before regression drifting \
        mean_of_three mean_of_four

Both axes are ratios to the teacher's figure at its 50 steps, with paired 95% intervals. A model's points, one a number of
steps, are joined in the order of the steps.
"""

import re
import sys
from importlib.resources import files
from pathlib import Path

from fewstep.evaluation.compare import paired
from fewstep.evaluation.record import MetricRecord, read_records
from fewstep.report.plot import Point, Reference, Series, lines

JUDGE = "mobilenet-v2"


def of(records: list[MetricRecord], model: str, steps: int, metric: str) -> MetricRecord:
    return next(
        r for r in records if (r.model, r.steps, r.metric) == (model, steps, metric) and r.features.startswith(JUDGE)
    )


def main() -> None:
    results, picture = map(Path, sys.argv[1:3])
    records = read_records(results)
    series = []
    for model in sys.argv[3:] or dict.fromkeys(r.model for r in records if r.model not in ("teacher", "real")):
        points = []
        for steps in sorted({r.steps for r in records if r.model == model}):
            across, up = (
                paired(of(records, model, steps, metric), of(records, "teacher", 50, metric)).ratio
                for metric in ("pairwise_distance", "fd")
            )
            assert across is not None, "a distance is above 0"
            assert up is not None, "a distance is above 0"
            label = f"{model}, {steps} steps"
            points.append(Point(across.value, up.value, up.low, up.high, across.low, across.high, label))
        series.append(Series(model, points))
    drawn = lines(
        series,
        "variety: pairwise distance over the teacher's (more is better)",
        "Fréchet distance over the teacher's (less is better)",
        references=[Reference("the teacher", 1.0)],
        title="Quality against variety, one and four steps",
        markers=True,
    )
    found = re.search(r"<svg.*?</svg>", drawn, re.S)
    assert found is not None, "a plot is SVG"
    style = (files("fewstep.report") / "page.css").read_text(encoding="utf-8")
    alone = found[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    picture.write_text(alone.replace(">", f"><style>{style}</style>", 1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
