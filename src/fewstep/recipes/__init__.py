"""Runs: each file is a Python function or two that return a whole configuration."""
