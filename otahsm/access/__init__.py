"""Who may ask for what: decisions as pure functions of a policy, a caller and the time. No clock, no I/O."""

from otahsm.access.caller import Caller
from otahsm.access.calls import CALLS, Call, Open
from otahsm.access.control import AccessControl
from otahsm.access.deny_list import SUBJECTS, Denied, DenyList
from otahsm.access.policy import Grant, Policy
from otahsm.access.quota import Quotas, Share, Use, come_back, day_of, given_back, share_of

__all__ = [
    "CALLS",
    "SUBJECTS",
    "AccessControl",
    "Call",
    "Caller",
    "Denied",
    "DenyList",
    "Grant",
    "Open",
    "Policy",
    "Quotas",
    "Share",
    "Use",
    "come_back",
    "day_of",
    "given_back",
    "share_of",
]
