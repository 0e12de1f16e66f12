"""X.509 as pure functions: bytes in, bytes out. No clock, no I/O, no token, no database."""
