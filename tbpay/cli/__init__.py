"""The command line, ``tbpay GROUP VERB``: the way in, which imports only what it must."""

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

from tbpay import __version__

if TYPE_CHECKING:
    from tbpay.cli.root import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line of this process."""
    # Importing makes objects that all stay: looking for garbage among them is a tenth of the wait.
    gc.set_threshold(100_000)
    if sys.argv[1:] == ["--version"] and _is_written(f"tbpay {__version__}\n"):
        return
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # While there is nothing to take back, Ctrl-C ends the process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tbpay.cli.root import run

    run()


def _is_written(line: str) -> bool:
    """Write a line without waiting for the parser; where that fails, the usual way says why."""
    try:
        return os.write(1, line.encode()) == len(line)
    except OSError:
        return False


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'tbpay.cli' has no attribute {name!r}")
    from tbpay.cli.root import app

    return app
