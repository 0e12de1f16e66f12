"""Tells an OTA backend about the devices that got certificates."""
