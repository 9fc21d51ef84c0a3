"""What several benchmarks measure or start in the same way; light enough for any process."""

import os
import resource
from pathlib import Path

DATA = Path("../shared/data")


def peak_gb() -> float:
    """Return the process's peak memory so far, in GB."""
    # Not getrusage where there is another way: its peak begins with that of the parent process.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def rival_environment() -> dict[str, str]:
    """Return the variables for the retired package's Python."""
    # A path to our sources must not lead it to this package.
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
