"""A limit on the time that a target may take for one call."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NoReturn

SECONDS = 60.0
"""For one call, unless told otherwise."""

TRIES = 5
"""How often a target is interrupted that swallows the interruption; then the whole command ends."""


class OutOfTime(BaseException):
    """Raised inside a target that takes too long; no exception of the usual kind, so that it is not caught by habit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what runs inside after so many seconds, by `OutOfTime`.

    The interruption is a signal: it ends Python code, sleeping and waiting, but not a hang inside compiled code. It
    comes again every second; what swallows `TRIES` of them ends the process, with status 2 and one sentence.
    Outside the main thread, and where there are no such signals (Windows), there is no limit.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    tries = count(1)

    def interrupt(*_: Any) -> NoReturn:
        if next(tries) > TRIES:
            os.write(2, b"Error: the target took too long, and swallows what interrupts it: a bare except in a loop?\n")
            os._exit(2)
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again every second, should the first one be swallowed; a limit of the caller's own waits meanwhile.
    waiting = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *waiting)
