"""The soak: steady traffic for a quarter of an hour, while trainings swap the policy under it.

`python -m reliability.soak` (or `make soak`) looks for a request that fails, one that is slow, and memory that grows.
"""
