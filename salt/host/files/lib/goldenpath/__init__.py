"""
The engine: what operates the sites of a host. Managed by Golden Path: local changes are overwritten.

Standard library only, Python 3.10 or newer. It never imports Salt: Salt's modules, timers and people call its command
``goldenpath``.
"""

# An older checkout leaves a newer engine where it is.
VERSION = "0.3.41"
# What a caller and an engine must have in common: raise it when a verb's request or answer changes its meaning.
PROTOCOL = 1
