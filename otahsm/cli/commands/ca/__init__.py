"""`otahsm ca`: the ceremonies with a CA's key."""
