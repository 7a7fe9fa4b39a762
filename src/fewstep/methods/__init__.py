"""Ways to train: one file each, composed of parts. ``method.py`` is the contract."""
