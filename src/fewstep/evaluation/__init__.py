"""Measuring a model: pure functions in float64, one metric family a file, joined only in ``evaluate.py``.

Everything takes features or pixels that are already there; ``evaluate.py`` draws, measures and writes ``record.MetricRecord``s.
"""
