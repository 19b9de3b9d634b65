"""Child processes that do not outlive the one who started them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn`: the kernel sends this signal when the *thread* that started the child ends, so start from the main thread.

    None where the system has no such thing; the next start then stops what was left behind.
    """
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork: between fork and exec nothing may allocate or take a lock.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask_for_the_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal_number))
        if os.getppid() != parent:
            # The parent died before the call above.
            os._exit(1)

    return ask_for_the_signal
