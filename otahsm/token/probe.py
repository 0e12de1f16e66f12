"""A worker that measures what this token and this machine can do. `python -m otahsm.token.probe`.

For a batch, it does one thing for a given time, in all its sessions, and returns how often it did it:

- `sign`: C_Sign and nothing else
- `floor`: the crypto floor, the least that one certificate costs: verify the signature of a CSR, C_Sign,
  verify the result
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cryptography import x509

from otahsm.errors import TokenUnavailableError
from otahsm.token.faults import explained
from otahsm.token.setup import decode_key, decode_token
from otahsm.token.signer import open_keys
from otahsm.token.signing import SigningKey
from otahsm.workers.child import Handler, run_worker

SIGN: Final = b"sign"
FLOOR: Final = b"floor"

_TBS: Final = bytes(450)  # about as long as a device's
_STRETCH: Final = 16  # repetitions between two readings of the clock


def start(setup: list[bytes]) -> Handler:
    """Log in and find the key in each session, as a signer does; return what answers a batch.

    Args:
        setup: a token, and a key of a benchmark's own: see `encode_token` and `encode_key`.
    """
    token, access, spki = setup
    signing = [keys[0] for keys in open_keys(decode_token(token), [decode_key(access, spki)])]
    threads = ThreadPoolExecutor(len(signing))

    def handle(parts: list[bytes]) -> list[bytes]:
        what, seconds, *csrs = parts
        steps = [_signing(key) if what == SIGN else _issuing(key, csrs) for key in signing]
        rates = threads.map(lambda step: _repeat(step, float(seconds)), steps)
        return [b"%f" % sum(rates)]

    return handle


def _signing(key: SigningKey) -> Callable[[], None]:
    def step() -> None:
        key.sign_unverified(_TBS)

    return step


def _issuing(key: SigningKey, csrs: list[bytes]) -> Callable[[], None]:
    read = [x509.load_der_x509_csr(csr) for csr in csrs]
    following: Iterator[x509.CertificateSigningRequest] = itertools.cycle(read)

    def step() -> None:
        if not next(following).is_signature_valid:
            raise TokenUnavailableError("the bench made a CSR that is not valid")
        key.sign(_TBS)

    return step


def _repeat(step: Callable[[], None], seconds: float) -> float:
    """Do something for a given time; return how often a second."""
    count = 0
    began = time.perf_counter()
    with explained("signing"):
        while (passed := time.perf_counter() - began) < seconds:
            for _ in range(_STRETCH):
                step()
            count += _STRETCH
    return count / passed


if __name__ == "__main__":
    run_worker(start)
