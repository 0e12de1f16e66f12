"""Registration: every device that was issued is registered with a backend, eventually and at least once.

Registrations wait in the outbox, the table `registrations` of a folder's state file. A run claims those that
are due, sends requests to the backend, and records the outcomes:

    2xx, 409               done: the backend knows the device
    408, 425, 429, 5xx     temporary, like no response: retried with backoff, or when the backend says
    401, 403, 3xx          the run ends: token or URL are wrong, and all other requests would fail too
    all others             failed: kept with the answer until an operator retries them

Runs may be killed at any time, and several may run concurrently, since claims are respected. While a backend
is failing, it gets one request at a time.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from otahsm.client.backoff import Backoff
from otahsm.errors import BackendRefusedError, BackendUnavailableError, BackendUntrustedError, OtahsmError
from otahsm.registration.backends import Backend, Registration
from otahsm.registration.http_exchange import HttpRequest, HttpResponse
from otahsm.registration.outbox import Outbox, Registered, TryOutcome

_FIRST_WAIT: Final = 1.0  # seconds
_LONGEST_WAIT: Final = 30.0
_POLL_SECONDS: Final = 1.0  # how often the outbox is checked
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_TOKEN_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True, slots=True)
class _Asked:
    """The result of a request in a thread: a response, or an error."""

    registration: Registration
    request: HttpRequest | None = None
    answer: HttpResponse | None = None
    error: OtahsmError | None = None


def register(
    outbox: Outbox,
    backend: Backend,
    on_result: Callable[[Registered], None],
    *,
    parallel: int,
    patience: float,
    watch: bool = False,
) -> None:
    """Register what is waiting, until nothing is, or the patience is over.

    Args:
        outbox: the outbox.
        backend: the backend; it is closed at the end.
        on_result: called with the state after each attempt, once it is recorded.
        parallel: the number of concurrent requests.
        patience: seconds to continue without any progress.
        watch: whether to continue forever, waiting for new registrations.

    Raises:
        BackendRefusedError: the backend refuses the token, or redirects.
        BackendUntrustedError: its certificate can't be trusted.
        BackendUnavailableError: it did not respond at all until the patience was over.
        ConfigError: a secret can't be read any more.
        FolderError: the state file can't be written.
    """
    run = _Run(outbox, backend, on_result, parallel)
    try:
        while run.has_work(None if watch else patience):
            run.go_on()
    finally:
        run.end()


class _Run:
    def __init__(
        self, outbox: Outbox, backend: Backend, on_result: Callable[[Registered], None], parallel: int
    ) -> None:
        self._outbox, self._backend, self._on_result = outbox, backend, on_result
        self._parallel = parallel
        self._pool = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="register")
        self._asking: dict[Future[_Asked], int] = {}
        self._backoff = Backoff()
        self._width = 1  # it may be down
        self._not_before = self._settled_at = time.monotonic()
        self._unanswered, self._answered = "", False

    def has_work(self, patience: float | None) -> bool:
        """Wait until there is work; return whether there is. With a patience of None, wait forever."""
        while not self._asking:
            due_in, others_at_work = self._outbox.due_in()
            if due_in is None and patience is not None:
                return False
            now = time.monotonic()
            pause = max(due_in or 0.0, self._not_before - now)
            if due_in is not None and pause <= 0:
                return True
            if patience is not None and now + (0 if others_at_work else pause) > self._settled_at + patience:
                if self._unanswered and not self._answered:
                    raise BackendUnavailableError(f"can't reach {self._backend.name}: {self._unanswered}")
                return False
            time.sleep(_POLL_SECONDS if due_in is None else min(pause, _POLL_SECONDS))
        return True

    def go_on(self) -> None:
        """Send what is due, wait for responses, and record the outcomes."""
        free = self._width - len(self._asking)
        if free > 0 and time.monotonic() >= self._not_before:
            for registration in self._outbox.claim(free):
                self._asking[self._pool.submit(self._ask, registration)] = registration.number
        self._settle(wait(self._asking, _POLL_SECONDS, FIRST_COMPLETED).done)

    def end(self) -> None:
        """Wait for pending responses, and leave the rest to the next run."""
        unasked = [number for future, number in self._asking.items() if future.cancel()]
        self._pool.shutdown()
        self._outbox.release(unasked)
        with contextlib.suppress(BackendRefusedError, BackendUntrustedError):  # already being raised
            self._settle([future for future in self._asking if not future.cancelled()])
        self._backend.close()

    def _ask(self, registration: Registration) -> _Asked:
        request = None
        try:
            request = self._backend.request(registration)
            return _Asked(registration, request, answer=self._backend.ask(request))
        except OtahsmError as error:
            return _Asked(registration, request, error=error)

    def _settle(self, futures: Collection[Future[_Asked]]) -> None:
        """Record outcomes. Raises an error that ends the run."""
        outcomes, ending = [], None
        for future in futures:
            asked = future.result()
            try:
                outcome = self._judge(asked)
            except OtahsmError as error:
                outcome, ending = TryOutcome(asked.registration, None, ""), error
            self._pace(asked.answer, outcome)
            outcomes.append(outcome)
        settled = self._outbox.settle(outcomes)
        for future in futures:
            self._asking.pop(future, None)  # only now: an interrupted run settles the rest
        for one in settled:
            self._on_result(one)
        if ending is not None:
            raise ending

    def _judge(self, asked: _Asked) -> TryOutcome:
        """Return the outcome of an attempt. Raises OtahsmError: it stays waiting, and the run ends."""
        registration, answer = asked.registration, asked.answer
        if answer is None or asked.request is None:
            assert asked.error is not None  # noqa: S101 - one of both is there
            if asked.request is None:  # no request can be made
                return TryOutcome(registration, "failed", asked.error.message)
            raise asked.error
        status = answer.status
        if status in _TOKEN_REFUSED:
            if self._backend.renew(asked.request):
                return TryOutcome(registration, None, "")
            raise BackendRefusedError(f"{self._backend.name} refused the token: {answer.text}")
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise BackendRefusedError(
                f"{self._backend.name} redirects to {answer.location or 'nowhere'}, which is not followed",
                hint="Correct url in the [registration] section. Waiting registrations are kept.",
            )
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or status == HTTPStatus.CONFLICT:
            return TryOutcome(registration, "done", answer.text)
        if status and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING:
            return TryOutcome(registration, "failed", answer.text)
        seconds = answer.retry_after
        if seconds is None:
            longest = min(_FIRST_WAIT * 2.0 ** min(registration.attempts, 10), _LONGEST_WAIT)
            seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        return TryOutcome(registration, "waiting", answer.text, seconds)

    def _pace(self, answer: HttpResponse | None, outcome: TryOutcome) -> None:
        """Continue with full concurrency after a final outcome; otherwise slowly, one at a time."""
        now = time.monotonic()
        if outcome.state in {"done", "failed"}:
            self._settled_at, self._width = now, self._parallel
            self._backoff.reset()
        if answer is None:
            return
        if outcome.state == "waiting":
            self._width = 1
            if now >= self._not_before:
                self._not_before = now + self._backoff.seconds()
            self._not_before = max(self._not_before, now + (answer.retry_after or 0.0))
        if answer.status:
            self._answered = True
        else:
            self._unanswered = answer.text
