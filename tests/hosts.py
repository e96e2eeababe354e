"""Two hosts on one machine: network namespaces with addresses of their own, and a cable between them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest


class Hosts:
    """Two network namespaces; what runs in one of them reaches the other by its address alone."""

    addresses = ("10.213.7.1", "10.213.7.2")

    def __init__(self) -> None:
        self.names = tuple(f"conrad-{os.getpid()}-{number}" for number in (1, 2))
        self._cable = tuple(f"cb{os.getpid() % 10**7}-{number}" for number in (1, 2))

    def command(self, host: int, words: Sequence[str]) -> list[str]:
        """Return the command that runs `words` on a host."""
        return ["ip", "netns", "exec", self.names[host], *words]

    def unplug(self) -> None:
        """Unplug the second host: neither hears of the other again."""
        _ip("-n", self.names[1], "link", "set", self._cable[1], "down")

    def start(self) -> None:
        """Make the hosts. Raises subprocess.CalledProcessError where the kernel does not let us."""
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", self._cable[0], "type", "veth", "peer", "name", self._cable[1])
        for name, cable, address in zip(self.names, self._cable, self.addresses, strict=True):
            _ip("link", "set", cable, "netns", name)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            for device in (cable, "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def end(self) -> None:
        """Remove what there is of them."""
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._cable[0]], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Make two hosts, or skip the test with the reason."""
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("two hosts on one machine are network namespaces, which need root and the command `ip`")
    hosts = Hosts()
    with ExitStack() as stack:
        stack.callback(hosts.end)
        try:
            hosts.start()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the kernel gives no network namespaces: {error.stderr.decode().strip()}")
        yield hosts
