"""
Lines for a person, each after the host that it is of; the exit status, which salt-run wants among them, is none.
"""


def output(data, **_):
    """
    The lines as they are shown.

    data (dict)
        Host ids with text, and ``retcode``; or text alone.

    Returns text.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.exposed --out=goldenpath
    """
    if not isinstance(data, dict):
        return str(data)
    lines = [(key, line) for key, text in data.items() if key != "retcode" for line in str(text).splitlines()]
    width = max((len(key) for key, _ in lines), default=0)
    return "\n".join(f"{key:<{width}}  {line}" for key, line in lines)
