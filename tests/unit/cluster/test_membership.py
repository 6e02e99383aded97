"""What a process knows of a deployment's replicas, and a local cluster's ports."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from cluster.application import reason_in
from cluster.local import PortTaken, check_ports
from cluster.membership import Membership, Replicas, membership_of
from cluster.ports import free_ports


def test_a_listener_hears_what_is_known_and_every_change_in_order() -> None:
    membership, heard = Membership(), list[Replicas]()
    membership.publish({"a": {"port": 1}})
    membership.subscribe(heard.append)
    membership.publish({"a": {"port": 1}, "b": {"port": 2}})
    membership.publish({})
    assert heard == [{"a": {"port": 1}}, {"a": {"port": 1}, "b": {"port": 2}}, {}]


def test_what_was_published_does_not_change_behind_the_listeners() -> None:
    membership, heard = Membership(), list[Replicas]()
    membership.subscribe(heard.append)
    replicas: dict[str, Any] = {"a": {}}
    membership.publish(replicas)
    replicas["b"] = {}
    assert heard[-1] == {"a": {}}


def test_there_is_one_membership_per_deployment_and_process() -> None:
    assert membership_of("app", "drafter") is membership_of("app", "drafter")
    assert membership_of("app", "drafter") is not membership_of("app", "verifier")
    assert membership_of("app", "drafter") is not membership_of("other", "drafter")


def test_free_ports_pass_and_a_taken_one_is_told_with_its_origin() -> None:
    (port,) = free_ports(1)
    told = pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 .*--port")
    with socket.create_server(("127.0.0.1", port)), told:
        check_ports("127.0.0.1", {"--port": port})
    check_ports("127.0.0.1", {"--port": port})


def test_a_port_whose_last_connection_lingers_is_free() -> None:
    (port,) = free_ports(1)
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)) as client,
        server.accept()[0] as accepted,
    ):
        accepted.shutdown(socket.SHUT_WR)  # this end closes first, and so keeps TIME_WAIT
        client.recv(1)
    check_ports("127.0.0.1", {"--port": port})


def test_the_reason_is_the_last_error_of_the_tracebacks() -> None:
    message = (
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\n"
        'ray::Serve.initialize() (pid=1)\n  File "a.py", line 1, in f\n    raise\nRuntimeError: Traceback\n'
        '  File "b.py", line 2, in g\n    load()\npackage.ShapeError: weight_VH has shape (3, 4),\n  not (4, 3)\n'
    )
    assert reason_in(message) == "package.ShapeError: weight_VH has shape (3, 4),\n  not (4, 3)"
    assert reason_in("no resources") == "no resources"
