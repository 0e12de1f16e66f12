"""What stands before the services: TLS, trust, limits, the policy, and gRPC's server itself."""
