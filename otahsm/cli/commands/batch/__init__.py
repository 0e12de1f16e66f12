"""`otahsm batch`: orders for a number of devices, which the daemon enforces."""
