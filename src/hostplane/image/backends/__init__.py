"""Where a root's files come from, one module for each way."""
