"""The OTA gateway: its URL, its CA, and what devices are told to trust."""
