"""Step 2 of the issuance cycle, in separate processes: hostile CSRs in, drafts and refusals out."""

from otahsm.preparation.codec import Draft, Task
from otahsm.preparation.pool import Preparers

__all__ = ["Draft", "Preparers", "Task"]
