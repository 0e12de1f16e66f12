"""Shows what was done: the ledger's log, which only grows and is signed, and the audit log within it."""
