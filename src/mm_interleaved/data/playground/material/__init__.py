"""Collections beside the pack: what they are (`collection.py`), how each is built from its packages, and how the tasks read it."""
