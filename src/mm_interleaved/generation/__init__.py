"""Continuing documents: one document's state, words, pictures, scores. `engine.py` is the way in."""
