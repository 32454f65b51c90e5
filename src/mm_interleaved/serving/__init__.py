"""The page: one user, one machine."""
