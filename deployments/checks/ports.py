"""Ports of this machine: can they be listened on?"""

from __future__ import annotations

from collections.abc import Callable

from cluster.ports import can_listen
from deployments.checks.finding import Finding, ok, problem
from deployments.config import OutriderConfig
from deployments.roles import roles_of, scale_of


def check_ports(config: OutriderConfig, is_free: Callable[[str, int], bool] = can_listen) -> list[Finding]:
    """The endpoint's port, and enough of the streams' range for every replica on this one machine."""
    findings = []
    host, port = config.ingress.host, config.ingress.port
    if is_free(host, port):
        findings.append(ok("ports", f"the endpoint's port {port} on {host} is free"))
    else:
        remedy = "set ingress.port to a free one, or stop what listens there (`ss -ltnp`)"
        findings.append(problem("ports", f"the endpoint's port {port} on {host} is taken", remedy))
    streams = config.streams
    stream_host = "0.0.0.0" if streams.host == "node" else streams.host
    needed = sum(scale_of(name, config).most for name in roles_of(config) if name != "ingress")
    free = sum(is_free(stream_host, port) for port in streams.ports)
    first, last = streams.port_range
    if free >= needed:
        findings.append(ok("ports", f"{free} of the streams' ports {first}-{last} are free, {needed} are needed"))
    else:
        detail = f"{free} of the streams' ports {first}-{last} are free on {stream_host}, {needed} are needed"
        findings.append(problem("ports", detail, "set streams.port_range to a free range, open to the cluster alone"))
    return findings
