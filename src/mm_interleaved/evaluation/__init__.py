"""Measuring a model on held-out samples: pure scorers, resumable runs, figures with intervals. `playground.py` is the way in."""
