"""What can go wrong, each as one sentence for the operator: the reason, and what to type next."""

from .text import printable


class Failed(Exception):
    """
    Something did not work. ``str()`` is one sentence; ``tail`` holds the last lines of a log, shown below it. Neither
    holds what a terminal would obey, whoever had a part in it.
    """

    def __init__(self, sentence, tail=""):
        super().__init__(printable(sentence))
        self.tail = printable(tail)


class Refused(Failed):
    """Nothing was begun."""


class Ended(Failed):
    """What worked was ended from outside, before it could tell anything."""


class Busy(Refused):
    """Somebody else is at it."""
