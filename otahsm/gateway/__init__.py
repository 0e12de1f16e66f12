"""The OTA gateway: its address and its CA, which devices trust."""
