"""`otahsm.v1.AuthorityService`."""

from __future__ import annotations

from otahsm.daemon.edge import Context
from otahsm.daemon.services.service import Service
from otahsm.daemon.wire.authority import authority_message, profile_message
from otahsm.v1 import authority_pb2 as pb
from otahsm.v1 import authority_pb2_grpc


class AuthorityService(Service, authority_pb2_grpc.AuthorityServiceServicer):
    """`otahsm.v1.AuthorityService`."""

    async def GetAuthority(  # noqa: N802 - the name is the wire's
        self, request: pb.GetAuthorityRequest, context: Context
    ) -> pb.GetAuthorityResponse:
        """Return a CA."""
        return pb.GetAuthorityResponse(
            authority=authority_message(self._authority.get_authority(request.name))
        )

    async def ListProfiles(  # noqa: N802
        self, request: pb.ListProfilesRequest, context: Context
    ) -> pb.ListProfilesResponse:
        """Return all profiles."""
        profiles, default = self._authority.list_profiles()
        return pb.ListProfilesResponse(
            profiles=[
                profile_message(name, profile, is_default=name == default)
                for name, profile in sorted(profiles.items())
            ]
        )
