"""Step 2 of the issuance cycle, in processes of its own: hostile CSRs go in, drafts and refusals come out."""

from otahsm.preparation.codec import Draft, Task
from otahsm.preparation.pool import Preparers

__all__ = ["Draft", "Preparers", "Task"]
