"""The writes that a recording hides, drawn from a working-set model fitted to it.

A `first-write` trace knows a page's first write in each epoch and none of those that follow (the
model, section 7); an `epoch` trace not even when that was. Scenario `expected` replays the trace
with the rest drawn, seeded: `fit.py` says what is known of each page, `draw.py` draws.
"""

from replay.rewrites.draw import Rewrites
from replay.rewrites.fit import in_words
from replay.rewrites.sightings import Sightings, sightings

__all__ = ["Rewrites", "Sightings", "in_words", "sightings"]
