"""Stage after stage: what is made again and why, where it is kept, and the worker that makes it."""
