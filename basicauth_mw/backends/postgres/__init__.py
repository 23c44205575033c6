"""``postgresql:`` - keys in PostgreSQL."""
