"""Datasets: one file each, named as on the command line. ``dataset.py`` is the form they all take on disk.

A file of the family holds ``Options`` (a frozen dataclass) and ``build(options, folder, progress) -> Dataset``.
Files of the family never import each other; files that begin with an underscore are shared tools, not datasets.
"""
