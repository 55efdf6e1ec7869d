"""The upgrade bundle: written, signed, read back and compared."""
