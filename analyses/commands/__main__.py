"""`python -m analyses.commands` is `dirtylog`."""

from analyses.commands import main

main()
