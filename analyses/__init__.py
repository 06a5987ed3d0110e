"""What a person wants to know of traces and replays, and the ways to show it."""
