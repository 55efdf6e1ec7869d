"""The file systems of an image, one module for each; none is mounted where its format allows to do without."""
