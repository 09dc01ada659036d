"""A run of real daemons whose ways up are throttled, and its times."""
