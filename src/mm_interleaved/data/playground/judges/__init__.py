"""Judges of the larger tasks: nearest of all rivals (`contrast`), and two small networks trained apart (`networks`)."""
