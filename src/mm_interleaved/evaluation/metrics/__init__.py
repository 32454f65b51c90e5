"""The published measures as pure functions: what was made and what is true go in, numbers come out. No model, no prompt."""
