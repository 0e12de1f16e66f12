"""Worker processes that do what a test says."""
