"""``sqlite:``: keys in one SQLite file, the embedded default."""
