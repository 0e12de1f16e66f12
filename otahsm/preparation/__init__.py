"""Step 2 of the issuance cycle, in separate processes: hostile CSRs in, drafts and refusals out."""
