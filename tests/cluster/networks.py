"""Clusters whose network obeys: cut(pairs, how), rule(pairs, rule), reset(pairs), heal(), stats().
A pair (a, b) is what a sends to b. None for how or rule: as it was."""
import time

import netns
from harness import Cluster, Node, free_address
from proxy import Proxy

RESET_SECONDS = 0.3


def split(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


class PlainCluster(Cluster):
    """On the loopback; its network is beyond reach."""

    def heal(self):
        pass

    def stats(self):
        return {}


class ProxiedCluster(Cluster):
    """Each node finds the others by way of a proxy. Always possible."""

    def __init__(self, n, seed=1, **options):
        super().__init__(n, start=False, **options)
        self.proxy = None
        self.routes = {(a.id, b.id): free_address() for a in self.nodes for b in self.nodes
                       if a is not b}
        self.proxy = Proxy([(a, b, split(listen), split(self[b].peer_address))
                            for (a, b), listen in self.routes.items()], seed)

    def peer_address(self, reader, node):
        return node.peer_address if reader is node else self.routes[reader.id, node.id]

    def cut(self, pairs, how):
        self.rule(pairs, how and {"cut": how})

    def rule(self, pairs, rule):
        self.proxy.rule(pairs, **(rule or {}))

    def reset(self, pairs):
        self.proxy.reset(pairs)

    def heal(self):
        self.proxy.rule(list(self.routes))

    def stats(self):
        return self.proxy.read_stats()

    def abandon(self):
        super().abandon()
        if self.proxy:
            self.proxy.close()
            self.proxy = None


class NetnsNode(Node):
    def __init__(self, cluster, number, join=None):
        super().__init__(cluster, number, join)
        host = netns.Namespaces.host(number)
        self.address, self.peer_address = f"{host}:7401", f"{host}:7501"
        self.prefix = netns.Namespaces.prefix(number)

    def wait_ports_free(self):
        """They cannot be tried from here; lockerd itself waits a moment for its predecessor's."""


class NetnsCluster(Cluster):
    """Each node in a network namespace of its own (netns.py tells what it takes)."""
    node_class = NetnsNode
    spaces = None

    def __init__(self, n, seed=1, **options):
        if NetnsCluster.spaces is None:
            NetnsCluster.spaces = netns.Namespaces(5)
        super().__init__(n, start=False, **options)
        self.heal()

    def cut(self, pairs, how):
        self.spaces.set("cut", pairs if how else [])

    def rule(self, pairs, rule):
        self.spaces.set("lossy", pairs if rule else [])

    def reset(self, pairs):
        self.spaces.set("reset", pairs)
        time.sleep(RESET_SECONDS)
        self.spaces.set("reset", [])

    def heal(self):
        for name in ("cut", "lossy", "reset"):
            self.spaces.set(name, [])

    def stats(self):
        return {}


def make(network, n, seed, **options):
    """A cluster, not started. @network "proxy", "netns" or "none"."""
    if network == "none":
        return PlainCluster(n, start=False, **options)
    return {"proxy": ProxiedCluster, "netns": NetnsCluster}[network](n, seed=seed, **options)


