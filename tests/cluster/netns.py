"""Nodes in network namespaces of their own, on one bridge, with packet filters between them.

The program that uses them runs itself again in new namespaces for network, mounts and processes
(with an own user namespace where it is not root): so it needs no rights on the machine, touches
nothing of it, and when it ends, whatever way, the kernel clears everything away, processes too.

    if reason := netns.why_not(): skip, and say why
    netns.enter()                 # from here on inside
    net = netns.Namespaces(5)
"""
import os
import shutil
import subprocess
import sys

INSIDE = "LOCKER_TEST_NETNS"
PREFIX = "10.77.0."
HUB = 254  # where the clients are

FILTER = """
table ip nemesis {
	set of_cut { type ipv4_addr; }
	set of_lossy { type ipv4_addr; }
	set of_reset { type ipv4_addr; }
	chain input {
		type filter hook input priority 0; policy accept;
		ip saddr @of_cut drop
		ip saddr @of_lossy numgen random mod 100 < 25 drop
		ip saddr @of_reset meta l4proto tcp reject with tcp reset
	}
}
"""


def _unshare():
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        words[1:1] = ["--user", "--map-root-user"]
    return words


def why_not():
    """Why there can be no such namespaces here; None: there can."""
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("nft", "nftables"),
                             ("mount", "util-linux")):
        if shutil.which(program, path=_path()) is None:
            return f"there is no {program} (package {package})"
    done = subprocess.run([*_unshare(), sys.executable, os.path.abspath(__file__), "--probe"],
                          capture_output=True, text=True, errors="replace", check=False,
                          env={**os.environ, "PATH": _path()}, timeout=60)
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).strip() or f"status {done.returncode}"
    return "no network namespaces with packet filters here: " + said.splitlines()[0]


def _path():
    """Not everybody has these in the path."""
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def inside():
    return os.environ.get(INSIDE) == "1"


def enter():
    """Run this program again, inside. Does not return outside."""
    if inside():
        return
    os.environ.update({INSIDE: "1", "PATH": _path()})
    sys.stdout.flush()
    sys.stderr.flush()
    words = [*_unshare(), sys.executable, *sys.orig_argv[1:]]
    os.execvp(words[0], words)


def run(*words, text=None):
    done = subprocess.run(words, input=text, capture_output=True, text=True, errors="replace",
                          check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")


class Namespaces:
    """@n of them, of nodes 1 to @n; this process is at the hub. Ends with this process."""

    def __init__(self, n):
        self.nodes = range(1, n + 1)
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "hub", "type", "bridge")
        run("ip", "addr", "add", f"{self.host(HUB)}/24", "dev", "hub")
        run("ip", "link", "set", "hub", "up")
        for i in self.nodes:
            name = f"node{i}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", name, "master", "hub", "up")
            run("ip", "-n", name, "addr", "add", f"{self.host(i)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            self._nft(i, FILTER)

    @staticmethod
    def host(i):
        return f"{PREFIX}{i}"

    @staticmethod
    def prefix(i):
        """Words before a command line, to run it there."""
        return ("ip", "netns", "exec", f"node{i}")

    @staticmethod
    def _nft(i, text):
        run("ip", "netns", "exec", f"node{i}", "nft", "-f", "-", text=text)

    def set(self, name, pairs):
        """Of each (a, b) in @pairs: what a sends is cut, lossy or reset at b; of no other."""
        for i in self.nodes:
            sources = sorted({a for a, b in pairs if b == i})
            text = f"flush set ip nemesis of_{name}\n"
            if sources:
                text += (f"add element ip nemesis of_{name} "
                         f"{{ {', '.join(map(self.host, sources))} }}\n")
            self._nft(i, text)


if __name__ == "__main__" and sys.argv[1:] == ["--probe"]:
    try:
        Namespaces(1).set("cut", [(2, 1)])
    except OSError as error:
        print(error)
        sys.exit(1)
