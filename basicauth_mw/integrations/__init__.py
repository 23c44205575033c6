"""What fits the gate into one framework: a module each, which imports its framework and nobody else does.

Nothing in the package knows of them, and each can be deleted without touching another.
"""
