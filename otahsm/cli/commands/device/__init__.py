"""`otahsm device`, and `otahsm cert-provider`: from a device's key to its files on the device."""
