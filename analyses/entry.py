"""The installed program `dirtylog`: the command line, ended by Ctrl-C at any moment without a word.

Importing the commands and reading their options takes a while, in which Python's own handler would
print where it was interrupted.
"""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    # Where it is ignored, as behind nohup, it stays so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from analyses.commands import main as run  # noqa: PLC0415 - see above

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
