"""Operating system services for the daemon and its commands.

Its modules are imported by name: `durable` writes files durably, `file_modes` checks their permissions,
`secret_files` reads secrets, `hardening` drops privileges, `spool` stores events of processes that have no
ledger, and `clock` is the time of day.
"""
