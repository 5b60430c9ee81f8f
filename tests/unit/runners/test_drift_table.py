"""What a dry run says, as rows."""

import pytest

from _runners import drift_table


def state(result, comment="", name="x", number=0):
    return {"result": result, "comment": comment, "name": name, "__run_num__": number}


def test_in_order():
    assert drift_table.rows({"file_|-a_|-/a_|-managed": state(True)}) == ([], [])


def test_what_would_change_in_the_order_of_the_run():
    states = {
        "service_|-b_|-b_|-running": state(None, "\n  Service b is set to start\nand more", "b", 2),
        "file_|-a_|-/a_|-managed": state(None, "", "/a", 1),
    }
    assert drift_table.rows(states) == (
        [("file.managed", "/a", "it would change"), ("service.running", "b", "Service b is set to start")],
        [],
    )


def test_what_failed_and_not_what_failed_of_it():
    states = {
        "pkg_|-p_|-p_|-installed": state(False, "No network", "p"),
        "file_|-a_|-/a_|-managed": state(False, "One or more requisite failed: p", "/a", 1),
    }
    assert drift_table.rows(states) == ([], ["p: No network"])
    del states["pkg_|-p_|-p_|-installed"]
    assert drift_table.rows(states)[1] == ["/a: One or more requisite failed: p"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "it does not answer"), ("", "it does not answer"), ({}, "it does not answer"),
        (["web1 has no pillar", "x"], "web1 has no pillar; x"), ({"stderr": "Warning\nPermission denied.\n"},
                                                                 "Permission denied"),
        ({"_error": "no route to host"}, "no route to host"),
    ],
)  # fmt: skip
def test_a_host_that_did_not_answer_is_never_in_order(answer, said):
    assert drift_table.rows(answer) == ([], [said])
