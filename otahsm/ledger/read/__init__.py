"""Queries, on read-only connections."""
