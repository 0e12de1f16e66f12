"""Access control: decisions as pure functions of a policy, a caller and the time. No clock, no I/O."""

from otahsm.access.caller import MAX_IDENTITY, Caller, Owner, Principal, check_identity, identity_of
from otahsm.access.calls import Call, Open
from otahsm.access.control import AccessControl
from otahsm.access.deny_list import SUBJECTS, Denied, DenyList
from otahsm.access.policy import (
    ACTS_PER_DAY,
    ANY_BELOW,
    DAY_ENDS,
    DAYS,
    EVERY_PROFILE,
    FLEET_ACTS_PER_DAY,
    Below,
    Grant,
    Match,
    OwnerFilter,
    Policy,
    Role,
    Times,
)
from otahsm.access.quota import (
    Quotas,
    Use,
    come_back,
    corrected,
    day_of,
    given_back,
    own_part,
    share_of,
    sum_of,
)

__all__ = [
    "ACTS_PER_DAY",
    "ANY_BELOW",
    "DAYS",
    "DAY_ENDS",
    "EVERY_PROFILE",
    "FLEET_ACTS_PER_DAY",
    "MAX_IDENTITY",
    "SUBJECTS",
    "AccessControl",
    "Below",
    "Call",
    "Caller",
    "Denied",
    "DenyList",
    "Grant",
    "Match",
    "Open",
    "Owner",
    "OwnerFilter",
    "Policy",
    "Principal",
    "Quotas",
    "Role",
    "Times",
    "Use",
    "check_identity",
    "come_back",
    "corrected",
    "day_of",
    "given_back",
    "identity_of",
    "own_part",
    "share_of",
    "sum_of",
]
