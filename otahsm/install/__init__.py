"""Installs certificates on devices, over SSH or into the root folder of an image."""
