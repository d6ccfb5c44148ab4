"""A cluster that is changed while clients use it: what they see, what some keep all along, and the
judges over both."""
import random
import sys
import time

import campaign
import judge
from harness import RespError, as_map, background, eventually

CLIENTS = 64
CLIENT_LEASE_MS = 2000
# Of the cluster: what Keeper keeps outlives a test.
OPTIONS = {"max_lease": 600000, "attempt_time": 500}
WAYS_TO_FAIL_FOR_NOW = ("BUSY", "NOTREADY", "NOQUORUM", "UNKNOWN")


def say(line):
    print(line, file=sys.stderr, flush=True)


class Load:
    """Clients on @nodes of the cluster that lock, extend, check, update and let go."""

    def __init__(self, cluster, nodes=None, clients=CLIENTS, seed=None, host=None):
        self.seed = random.randrange(1, 2**31) if seed is None else seed
        nodes = nodes or cluster.nodes
        self.workers = campaign.Workers(
            cluster.dir, [n.address for n in nodes], self.seed,
            host or cluster.nodes[0].address.rsplit(":", 1)[0])
        self.marks = []
        for _ in range(2):
            self.workers.start(
                clients={"lock": clients * 3 // 8, "register": clients // 8}, keys=200, registers=8,
                max_lease=CLIENT_LEASE_MS, attempt=OPTIONS["attempt_time"])

    def begin(self, begun=None):
        """Until they have got going."""
        eventually(lambda: self.workers.grants() > (begun or CLIENTS), "the clients get going", 60)
        return self

    def more(self, grants=100):
        """Until there are some more grants: the cluster serves."""
        before = self.workers.grants()
        eventually(lambda: self.workers.grants() > before + grants, "further grants", 60)

    def during(self, what, function, *args, **words):
        """The value of the function; how the clients fared meanwhile is said at the end."""
        begun = time.monotonic()
        value = function(*args, **words)
        self.marks.append((what, begun, time.monotonic()))
        return value

    def judged(self):
        """End them. Sentences about what must not have happened."""
        self.workers.finish()
        records = judge.load(self.workers.histories())
        reads = sorted(row[4] for row in records["held"])
        for what, begun, ended in self.marks:
            inside = [t for t in reads if begun <= t <= ended]
            points = [begun, *inside, ended]
            pause = max(b - a for a, b in zip(points, points[1:]))
            say(f"  {what}: {ended - begun:.2f} s, {len(inside)} grants, longest pause without a "
                f"grant of anybody {pause * 1000:.0f} ms")
        streaks = self.workers.longest("streaks")
        longest = streaks[0][1] - streaks[0][0] if streaks else 0.0
        counts = self.workers.counts()
        say(f"  seed {self.seed}: {self.workers.grants()} grants, longest NOQUORUM of a client "
            f"{longest:.2f} s, NOQUORUM {sum(n for w, n in counts.items() if 'NOQUORUM' in w)}, "
            f"UNKNOWN {sum(n for w, n in counts.items() if 'UNKNOWN' in w)} of "
            f"{sum(counts.values())} answers")
        return judge.everything(records) + judge.words(counts)

    def close(self):
        self.workers.close()


class Keeper:
    """Locks that somebody keeps from before a change until after it, and others that were let go
    before it: none may be lost, none may come back."""

    def __init__(self, node, n=200):
        self.tokens = {}
        with node.client() as client:
            for key, reply in self.each(client, n, "kept", "LOCK", "keeper", 500000):
                self.tokens[key] = as_map(reply)[b"token"]
            list(self.each(client, n, "gone", "LOCK", "keeper", 500000))
            list(self.each(client, n, "gone", "RELEASE", "keeper"))
        self.n = n

    def each(self, client, n, name, verb, *words):
        """[(key, reply)] of the command for each key; repeated where that is what to do."""
        done = []
        for i in range(n):
            key = f"{name}{i}"
            reply = self.insist(client, verb, key, *words)
            if reply is None or isinstance(reply, RespError):
                raise AssertionError(f"{verb} {key}: {reply!r}")
            done.append((key, reply))
        return done

    @staticmethod
    def insist(client, *command):
        box = []

        def answered():
            box[:] = [client.cmd(*command)]
            return getattr(box[0], "word", None) not in WAYS_TO_FAIL_FOR_NOW
        eventually(answered, f"an answer to {command}", 30, 0.05)
        return box[0]

    def wrong(self, node):
        """Sentences; asked by way of @node."""
        wrong = []
        with node.client() as client:
            for key, token in self.tokens.items():
                for command, good in ((("CHECK", key, token), 1),
                                      (("READ", key, "QUORUM"), b"keeper"),
                                      (("LOCK", key, "thief", 1000), None)):
                    reply = self.insist(client, *command)
                    if reply != good:
                        wrong.append(f"{command} by way of node {node.id}: {reply!r}")
                reply = self.insist(client, "EXTEND", key, "keeper", 500000, "TOKEN", token)
                if isinstance(reply, RespError) or as_map(reply)[b"token"] != token:
                    wrong.append(f"EXTEND {key} by way of node {node.id}: {reply!r}")
            for i in range(self.n):
                reply = self.insist(client, "LOCK", f"gone{i}", "next", 5000)
                if isinstance(reply, RespError) or reply is None:
                    wrong.append(f"LOCK gone{i}, which was let go, by way of node {node.id}: "
                                 f"{reply!r}")
                else:
                    self.insist(client, "RELEASE", f"gone{i}", "next", "TOKEN",
                                as_map(reply)[b"token"])
        return wrong


def agreed(nodes, masters, replicas=(), timeout=30):
    """Until all of @nodes tell the same epoch with these masters and replicas; the epoch."""
    def same():
        seen = set()
        for node in nodes:
            with node.client() as client:
                reply = as_map(client.cmd("NODES"))
            seen.add((reply[b"epoch"], tuple(reply[b"masters"]), tuple(reply[b"replicas"])))
        (epoch, now_masters, now_replicas), *rest = sorted(seen)
        return not rest and (now_masters, now_replicas) == (tuple(masters), tuple(replicas)) \
            and epoch
    return eventually(same, f"all agree on masters {masters}, replicas {replicas}", timeout)


def in_background(cluster, *args, **words):
    """SETNODES; join() gives its reply."""
    return background(lambda: cluster.set_nodes(*args, **words))
