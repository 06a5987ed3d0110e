"""Live sources of traces, one file each: what has to run, what is asked of it, what is kept."""
