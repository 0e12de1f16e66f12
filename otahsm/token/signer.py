"""A signer: the process that holds PIN, session and key. `python -m otahsm.token.signer` is its main.

It answers a batch of messages with as many signatures, each verified. Any fault of the token's ends the
process: a session on which a call failed may be poisoned, and a fresh process is known to recover.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from queue import SimpleQueue

import pkcs11

from otahsm.config import CaConfig, TokenConfig
from otahsm.pki import load_issuer
from otahsm.token.faults import explain
from otahsm.token.keys import find_private_key
from otahsm.token.pool import PROBE
from otahsm.token.session import logged_in
from otahsm.token.signing import SigningKey
from otahsm.workers import run_worker
from otahsm.workers.child import Handler

_for_life = ExitStack()


def start(setup: list[bytes]) -> Handler:
    """Log in, find the key and show that it signs; return what answers a batch.

    Args:
        setup: as `open_keys` takes it.
    """
    keys = open_keys(setup)
    if len(keys) > 1:
        return ParallelSigning(keys).sign
    (key,) = keys
    return lambda messages: [key.sign(message) for message in messages]


def open_keys(setup: list[bytes]) -> list[SigningKey]:
    """Log in for the life of the process; return the CA key in each of `[token] sessions` sessions.

    Args:
        setup: [token] and [ca] as JSON, and the CA certificate in DER.

    Raises:
        OtahsmError: as `logged_in`; or the key is not there, or does not sign.
    """
    token_json, ca_json, certificate = setup
    token, ca = TokenConfig.model_validate_json(token_json), CaConfig.model_validate_json(ca_json)
    issuer = load_issuer(certificate)
    first = _for_life.enter_context(logged_in(token))
    try:
        # Login is the token's state, not the session's (PKCS#11 v2.40, section 5.6): once is enough.
        sessions = [first, *(first.token.open() for _ in range(token.sessions - 1))]
    except pkcs11.PKCS11Error as error:
        raise explain(error, f"opening {token.sessions} sessions") from None
    keys = [
        SigningKey(find_private_key(session, ca), issuer.public_key, issuer.algorithm) for session in sessions
    ]
    for key in keys:
        key.sign(PROBE)
    return keys


class ParallelSigning:
    """Signs in several sessions at once, each used by one thread at a time.

    A batch is divided evenly. A thread that is done with its part goes on with the next batch, so that a
    token with many sessions is never idle while there is work.

    Args:
        keys: the CA key, once for each session.
    """

    def __init__(self, keys: list[SigningKey]) -> None:
        self._sessions = len(keys)
        self._free: SimpleQueue[SigningKey] = SimpleQueue()
        for key in keys:
            self._free.put(key)
        self._threads = ThreadPoolExecutor(len(keys), thread_name_prefix="session")

    def sign(self, messages: list[bytes]) -> Iterator[bytes]:
        """Begin to sign; yield the signatures in order, waiting for each. Raises as `SigningKey.sign`."""
        size = -(-len(messages) // self._sessions)
        parts = [messages[at : at + size] for at in range(0, len(messages), max(size, 1))]
        signing = [self._threads.submit(self._sign, part) for part in parts]
        return chain.from_iterable(part.result() for part in signing)

    def _sign(self, messages: Iterable[bytes]) -> list[bytes]:
        key = self._free.get()  # there are as many as threads
        try:
            return [key.sign(message) for message in messages]
        finally:
            self._free.put(key)


if __name__ == "__main__":
    run_worker(start)
