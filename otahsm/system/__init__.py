"""What the daemon and its commands want of the operating system: durable files, modes, secrets, hardening."""
