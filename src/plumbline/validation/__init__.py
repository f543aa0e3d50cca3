"""Every row clean or in quarantine with its reason."""
