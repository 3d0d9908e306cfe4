"""Being told to stop: the first signal asks for an orderly end, the second one is obeyed at once.

SIGINT (Ctrl-C) and SIGTERM (a cluster that takes the machine away) only set a mark, at which the
training looks after each batch; it saves a checkpoint and raises `Interrupted`:

    with stop_requests() as request:
        for batch in data:
            step(batch)
            if request.signal:
                save()
                raise Interrupted(request.signal, "Stopped; go on with --resume.")
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = "\nStopping as soon as this step is saved; a second signal stops at once.\n"


class Interrupted(Exception):  # noqa: N818 - nothing is wrong
    """A training stopped because it was told to, after saving its state.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class StopRequest:
    """Whether a signal has come.

    Attributes:
        signal: Its number; 0 as long as there was none.
    """

    signal: int = 0


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches SIGINT and SIGTERM in the block; elsewhere than in the main thread it catches none.

    Yields:
        The request to look at.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python lets only the main thread handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = number
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _MESSAGE.encode())
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # ends even a process that is deep in a kernel

    before = {each: signal.signal(each, ask) for each in _SIGNALS}
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
