"""Threads, forks, locks and optional imports. Nothing here knows about keys or requests."""
