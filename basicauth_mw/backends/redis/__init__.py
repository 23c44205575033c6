"""``redis:`` - keys in Redis 6.2 and up, or Valkey: one server, Sentinel or Cluster."""

from .store import RedisStore

__all__ = ["RedisStore"]
