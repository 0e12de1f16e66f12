"""A signer: the process that holds PIN, session and keys. `python -m otahsm.token.signer` is its main.

It answers a batch, which is the number of a key and messages, with as many signatures, each verified. Any
fault of the token's ends the process: a session on which a call failed may be poisoned, and a fresh process
is known to recover.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain
from queue import SimpleQueue

from otahsm.errors import ConfigError, OtahsmError
from otahsm.pki.keytypes.spki import load_public_key
from otahsm.token.faults import explained
from otahsm.token.opening import open_key
from otahsm.token.session import logged_in
from otahsm.token.setup import PROBE, KeyAccess, TokenAccess, TokenKey, decode_setup
from otahsm.token.signing import SigningKey
from otahsm.workers.child import Handler, run_worker

_for_life = ExitStack()


def start(setup: list[bytes]) -> Handler:
    """Log in, find the keys and show that they sign; return what answers a batch.

    Args:
        setup: as `open_keys` takes it.
    """
    return _handler(open_keys(setup))


def start_at_socket(
    tokens: Sequence[TokenAccess], known: Mapping[str, KeyAccess], setup: list[bytes]
) -> Handler:
    """Do as `start` for a daemon of another user, which is not believed what it says.

    Args:
        tokens: the signer's own: which module is loaded, and where the PIN is.
        known: the keys that there are, by their URIs.
        setup: as `socket_setup` makes it.

    Raises:
        OtahsmError: as `open_keys`; or the daemon wants a token or a key that the configuration lacks.
    """
    number, *parts = setup
    try:
        token = tokens[int(number)]
        keys = [known[uri.decode()] for uri in parts[::2]]
        public_keys = [load_public_key(spki) for spki in parts[1::2]]
        pairs = [TokenKey(*pair) for pair in zip(keys, public_keys, strict=True)]
    except (ValueError, LookupError, OtahsmError):
        raise ConfigError(
            "the daemon requires a token or key that the signers' configuration does not name",
            hint="Let the daemon and the signers read the same otahsm.toml, and restart the daemon.",
        ) from None
    return _handler(_open(token, pairs))


def _handler(sessions: list[list[SigningKey]]) -> Handler:
    if len(sessions) > 1:
        return ParallelSigning(sessions).sign
    (keys,) = sessions

    def sign(batch: list[bytes]) -> Iterator[bytes]:
        number, *messages = batch
        return map(keys[int(number)].sign, messages)

    return sign


def open_keys(setup: list[bytes]) -> list[list[SigningKey]]:
    """Log in for the life of the process; return all keys in each of `[token] sessions` sessions.

    Args:
        setup: as `encode_setup` makes it.

    Raises:
        OtahsmError: as `logged_in`; or a key is not there, or does not sign.
    """
    return _open(*decode_setup(setup))


def _open(token: TokenAccess, pairs: Sequence[TokenKey]) -> list[list[SigningKey]]:
    login = _for_life.enter_context(logged_in(token))
    first = login.session
    with explained(f"opening {token.sessions} sessions"):
        sessions = [first, *(login.open_another() for _ in range(token.sessions - 1))]
    opened = [[open_key(login._replace(session=session), *key) for key in pairs] for session in sessions]
    for key in chain.from_iterable(opened):
        key.sign(PROBE)
    return opened


class ParallelSigning:
    """Signs in several sessions at once, each used by one thread at a time.

    Each message goes to the next session that is free, of whatever batch it is, so that a token with many
    sessions is never idle while there is work.

    Args:
        sessions: the keys of each session.
    """

    def __init__(self, sessions: list[list[SigningKey]]) -> None:
        self._free: SimpleQueue[list[SigningKey]] = SimpleQueue()
        for keys in sessions:
            self._free.put(keys)
        self._threads = ThreadPoolExecutor(len(sessions), thread_name_prefix="session")

    def sign(self, batch: list[bytes]) -> Iterator[bytes]:
        """Begin to sign; yield the signatures in order, waiting for each. Raises as `SigningKey.sign`."""
        number, *messages = batch
        return self._threads.map(partial(self._sign, int(number)), messages)

    def _sign(self, number: int, message: bytes) -> bytes:
        keys = self._free.get()  # there are as many as threads
        try:
            return keys[number].sign(message)
        finally:
            self._free.put(keys)


if __name__ == "__main__":
    run_worker(start)
