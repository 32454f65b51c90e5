"""The command line: one file per verb — parse, call the library function, write. Only this folder prints."""

from __future__ import annotations

import os

_SPINS = "1000"

if "OMP_WAIT_POLICY" not in os.environ:
    # A thread of GNU OpenMP that waits for the others turns in a loop, some milliseconds by default, before it sleeps. Where other
    # programs have the cores, it keeps the very thread that it waits for from its core: beside two busy processes on two cores
    # `mmi generate` of one story had not ended after 60 s, with this it took 25; alone they are alike. torch reads it when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
