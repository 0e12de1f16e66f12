"""Tokens that are real, odd, faulty, or those of devices."""
