"""What a dry run of a host's states says, as rows of a table: what has drifted, and what could not be asked."""


def __virtual__():
    return False, "goldenpath.drift runs it"


def rows(states):
    """
    Judge the answer of ``state.apply test=True``.

    :param states: what a host answered: a dictionary of states, or anything else where it could not.
    :return: (rows of what would change, sentences of what failed). A row is the state's function, what it is about, and
        what it would do.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.drift web1
    """
    told = isinstance(states, dict) and all(isinstance(each, dict) and "result" in each for each in states.values())
    if not states or not told:
        return [], [_said(states)]
    drifted, failed = [], []
    for key, state in sorted(states.items(), key=lambda item: item[1].get("__run_num__", 0)):
        module, *_, function = key.split("_|-")
        name, comment = str(state.get("name", "")), _line(state.get("comment"))
        if state["result"] is None:
            drifted.append((f"{module}.{function}", name, comment))
        elif state["result"] is False:
            failed.append(f"{name}: {comment}")
    # What others failed of is named once.
    own = [each for each in failed if "One or more requisite failed" not in each]
    return drifted, own or failed


def _line(comment):
    lines = [line.strip() for line in str(comment or "").splitlines() if line.strip()]
    return (lines or ["it would change"])[0][:200]


def _said(answer):
    if isinstance(answer, dict):
        answer = answer.get("stderr") or answer.get("_error") or answer.get("stdout") or answer
    if isinstance(answer, list):
        answer = "; ".join(map(str, answer))
    lines = [line.strip() for line in str(answer or "").splitlines() if line.strip()]
    return (lines or ["it does not answer"])[-1][:300].rstrip(".")
