"""Keys in Redis. ``url`` needs no redis-py; everything else does."""
