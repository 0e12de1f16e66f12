"""Installs certificates on devices: over SSH, or into the root of an image."""
