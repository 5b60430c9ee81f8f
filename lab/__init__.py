"""Throwaway bare Debian hosts with systemd, their own network and sshd, for demo, tests and bench."""

from .common import LabError
from .host import Host, Lab

__all__ = ["Host", "Lab", "LabError"]
