"""Connections, and the differences between SQLite and PostgreSQL."""
