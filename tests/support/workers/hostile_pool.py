"""A daemon whose workers were taken over: `python -m support.workers.hostile_pool FILE SOCKET free|confined`.

It protects itself as the daemon does, has a worker try each thing, and prints as JSON what came of it, and
what the kernel says of each worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from otahsm.errors import OtahsmError
from otahsm.system.hardening import harden
from otahsm.workers.child import DAEMON_PID
from otahsm.workers.handle import Child
from otahsm.workers.pool import WorkerPool

from support.workers.hostile_worker import ATTEMPTS, DEATH_SIGNAL, FREE

_WORKER = "support.workers.hostile_worker"


async def main(file: Path, socket: Path, mode: str) -> None:
    """Run two workers; print what they can do."""
    pids: list[int] = []

    def report(event: str, pid: int, error: OtahsmError | None) -> None:
        assert error is None, (event, error)
        pids.append(pid)

    with file.open("ab") as opened:
        environment = {**os.environ, DAEMON_PID: str(os.getpid()), **({FREE: ""} if mode == "free" else {})}

        async def start() -> Child:
            """Start a worker as the pool does, but with the file."""
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                _WORKER,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                pass_fds=[opened.fileno()],
            )
            return Child(process)

        pool = WorkerPool(
            "worker",
            _WORKER,
            [],
            size=2,
            environment={},
            call_seconds=30,
            wait_seconds=30,
            longest_pause=0.25,
            report=report,
            start=start,
        )
        await pool.start()
        await pool.wait_until_ready(2)
        arguments = {
            "write to a file that is open": str(opened.fileno()),
            "connect to a socket": str(socket),
            "trace another worker": " ".join(map(str, pids)),
            "run a program": "/bin/true",
        }
        results = {}
        for name in (DEATH_SIGNAL, *ATTEMPTS):
            if mode == "free" and name.startswith(("trace", "become")):
                continue  # a daemon or worker that is traced stands still
            (result,) = await pool.call([name.encode(), arguments.get(name, str(file)).encode()], once=True)
            results[name] = result.decode()
        facts = [_facts(pid) for pid in pids]
        await pool.close()
    print(json.dumps({"results": results, "facts": facts}))  # noqa: T201 - to the test


def _facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {
        **{name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)},
        **{line[:26].strip(): " ".join(line[26:].split()[:2]) for line in limits},
        "leads its session": str(os.getsid(pid) == pid),
    }


if __name__ == "__main__":
    harden()
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
