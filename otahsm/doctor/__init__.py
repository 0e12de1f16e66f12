"""`otahsm doctor`: looks at everything that a daemon needs, before somebody depends on it."""

from otahsm.doctor.rounds import examine

__all__ = ["examine"]
