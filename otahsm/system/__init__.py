"""Operating system services for the daemon and its commands.

Its modules are imported by name: `files` reads files, `durable` writes them durably, `file_modes` checks
their permissions, `secret_files` reads secrets, `hardening` drops privileges, `spool` stores events of
processes that have no ledger, and `clock` is the time of day.
"""
