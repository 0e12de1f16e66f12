"""How commands print and write: fields, times, progress, JSON and files."""
