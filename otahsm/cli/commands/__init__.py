"""All commands, in the order of `otahsm --help`. A module is imported when its command runs or shows help.

A module imports everything its commands need. So a command for a bare client must not share a module with one
that needs the token or the ledger's database.
"""

from __future__ import annotations

from typing import Final

from otahsm.cli.lazy import Command, Group

HELP: Final = "Issue device certificates for over-the-air fleets from a CA key that never leaves its HSM."

COMMANDS: Final = (
    Command(
        "quickstart", "quickstart", "Set up everything that a daemon on this machine needs.", learns_pin=True
    ),
    Command("serve", "serve", "Run the daemon.", learns_pin=True, grpc_log=True),
    Command("signer", "workers.signer", "Run one signer, as another user. For systemd."),
    Command("preparer", "workers.preparer", "Run one preparer, as another user. For systemd."),
    Command("doctor", "doctor", "Check everything that a daemon needs.", learns_pin=True),
    Command("health", "health", "Check whether the daemon can sign now."),
    Command("show", "show", "Show a certificate, a chain or a CSR."),
    Command("cert-provider", "device.cert_provider", "Provide one device, as aktualizr-cert-provider does."),
    Command("revoke", "revoke", "Revoke certificates, for good."),
    Command("audit", "audit", "Show the audit log: denials, logins, ceremonies, changes."),
    Group(
        "policy",
        "Check the policy, and explain its decisions.",
        (
            Command("check", "policy", "Check the policy, and list its clients."),
            Command("explain", "policy", "Explain what a client may do, and why not."),
        ),
    ),
    Group(
        "client",
        "Deny clients access, and allow them again; their quotas.",
        (
            Command("deny", "client", "Deny a client access, within two seconds."),
            Command("allow", "client", "Allow a client again."),
            Command("list", "client:list_denied", "List the clients that are denied."),
            Command("quota", "client", "Show what clients have used of their quotas, and reset it."),
        ),
    ),
    Group(
        "approve",
        "Held acts, which take a second client.",
        (
            Command("list", "approve:list_held", "List held acts."),
            Command("confirm", "approve", "Confirm held acts that another asked for."),
            Command("reject", "approve", "Reject held acts."),
        ),
    ),
    Group(
        "ca",
        "The fleet CA: its key in the token, and its certificate.",
        (
            Command("init", "ca.init", "Make the CA key and its self-signed root.", learns_pin=True),
            Command("show", "ca.show", "Show the chain, the key and the token.", learns_pin=True),
            Command("export", "ca.export", "Write the CA's certificates as PEM."),
            Command("csr", "ca.external", "Make the CA key, and a CSR for an external CA.", learns_pin=True),
            Command(
                "import",
                "ca.external:import_certificates",
                "Import what an external CA signed.",
                learns_pin=True,
            ),
            Command(
                "prove-possession", "ca.external", "Prove to a cloud that the CA is yours.", learns_pin=True
            ),
            Command(
                "import-key", "ca.import_key", "Import a CA key from a file into the token.", learns_pin=True
            ),
            Command("rotate", "ca.rotation", "Make the next CA beside the current one.", learns_pin=True),
            Command("retire", "ca.rotation", "Destroy the key of a retired CA.", learns_pin=True),
        ),
    ),
    Group(
        "device",
        "Devices: keys, certificates, folders.",
        (
            Command("issue", "device.issue", "Make keys, get certificates, write device folders."),
            Command("pack", "device.pack", "Pack device folders into one tar archive."),
            Command("reset", "device.reset", "Let a device have a certificate for a new key."),
            Command(
                "enroll", "device.enroll", "Enroll a device with a key in its own token.", learns_pin=True
            ),
            Command("install", "device.install", "Install devices' files on them, over SSH or in an image."),
            Command("register", "device.register", "Register issued devices with a backend."),
        ),
    ),
    Group(
        "batch",
        "Batches: orders for N devices, which the daemon enforces.",
        (
            Command("create", "batch.orders", "Order a batch."),
            Command("run", "batch.run", "Make the devices of a batch."),
            Command("status", "batch.orders", "Show a batch and its progress."),
            Command("list", "batch.orders:list_batches", "List all batches."),
            Command("close", "batch.orders", "Close a batch, for good."),
            Command("report", "batch.report", "Report on a batch."),
        ),
    ),
    Group(
        "csr",
        "Have existing CSRs signed.",
        (Command("sign", "csr", "Request certificates for CSRs, write device folders."),),
    ),
    Group(
        "crl",
        "Certificate revocation lists.",
        (
            Command("show", "crl", "Show a CRL, from a file or from the daemon."),
            Command("fetch", "crl", "Fetch a CRL from the daemon into a file."),
        ),
    ),
    Group(
        "gateway",
        "The OTA gateway: its address, and its CA.",
        (
            Command("show", "gateway", "Show a gateway's address and CA."),
            Command("fetch", "gateway", "Write root.crt and gateway.url for devices."),
        ),
    ),
    Group(
        "ledger",
        "The ledger: what was issued to whom, and what came of it.",
        (
            Command("list", "ledger.entries:list_", "List certificates, and intents without one."),
            Command("get", "ledger.entries", "Show one certificate and its chain."),
            Command("export", "ledger.entries", "Export the ledger as CSV, JSON Lines or PEM."),
            Command("stats", "ledger.entries", "Count by day, profile, client and status."),
            Command("reconcile", "ledger.reconcile", "Show serial numbers that were never released."),
            Command("backup", "ledger.copies", "Copy the SQLite ledger while a daemon issues."),
            Command("restore", "ledger.copies", "Restore the SQLite ledger from a backup."),
            Command("vouch", "ledger.vouch", "List what no MAC vouches for, and accept it."),
            Command("join", "ledger.join", "Have the signers of a new machine go on from the ledger."),
            Command("accept", "ledger.accept", "Have signers go on from an older copy of the ledger."),
            Command("init-key", "ledger.init_key", "Make what a new ledger needs.", learns_pin=True),
            Command("verify", "ledger.verify", "Verify that nobody changed the ledger."),
            Command("checkpoint", "ledger.proofs", "Fetch a signed checkpoint of the log."),
            Command("prove", "ledger.proofs", "Fetch the proof that the log has a certificate."),
            Command("prove-consistency", "ledger.proofs", "Fetch the proof that the log only grew."),
            Command("check-proof", "ledger.proofs", "Verify a proof, offline."),
        ),
    ),
    Group(
        "bench",
        "Measure: what the token signs, and what a daemon issues.",
        (
            Command("token", "bench.measure", "Measure the token's signatures a second.", learns_pin=True),
            Command("issue", "bench.measure", "Measure a daemon's certificates a second."),
        ),
    ),
)
