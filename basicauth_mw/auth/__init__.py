"""Decide on requests. Only the runner performs I/O, through the reader of the backend."""
