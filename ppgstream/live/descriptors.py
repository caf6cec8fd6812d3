"""How many descriptors a daemon may have, and whether hardly any is left: each connection takes one."""

from __future__ import annotations

import errno
import os
import resource

from ppgstream.errors import SourceError

LEAST = 64  # that a daemon needs to be of any use
SPARE = 1024  # fewer left are few; or a quarter of all, if these are fewer


def most_descriptors() -> int:
    """How many descriptors this process may have."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if most == resource.RLIM_INFINITY else most


def check_descriptors() -> None:
    """Raises SourceError if this process may have fewer descriptors than a daemon needs."""
    if (most := most_descriptors()) < LEAST:
        raise SourceError(f"{most} descriptors are too few: a daemon needs {LEAST} and one for each connection (ulimit -n)")


def are_short() -> bool:
    """Whether hardly any descriptor is left, by the number that a new one gets: the lowest that is free."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    os.close(lowest)
    return lowest >= most_descriptors() - min(most_descriptors() // 4, SPARE)
