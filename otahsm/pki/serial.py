"""Serial numbers of certificates: the one place that reads, writes and makes them (RFC 5280, 4.1.2.2)."""

from __future__ import annotations

from typing import Final, Self

from otahsm.errors import RequestRefusedError

SERIAL_BYTES: Final = 20
SERIAL_RANDOM_BYTES: Final = 14

_END: Final = 1 << 8 * SERIAL_BYTES
_RANDOM_BITS: Final = 8 * SERIAL_RANDOM_BYTES
_LEAST_BITS: Final = _RANDOM_BITS - 64  # what is shorter, no good source returns
_TIMES_END: Final = 1 << (8 * (SERIAL_BYTES - SERIAL_RANDOM_BYTES) - 1)  # milliseconds since the Unix epoch
_HEXADECIMAL: Final = frozenset("0123456789abcdef")


class SerialNumber(int):
    """A serial number: positive, and at most 20 octets. It sorts, compares and is hashed as the number."""

    __slots__ = ()

    def __new__(cls, number: int) -> Self:
        """Make one of a number. Raises RequestRefusedError: it is not positive, or too large."""
        if not 0 < number < _END:
            raise RequestRefusedError(
                "serial_number", f"a serial number must be positive and have 1 to {SERIAL_BYTES} octets"
            )
        return super().__new__(cls, number)

    @classmethod
    def from_octets(cls, octets: bytes) -> Self:
        """Read one as messages have it: big-endian; leading zeros don't count. Raises RequestRefusedError."""
        return cls(int.from_bytes(octets, "big"))

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read one as tools print it: in hexadecimal, with or without colons and 0x.

        Raises:
            RequestRefusedError: it is not hexadecimal, or no serial number.
        """
        digits = text.strip().lower().removeprefix("0x").replace(":", "")
        return cls(int(digits, 16) if digits and _HEXADECIMAL.issuperset(digits) else 0)

    @classmethod
    def from_key(cls, key: bytes) -> Self:
        """Read one that is in the ledger, or that a daemon read there.

        A value of another type is returned as it is: one bad row must not hide those beside it.
        """
        return super().__new__(cls, int.from_bytes(key, "big"))

    @property
    def octets(self) -> bytes:
        """As messages have it: big-endian, without leading zeros."""
        return octets_of(self)

    @property
    def key(self) -> bytes:
        """As the ledger has it: 20 octets, big-endian, so that keys sort as numbers do."""
        return self.to_bytes(SERIAL_BYTES, "big")

    @property
    def milliseconds(self) -> int:
        """The time that one of `make_serial` begins with, in milliseconds since 1970."""
        return self >> _RANDOM_BITS

    def hex(self) -> str:
        """Write it in hexadecimal, in whole octets, as OpenSSL does."""
        return octets_of(self).hex()


def make_serial(random: bytes, milliseconds: int) -> SerialNumber:
    """Make a serial number: the time, then 112 random bits.

    Nobody can foretell it, and numbers that are made one after another lie beside each other in an index:
    that keeps issuing into a large ledger as fast as into an empty one.

    Args:
        random: 14 octets from a cryptographic source.
        milliseconds: the time, since the Unix epoch.

    Raises:
        ValueError: it is not 14 octets, or so nearly zero that the source is broken; or the time is not
            after the epoch, or does not fit (after the year 6000).
    """
    number = int.from_bytes(random, "big")
    if len(random) != SERIAL_RANDOM_BYTES or number.bit_length() < _LEAST_BITS:
        raise ValueError("not 14 random octets")
    if not 0 < milliseconds < _TIMES_END:
        raise ValueError(f"{milliseconds} ms is not a valid time for a serial number")
    return SerialNumber(milliseconds << _RANDOM_BITS | number)


def is_made(serial: SerialNumber) -> bool:
    """Return whether `make_serial` may have made a serial number."""
    random = serial & ((1 << _RANDOM_BITS) - 1)
    return 0 < serial.milliseconds < _TIMES_END and random.bit_length() >= _LEAST_BITS


def first_key(milliseconds: int) -> bytes:
    """Return the smallest key that a serial number of `make_serial` may have at a time or after it.

    Args:
        milliseconds: since the Unix epoch; one that no serial number can begin with becomes the nearest.
    """
    return min(max(milliseconds, 0) << _RANDOM_BITS, _END - 1).to_bytes(SERIAL_BYTES, "big")


def octets_of(number: int) -> bytes:
    """Return the octets of any number that is not negative, big-endian, without leading zeros."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
