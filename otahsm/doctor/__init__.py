"""`otahsm doctor`: checks everything that a daemon needs before it serves."""

from otahsm.doctor.diagnostics import diagnose

__all__ = ["diagnose"]
