"""Recorders: traces of guests that run now, one file each."""
