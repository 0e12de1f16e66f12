"""The ledger's transparency log, which is append-only and signed, and the audit log in it."""
