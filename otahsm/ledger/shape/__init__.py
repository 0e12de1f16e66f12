"""Whether the ledger's database is as our migrations make it."""
