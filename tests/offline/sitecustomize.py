"""Lets no socket of Python reach another machine: conftest.py imports this, and so does, by its
place on PYTHONPATH, every Python process that the tests start, a notebook's kernel among them."""

import ipaddress
import socket


def _only_this_machine(connect):
    """A socket's `connect` that lets nothing out of this machine."""

    def checked(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            try:
                inside = ipaddress.ip_address(host).is_loopback
            except ValueError:
                inside = host == "localhost"
            if not inside:
                raise PermissionError(f"a test tried to reach {host}: tests need no network")
        return connect(self, address)

    return checked


for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, _only_this_machine(getattr(socket.socket, name)))
