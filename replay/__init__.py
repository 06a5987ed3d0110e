"""What a migration does to a trace: the replay, its strategies and the verdict."""
