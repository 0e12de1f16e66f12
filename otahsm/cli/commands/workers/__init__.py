"""Commands that systemd starts, for a daemon of another user."""
