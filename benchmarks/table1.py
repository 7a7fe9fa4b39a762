"""The paper's Table 1 (Sauer et al. 2023, arXiv 2311.17042) beside ours, on digits: every row trained, and one page of it.

    python benchmarks/table1.py [--seeds 0 1 2] [--page-only]

The rows are those of ablation.py, judged by a classifier that took part in no training and by pixels, which are no network.
Every training goes into ``docs/results/table1_digits.json`` as soon as it ends (``table1_sizes.json`` where students and
teachers differ in size, ``table1_longer.json`` and ``table1_sizes_longer.json`` for rows that are trained longer), so stop and
continue at will. Then ``docs/table1.md`` and ``docs/table1_offline.html`` are written from what stands there.
"""

from __future__ import annotations

import argparse

import ablation
import table1_page

RESULTS = ablation.HOUSE / "docs" / "results"
COMMON = "--updates {} --warm 100 --pairs 512 --batch 16 --pictures 40 --steps 1 --judges classifier pixels"
PARTS = ("add_sds", "add_nfsd", "image_only", "text_and_image", "untrained_features", "wide_features", "teacher_steps_2",
         "add", "without_conditioning", "distillation_only", "adversarial_only", "random_init", "teacher_features",
         "teacher_steps_4")  # fmt: skip
SIZES = tuple(name for name, row in ablation.ROWS.items() if row.teacher_width)
TEACHERS = tuple(name for name in ablation.TEACHERS if name != "teacher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="seeds of the trainings")
    parser.add_argument("--rows", nargs="+", default=PARTS, choices=PARTS, help="rows of parts a to d and f")
    parser.add_argument("--page-only", action="store_true", help="train nothing, and write the pages of what is there")
    o = parser.parse_args()
    bench = None
    for seed in () if o.page_only else o.seeds:
        parts = ["--rows", *o.rows, "--seeds", seed, "--out", str(RESULTS / "table1_digits.json")]
        bench = ablation.main([*COMMON.format(150).split(), *parts], bench)
        sizes = ["--rows", *TEACHERS, *SIZES, "--seeds", seed, "--sizes", "200", "--teacher-steps", "8"]
        ablation.main([*COMMON.format(75).split(), *sizes, "--out", str(RESULTS / "table1_sizes.json")], bench)
        longer = ["--rows", "distillation_only", "--seeds", seed, "--out", str(RESULTS / "table1_longer.json")]
        ablation.main([*COMMON.format(table1_page.LONGER).split(), *longer], bench)
        longer = ["--rows", *table1_page.SIZED, "--seeds", seed, "--sizes", "200"]
        longer += ["--out", str(RESULTS / "table1_sizes_longer.json")]
        ablation.main([*COMMON.format(table1_page.SIZED_LONGER).split(), *longer], bench)
    made = table1_page.sheet(RESULTS, ["python benchmarks/table1.py"])
    pages = {"table1.md": made.markdown(), "table1_offline.html": made.html()}
    for name, text in pages.items():
        (RESULTS.parent / name).write_text(text, "utf-8")
        print(f"wrote {RESULTS.parent / name}")


if __name__ == "__main__":
    main()
