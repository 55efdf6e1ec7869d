"""The host's disk: which partitions are its slots, whether one may be written, and its bytes from and to the medium."""
