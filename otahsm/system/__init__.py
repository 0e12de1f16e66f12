"""What the daemon and its commands want of the operating system.

Its modules are imported by name: `durable` writes files so that they are on the disk, `file_modes` looks at
who else may write or read them, `secret_files` reads secrets, `hardening` gives up privileges, `spool` keeps
events of processes that have no ledger, and `clock` is the time of day.
"""
