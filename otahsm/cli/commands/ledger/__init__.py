"""`otahsm ledger`: what was issued, and the proof that nobody changed it."""
