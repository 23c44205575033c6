"""Keys as values, and the rules for them: parsing, hashing, validation, life cycle. No I/O."""
