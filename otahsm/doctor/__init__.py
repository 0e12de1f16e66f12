"""`otahsm doctor`: looks at everything that a daemon needs, before somebody depends on it."""

from otahsm.doctor.diagnostics import diagnose

__all__ = ["diagnose"]
