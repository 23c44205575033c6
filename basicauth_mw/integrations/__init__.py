"""Integrations with frameworks: one module for each, the only one that imports its framework.

The rest of the package does not depend on them, nor do they depend on one another.
"""
