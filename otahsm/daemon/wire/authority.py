"""Conversions of messages about CAs and profiles."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import AuthorityState, JobState
from otahsm.pki.profile import Profile
from otahsm.pki.subject import SubjectTemplate
from otahsm.v1 import authority_pb2 as pb


def authority_message(state: AuthorityState) -> pb.Authority:
    """Return a CA as a message."""
    issuer = state.chain.issuer
    return pb.Authority(
        subject=issuer.subject_text,
        chain=state.chain.intermediates,
        trust_anchor=state.chain.trust_anchor,
        key_type=issuer.key_type,
        not_after_time=Timestamp(seconds=int(issuer.not_after.timestamp())),
        ready_signers=state.ready_signers,
        not_serving_reason=state.trouble,
        jobs=map(_job_message, state.jobs),
        other_trust_anchors=state.other_anchors,
    )


def profile_message(name: str, profile: Profile, *, is_default: bool) -> pb.Profile:
    """Return a profile as a message."""
    return pb.Profile(
        name=name,
        is_default=is_default,
        validity=Duration(seconds=profile.validity // timedelta(seconds=1)),
        device_id_pattern=profile.device_id.pattern,
        key_types=sorted(profile.key_types),
        subject=map(str, profile.subject),
        attributes=sorted(SubjectTemplate(profile.subject).names),
    )


def _job_message(state: JobState) -> pb.Job:
    message = pb.Job(name=state.name, failing_reason=state.message, fault_count=state.faults)
    if state.failing_since is not None:
        message.failing_since_time.FromDatetime(state.failing_since)
    return message
