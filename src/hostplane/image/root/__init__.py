"""A root as a tree of files: what is put into it, and how its paths are read."""
