"""Judges: networks that measure pictures, each in a process and an environment of its own. ``judge.py`` has the contract."""
