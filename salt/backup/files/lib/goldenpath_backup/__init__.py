"""Backups of a host's sites, proven by restoring them. Managed by Golden Path: local changes are overwritten."""
