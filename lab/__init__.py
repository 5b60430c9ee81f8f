"""Throwaway bare Debian hosts with systemd, their own network and sshd, for demo, tests and bench."""

from .common import LabError, unwind_on_signals
from .host import Host
from .machine import Lab

__all__ = ["Host", "Lab", "LabError", "unwind_on_signals"]
