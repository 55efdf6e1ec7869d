"""The bundle as a host reads it: layout, block index, frames, signatures, trusted keys (docs/reference/bundle.md).

Pure functions over bytes and given readers, for Python 3.6 and the standard library; the image builder uses the same
ones, so that what is written is what is read. Everything is bounded before it is read (`limits`), nothing is decoded
before its digest was checked, and nothing here decides whether an image is wanted: that is the caller's.
"""
