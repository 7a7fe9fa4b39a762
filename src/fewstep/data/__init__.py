"""Datasets: one file each, named as on the command line. ``dataset.py`` is the form they all take on disk.

A file of the family holds ``Options`` (a frozen dataclass) and ``build(options, folder, progress) -> Dataset``;
one that leaves things out holds ``told(folder) -> str`` too, which says what, when the dataset is built.
Files of the family never import each other; files that begin with an underscore are shared tools, not datasets.
"""
