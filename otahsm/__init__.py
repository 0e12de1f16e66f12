"""otahsm issues device certificates for over-the-air fleets from a key that never leaves its HSM."""

__version__ = "0.1.0"
