"""Registers devices that got certificates with an OTA backend."""
