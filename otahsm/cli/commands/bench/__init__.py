"""`otahsm bench`: what the token signs, and what a daemon issues."""
