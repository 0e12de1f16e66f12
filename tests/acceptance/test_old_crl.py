"""An old CRL that somebody puts back into the ledger, and a gateway that checks devices by the CRL."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from support.harness import Fleet, running
from support.programs import issue, openssl


def accepts(fleet: Fleet, device: Path, crl: Path) -> bool:
    verdict = openssl(
        "verify", "-purpose", "sslclient", "-crl_check",
        "-CAfile", fleet.root_pem, "-CRLfile", crl, device / "client.pem",
    )  # fmt: skip
    assert verdict.good or "certificate revoked" in verdict.text, verdict.text
    return verdict.good


def test_a_revoked_device_stays_out_when_an_old_crl_is_put_back(fleet: Fleet, tmp_path: Path) -> None:
    with fleet.toml.open("a") as toml:
        toml.write('[crl]\nurl = "http://crl.example.com/fleet.crl"\ndirectory = "crl"\n')
    served = fleet.folder / "crl/complete.pem"
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        daemon.wait_for("crl.written", revoked=0)
        with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database:
            number, der = database.execute("SELECT number, der FROM crls").fetchone()
            (stolen,) = issue(fleet, tmp_path / "devices", ["stolen"])
            assert accepts(fleet, stolen, served)
            revoking = ("--device-id", "stolen", "--reason", "key_compromise", "--expect", "1")
            assert fleet.run("revoke", *revoking).returncode == 0
            daemon.wait_for("crl.written", revoked=1)
            with database:  # the daemon finds what it expects: a CRL with one entry
                database.execute("UPDATE crls SET number = ?, der = ?", (number, der))
        daemon.wait_for("crl.failed", reason="LEDGER_TAMPERED")
        fetched = fleet.run("crl", "fetch", "--output", str(tmp_path / "fetched.pem"))
        assert fetched.returncode != 0
        assert "an older one was put back" in fetched.stderr
        assert not (tmp_path / "fetched.pem").exists()
        assert not accepts(fleet, stolen, served)
        found = json.loads(fleet.run("ledger", "verify", "--json").stdout)
        assert not found["good"]
        assert any(
            "its number of entries is 0, but 1 was recorded" in item["what"] for item in found["first"]
        )
        assert daemon.stop() == 0
    with running(fleet) as daemon:
        daemon.wait_for("crl.failed", reason="LEDGER_TAMPERED")
        assert not accepts(fleet, stolen, served)
        assert daemon.stop() == 0
