"""A preparer: the process that parses hostile CSRs. `python -m otahsm.preparation.preparer` is its main.

It checks CSRs, draws serial numbers and builds TBS certificates: step 2 of the cycle, a pure function except
for the random numbers. It has no token, no database, no network and no clock, so a CSR that crashes the
parser affects nothing else.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import cache

from otahsm.errors import RequestRefusedError
from otahsm.pki.csr import check_csr
from otahsm.pki.serial import SERIAL_RANDOM_BYTES, make_serial
from otahsm.pki.subject import SubjectTemplate
from otahsm.pki.template import TbsTemplate
from otahsm.preparation.codec import Draft, Task, decode_tasks, encode_answer
from otahsm.preparation.terms import decode_terms
from otahsm.workers.child import Handler, run_worker


def start(setup: list[bytes]) -> Handler:
    """Load the profiles; return the function that handles a request.

    Args:
        setup: the terms of each profile, encoded by `encode_terms`.
    """
    terms = decode_terms(setup)

    @cache
    def template(name: str, shard: int) -> TbsTemplate:
        profile, issuer, crls = terms[name]
        return TbsTemplate(profile, issuer, crls.url(shard) if crls else None)

    subjects = {name: SubjectTemplate(profile.subject) for name, (profile, _, _) in terms.items()}

    def prepare(task: Task) -> Draft | RequestRefusedError:
        profile, _, crls = terms[task.profile]
        try:
            csr = check_csr(task.csr, profile, task.device_id)
            others = subjects[task.profile].fill(task.attributes)
        except RequestRefusedError as error:
            return error
        serial = make_serial(secrets.token_bytes(SERIAL_RANDOM_BYTES), task.milliseconds)
        shard = crls.shard_of(serial) if crls else 0
        tbs = template(task.profile, shard).fill(csr, serial, task.validity, others)
        return Draft(tbs, csr.device_id, hashlib.sha256(csr.spki).digest(), serial)

    def handle(parts: list[bytes]) -> list[bytes]:
        answers: list[bytes] = []
        for task in decode_tasks(parts):
            answers += encode_answer(prepare(task))
        return answers

    for name in terms:
        template(name, 0)  # templates of other shards are made when they are first needed
    return handle


if __name__ == "__main__":
    run_worker(start)
