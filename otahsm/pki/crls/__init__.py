"""Certificate revocation lists: where they are, what they say, and how they are built and read."""
