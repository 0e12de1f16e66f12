"""The user PIN: read from its source, or typed and kept for signers."""

from otahsm.token.pin.reading import TYPED, read_pin, read_typed

__all__ = ["TYPED", "read_pin", "read_typed"]
