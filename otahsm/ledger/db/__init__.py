"""What differs between SQLite and PostgreSQL, and everything else about connections."""
