"""Whose processor computes: the products that PyTorch takes from Intel's MKL and oneDNN take other ways on other makers' processors."""

import platform
import sys
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@cache
def is_intel() -> bool:
    """Whether this machine's processor is Intel's; False where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return "Intel" in platform.processor()
    try:
        return "GenuineIntel" in _CPUINFO.read_text(errors="replace")
    except OSError:
        return False
