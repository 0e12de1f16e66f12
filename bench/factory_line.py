"""Measures the factory line: keys, CSRs, certificates and folders, against the seed guide's shell loop.

    .venv/bin/python bench/factory_line.py                 # 100,000 devices, and a minute of the loop
    .venv/bin/python bench/factory_line.py --devices 5000 --loop 100

It makes its own token and everything else in a temporary folder inside the current one: the disk counts.
Client, daemon and token share the machine, as the loop's processes do.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from otahsm.bench.processes import daemon, peak_mebibytes
from otahsm.quickstart import create

# The guide's step 2, as it stands there; only the paths are this script's.
LOOP: Final = """
set -e
for i in $(seq "$1"); do
    device_id=$(cat /proc/sys/kernel/random/uuid)
    device_dir=devices/$device_id
    mkdir -p "$device_dir"
    openssl ecparam -genkey -name prime256v1 | openssl ec -out "$device_dir/pkey.ec.pem"
    openssl pkcs8 -topk8 -nocrypt -in "$device_dir/pkey.ec.pem" -out "$device_dir/pkey.pem"
    openssl req -new -subj "/CN=$device_id" -key "$device_dir/pkey.pem" -out "$device_dir/$device_id.csr"
    openssl x509 -req -days 365 -extfile client.ext -in "$device_dir/$device_id.csr" -CAkey ca.key \
        -CA ca.crt -CAcreateserial -out "$device_dir/client.pem"
    cat "$device_dir/client.pem" ca.crt >"$device_dir/$device_id.chain.pem"
    ln -s server_ca.pem "$device_dir/ca.pem"
    openssl x509 -in "$device_dir/client.pem" -text -noout
done
"""
EXTENSIONS: Final = "keyUsage=critical,digitalSignature\nextendedKeyUsage=critical,clientAuth\n"
FILES: Final = ("pkey.ec.pem", "pkey.pem", "{}.csr", "client.pem", "{}.chain.pem", "root.crt", "gateway.url")
OTAHSM: Final = (sys.executable, "-P", "-m", "otahsm")


def say(what: str, seen: str) -> None:
    """Print one row."""
    print(f"| {what} | {seen} |", flush=True)


def shell_loop(folder: Path, count: int) -> float:
    """Run the guide's loop; return devices a second."""
    folder.mkdir()
    (folder / "client.ext").write_text(EXTENSIONS)
    root = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        [*root, "-subj", "/CN=root", "-keyout", "ca.key", "-out", "ca.crt", "-days", "3650"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    began = time.perf_counter()
    subprocess.run(["bash", "-c", LOOP, "loop", str(count)], cwd=folder, check=True, capture_output=True)
    return count / (time.perf_counter() - began)


def issue(folder: Path, count: int) -> tuple[float, dict[int, float], float]:
    """Issue devices with one command.

    Returns:
        Devices a second; the command's peak memory in MiB by how many devices were made then; its end's.
    """
    began = time.perf_counter()
    run = subprocess.Popen(
        [*OTAHSM, "device", "issue", "--count", str(count), "--quiet"], cwd=folder, stdin=subprocess.DEVNULL
    )
    seen: dict[int, float] = {}
    peak = 0.0
    devices = folder / "devices"
    while run.poll() is None:
        try:
            peak = peak_mebibytes(run.pid)
        except (OSError, ValueError):
            break
        made = devices.stat().st_nlink - 2 if devices.exists() else 0
        for mark in (1000, count // 10, count // 2):
            if made >= mark:
                seen.setdefault(mark, peak)
        time.sleep(0.5)
    if run.wait():
        sys.exit("the command failed")
    return count / (time.perf_counter() - began), seen, peak


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Measure the factory line.")
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--loop", type=int, default=800, help="devices that the shell loop makes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        before = shell_loop(Path(name, "before"), arguments.loop // 2)
        folder = Path(name, "fleet")
        create(folder, 0)
        asyncio.run(serve(folder, arguments.devices))
        after = shell_loop(Path(name, "after"), arguments.loop // 2)
        say("the guide's loop, before and after", f"{before:.1f} and {after:.1f} devices/s")


async def serve(folder: Path, count: int) -> None:
    """Run a daemon and the command on it, and print what was seen."""
    toml = folder / "otahsm.toml"
    async with daemon(toml, 1) as running:
        text = toml.read_text()
        target = next(line for line in text.splitlines() if line.startswith("target"))
        toml.write_text(text.replace(target, f'target = "{running.address}"'))
        rate, seen, peak = await asyncio.to_thread(issue, folder, count)
    complete = sum(
        all((device / file.format(device.name)).exists() for file in FILES)
        for device in (folder / "devices").glob("[!.]*")
    )
    say("devices whose folders are complete", f"{complete:,} of {count:,}")
    say("keys, CSRs, certificates and folders", f"{rate:,.0f} devices/s")
    marks = ", ".join(f"{memory:.0f} MiB at {made:,}" for made, memory in sorted(seen.items()))
    say("peak memory of the command", f"{marks}, {peak:.0f} MiB at the end")


if __name__ == "__main__":
    main()
