"""Generated from proto/otahsm/v1 by `make proto`. Do not edit."""
