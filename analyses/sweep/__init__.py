"""Many replays: traces by strategies by parameters, on the cores of a machine or on a cluster.

plan.py says which, worker.py does some of them, executors.py has them done elsewhere, run.py keeps
them going, and results.py puts them down.
"""
