"""Shared settings: one thread, no network, repeatable property tests, and tiny models."""

import ipaddress
import socket

import pytest
import torch
from hypothesis import settings
from tiny import make_tokenizer, make_var

from varmini import ScaleSchedule

torch.set_num_threads(1)
settings.register_profile("varmini", deadline=None, derandomize=True, database=None)
settings.load_profile("varmini")


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


@pytest.fixture
def tok():
    """Grey 16x16 images, scales (1, 2, 4), 12 codes of 4 channels, random weights, eval mode."""
    return make_tokenizer()


@pytest.fixture
def var():
    """A transformer for `tok`: depth 2, width 32, 3 classes, random weights, eval mode."""
    return make_var(ScaleSchedule((1, 2, 4)))
