"""The decision on a request, without I/O of its own."""
