"""The distributions, one data file each."""
