"""Export and import of keys."""
