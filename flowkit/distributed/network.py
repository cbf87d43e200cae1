"""Which network interface the machines of a run see each other by."""

from __future__ import annotations

import os
import socket

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def choose_interface() -> None:
    """Tell gloo the interface by which this machine reaches the first one, unless the user has named one.

    By itself it takes the one that the host's own name stands for; on many systems that is the loopback, which no other
    machine can connect to.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    first = os.environ.get("MASTER_ADDR")
    if not several or not first or GLOO_INTERFACE in os.environ:
        return
    name = interface_towards(first)
    if name is not None:
        os.environ[GLOO_INTERFACE] = name


def interface_towards(host: str) -> str | None:
    """The name of the interface that a packet to `host` leaves by; None where that cannot be told, or is the loopback."""
    import psutil  # which accelerate brings

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing: a route is looked up
            mine = probe.getsockname()[0]
    except OSError:
        return None
    if mine.startswith("127.") or mine == "::1":
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, found in interfaces if any(one.address.split("%")[0] == mine for one in found)), None)
