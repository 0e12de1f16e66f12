"""A signer: the process that holds PIN, session and keys. `python -m otahsm.token.signer` is its main.

It answers what `desk` lets it answer. Any fault of the token's ends the process: a session on which a call
failed may be poisoned, and a fresh process is known to recover.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import TypeVar

from otahsm.errors import ConfigError
from otahsm.system.clock import Clock, utc_now
from otahsm.token.desk.desk import Desk, Key
from otahsm.token.faults import explained
from otahsm.token.opening import open_key
from otahsm.token.session import logged_in
from otahsm.token.setup import PROBE, Mandate, TokenAccess, TokenKey, decode_token
from otahsm.token.signing import SigningKey
from otahsm.workers.child import Handler, run_worker

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_for_life = ExitStack()


def start(setup: list[bytes], clock: Clock = utc_now) -> Handler:
    """Log in, find the keys and show that they sign; return what answers a request.

    Args:
        setup: the token, as `encode_token` makes it, and the parts of the mandate.
        clock: returns the time.

    Raises:
        OtahsmError: as `open_keys`.
    """
    token, *mandate = setup
    return _answering(decode_token(token), Mandate.decode(mandate), clock)


def start_at_socket(tokens: Sequence[TokenAccess], mandate: Mandate, setup: list[bytes]) -> Handler:
    """Do as `start` for a daemon of another user, which is not believed what it says.

    Args:
        tokens: the signer's own: which module is loaded, and where the PIN is.
        mandate: the signer's own: what is signed.
        setup: as `socket_setup` makes it.

    Raises:
        OtahsmError: as `open_keys`; or the daemon has another configuration.
    """
    known = {b"%d" % number: token for number, token in enumerate(tokens)}
    token = known.get(setup[0]) if setup else None
    if token is None or setup[1:] != [mandate.digest]:
        raise ConfigError(
            "the daemon and its signers have different configurations: other keys, CAs, profiles or CRLs",
            hint="Let both read the same otahsm.toml and the same certificates; after a change, restart the"
            " daemon.",
        )
    return _answering(token, mandate, utc_now)


def open_keys(token: TokenAccess, keys: Sequence[TokenKey]) -> list[list[SigningKey]]:
    """Log in for the life of the process; return all keys in each of `[token] sessions` sessions.

    Raises:
        OtahsmError: as `logged_in`; or a key is not there, or does not sign.
    """
    login = _for_life.enter_context(logged_in(token))
    first = login.session
    with explained(f"opening {token.sessions} sessions"):
        sessions = [first, *(login.open_another() for _ in range(token.sessions - 1))]
    opened = [[open_key(login._replace(session=session), *key) for key in keys] for session in sessions]
    for key in chain.from_iterable(opened):
        key.sign(PROBE)
    return opened


def _answering(token: TokenAccess, mandate: Mandate, clock: Clock) -> Handler:
    opened = open_keys(token, mandate.keys)
    sessions = OneSession(opened[0]) if len(opened) == 1 else ParallelSessions(opened)
    return Desk(mandate, sessions, clock).handle


class OneSession:
    """Works in one session. Args: `keys`, all of the mandate's."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys

    def map(
        self, work: Callable[[Sequence[Key], _Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        """Do something for each item, one after the other. Raises as `work`."""
        return map(partial(work, self._keys), items)


class ParallelSessions:
    """Works in several sessions at once, each used by one thread at a time.

    Each item goes to the next session that is free, of whatever request it is, so that a token with many
    sessions is never idle while there is work.

    Args:
        sessions: the keys of each session.
    """

    def __init__(self, sessions: Sequence[Sequence[Key]]) -> None:
        self._free: SimpleQueue[Sequence[Key]] = SimpleQueue()
        for keys in sessions:
            self._free.put(keys)
        self._threads = ThreadPoolExecutor(len(sessions), thread_name_prefix="session")

    def map(
        self, work: Callable[[Sequence[Key], _Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        """Begin with all items; yield the results in order, waiting for each. Raises as `work`."""
        return self._threads.map(partial(self._do, work), items)

    def _do(self, work: Callable[[Sequence[Key], _Item], _Result], item: _Item) -> _Result:
        keys = self._free.get()  # there are as many as threads
        try:
            return work(keys, item)
        finally:
            self._free.put(keys)


if __name__ == "__main__":
    run_worker(start)
