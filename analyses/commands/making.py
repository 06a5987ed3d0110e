"""Options of all commands that make a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.choices import Compression, metavar

Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="X.trace", help="The trace to make; its name ends in .trace."
    ),
]
Compressed = Annotated[
    Compression,
    typer.Option(metavar=metavar(Compression), help="Compression of the trace's files."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing trace.")]
