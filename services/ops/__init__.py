"""Tools of those who run the suite: backup and restore, agencies and officials."""
