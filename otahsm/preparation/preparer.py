"""A preparer: the process that parses hostile CSRs. `python -m otahsm.preparation.preparer` is its main.

It says what a CSR asks for, or why it is refused: a pure function. It has no token, no database, no network
and no clock, so a CSR that crashes the parser affects nothing else.
"""

from __future__ import annotations

import cryptography.hazmat.backends.openssl  # noqa: F401 - else the first CSR loads it, when no file can be opened

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import Binding
from otahsm.pki.csr import check_csr
from otahsm.preparation.codec import Task, decode_setup, decode_tasks, encode_answer
from otahsm.system.confinement import begin_task
from otahsm.workers.child import Handler, run_worker


def start(setup: list[bytes]) -> Handler:
    """Load the profiles; return the function that handles a request.

    Args:
        setup: the profiles, encoded by `encode_setup`.
    """
    profiles = decode_setup(setup)

    def check(task: Task) -> Binding | RequestRefusedError:
        try:
            return check_csr(task.csr, profiles[task.profile], task.device_id)
        except RequestRefusedError as error:
            return error

    def handle(parts: list[bytes]) -> list[bytes]:
        answers: list[bytes] = []
        for task in decode_tasks(parts):
            begin_task()
            answers += encode_answer(check(task))
        return answers

    return handle


if __name__ == "__main__":
    run_worker(start, confined=True)
