"""What befalls a cluster: a schedule of faults made of a seed, and who carries it out.

Times and lengths are drawn from the seed alone, so the same seed gives the same schedule; how the
nodes take it depends on the machine.
"""
import collections
import random
import signal
import threading
import time

CLOCK_PPM = 1000  # of --drift-ppm: rates stay within it
WALL_OFFSET_MS = 3600 * 1000
RATE, WALL = "LOCKER_TEST_CLOCK_RATE_PPM", "LOCKER_TEST_WALL_OFFSET_MS"
TRACKS = ("nodes", "network", "clients")

# Kind: how often, compared with the others of its track.
NODE_FAULTS = {"kill one": 4, "end one": 1, "kill minority": 1, "kill all": 0.5, "stop one": 4,
               "stop majority": 1, "stop all": 0.4}
NETWORK_FAULTS = {"isolate": 3, "halves": 2, "bridge": 2, "one way": 3, "one link": 2, "reset": 2}
PROXY_FAULTS = {"slow": 2, "lossy": 2, "twice": 2, "reorder": 2, "torn": 1, "everything": 2}
NETNS_FAULTS = {"lossy": 2}
CLIENT_FAULTS = {"stop clients": 1}


class Fault:
    def __init__(self, at, track, kind, length, **more):
        self.at = at
        self.track = track
        self.kind = kind
        self.length = length
        self.nodes = more.pop("nodes", ())
        self.pairs = more.pop("pairs", ())
        self.more = more

    def __str__(self):
        words = [f"{self.at:6.2f} s  {self.kind}"]
        if self.nodes:
            words.append(",".join(map(str, self.nodes)))
        if self.pairs:
            words.append(" ".join(f"{a}>{b}" for a, b in self.pairs))
        words += [f"{name} {value}" for name, value in self.more.items()]
        return " ".join(words) + f", {self.length:.2f} s"


def choose(rng, weights):
    kinds = sorted(weights)
    return rng.choices(kinds, [weights[kind] for kind in kinds])[0]


def between(nodes, others):
    """All directions between the two groups, both ways."""
    return sorted({(a, b) for a in nodes for b in others if a != b}
                  | {(b, a) for a in nodes for b in others if a != b})


def partition(rng, kind, n):
    """Directed pairs that are cut."""
    order = rng.sample(range(1, n + 1), n)
    half = n // 2
    if kind == "halves":
        return between(order[:half], order[half:])
    if kind == "bridge":  # one node sees both halves, which do not see each other
        return between(order[:half], order[half + 1:])
    if kind == "one way":  # a node hears nobody, or is heard by nobody
        others = order[1:]
        if rng.random() < 0.5:
            return sorted((order[0], b) for b in others)
        return sorted((b, order[0]) for b in others)
    if kind == "one link":
        return [(order[0], order[1])]
    return between(order[:1], order[1:])  # isolate, reset


def all_pairs(n):
    return [(a, b) for a in range(1, n + 1) for b in range(1, n + 1) if a != b]


def schedule(seed, seconds, n, lease, network):
    """Faults in the order of their beginning. @lease in seconds; @network "proxy", "netns" or
    None: only that of the machine."""
    faults = []
    for track in TRACKS:
        rng = random.Random(f"{seed}/{track}")
        at = rng.uniform(0, lease)
        while at < seconds:
            # From a tenth of a lease to three leases, short ones as often as long ones.
            length = 0.1 * lease * 30 ** rng.random()
            fault = {"nodes": node_fault, "network": network_fault, "clients": client_fault}[track](
                rng, at, length, n, network)
            if fault is None:
                break
            if at + fault.length > seconds:
                fault.length = max(0.05, seconds - at)
            faults.append(fault)
            at += fault.length + rng.uniform(0.2, 1.5) * lease
    return sorted(faults, key=lambda f: f.at)


def node_fault(rng, at, length, n, _):
    kind = choose(rng, NODE_FAULTS)
    order = rng.sample(range(1, n + 1), n)
    minority = (n - 1) // 2
    size = {"one": 1, "minority": rng.randint(1, minority), "majority": n // 2 + 1,
            "all": n}[kind.split()[1]]
    nodes = sorted(order[:size])
    if kind.startswith("stop"):
        return Fault(at, "nodes", kind, length, nodes=nodes)
    rates = [rng.randint(-CLOCK_PPM, CLOCK_PPM) for _ in nodes]
    wall = rng.choice((-WALL_OFFSET_MS, 0, WALL_OFFSET_MS))
    # Down for a moment mostly: a node that is back soon is the harder case.
    return Fault(at, "nodes", kind, rng.choice((0, 0, 0.3, 1)) * length, nodes=nodes, rates=rates,
                 wall=wall)


def network_fault(rng, at, length, n, network):
    if network is None:
        return None
    kinds = {**NETWORK_FAULTS, **(PROXY_FAULTS if network == "proxy" else NETNS_FAULTS)}
    kind = choose(rng, kinds)
    if kind in NETWORK_FAULTS:
        pairs = partition(rng, kind, n)
        if kind == "reset":
            return Fault(at, "network", kind, 0.05, pairs=pairs)
        return Fault(at, "network", kind, length, pairs=pairs, how=rng.choice(("drop", "hold")))
    pairs = all_pairs(n)
    if rng.random() < 0.5:
        pairs = sorted(rng.sample(pairs, rng.randint(1, len(pairs))))
    delay = [0, rng.choice((2, 20, 100, 400))]
    rules = {
        "slow": {"delay": delay},
        "lossy": {"loss": rng.choice((0.02, 0.2, 0.5))},
        "twice": {"twice": 0.3, "delay": delay},
        "reorder": {"reorder": 0.3, "delay": delay},
        "torn": {"tear": rng.choice((0.002, 0.02))},
        "everything": {"delay": delay, "loss": 0.05, "twice": 0.1, "reorder": 0.1, "tear": 0.001},
    }
    return Fault(at, "network", kind, length, pairs=pairs, rule=rules[kind])


def client_fault(rng, at, length, *_):
    return Fault(at, "clients", "stop clients", length, which=rng.random())


class Nemesis:
    """Carries a schedule out, a thread for each track. @net has cut(pairs, how), rule(pairs, rule),
    reset(pairs) and heal(); @workers are processes."""

    def __init__(self, cluster, net, workers, seed, wall_offset=False):
        self.cluster = cluster
        self.net = net
        self.workers = workers
        self.done = collections.Counter()
        self.now = {}  # by track
        self.errors = []
        self.stop = threading.Event()
        rng = random.Random(f"{seed}/clocks")
        for node in cluster.nodes:
            self.bend(node, rng.randint(-CLOCK_PPM, CLOCK_PPM))
        if wall_offset:
            node = rng.choice(cluster.nodes)
            offset = rng.choice((-WALL_OFFSET_MS, WALL_OFFSET_MS))
            node.env[WALL] = str(offset)
        self.clocks = ", ".join(" ".join([str(n.id), *n.env.values()]) for n in cluster.nodes)

    @staticmethod
    def bend(node, ppm):
        node.env[RATE] = str(ppm)

    def run(self, faults):
        """Until the last of them is over; then nothing is cut, stopped or down any more."""
        begun = time.monotonic()
        # Not join(): interrupted by a signal's exception it takes a thread that runs for ended.
        ends = []
        for track in TRACKS:
            ends.append(threading.Event())
            threading.Thread(target=self.track, args=(
                begun, track, [f for f in faults if f.track == track], ends[-1])).start()
        try:
            for end in ends:
                end.wait()
        except BaseException:
            self.stop.set()
            for end in ends:
                end.wait()
            raise
        finally:
            self.heal()
        if self.errors:
            raise self.errors[0]

    def track(self, begun, track, faults, end):
        try:
            for fault in faults:
                if self.stop.wait(max(0.0, begun + fault.at - time.monotonic())):
                    return
                self.now[track] = " ".join([fault.kind, *map(str, fault.nodes)])
                self.carry_out(fault)
                self.now[track] = None
                self.done[fault.kind] += 1
        except BaseException as error:  # handed to the thread that waits
            self.errors.append(error)
            self.stop.set()
        finally:
            end.set()

    def carry_out(self, fault):
        verb = fault.kind.split()[0]
        nodes = [self.cluster[i] for i in fault.nodes]
        if fault.track == "clients":
            self.stop_clients(fault)
        elif verb in ("kill", "end"):
            self.restart(fault, nodes)
        elif verb == "stop":
            for node in nodes:
                node.send_signal(signal.SIGSTOP)
            self.stop.wait(fault.length)
            for node in nodes:
                node.resume()
        elif fault.kind == "reset":
            self.net.reset(fault.pairs)
        elif "rule" in fault.more:
            self.net.rule(fault.pairs, fault.more["rule"])
            self.stop.wait(fault.length)
            self.net.rule(fault.pairs, None)
        else:
            self.net.cut(fault.pairs, fault.more["how"])
            self.stop.wait(fault.length)
            self.net.cut(fault.pairs, None)

    def restart(self, fault, nodes):
        for node in nodes:
            if fault.kind.startswith("end"):
                status = node.terminate()
                if status != 0:
                    raise AssertionError(f"node {node.id} ended with {status} on SIGTERM")
            else:
                node.kill()
        self.stop.wait(fault.length)
        for node, ppm in zip(nodes, fault.more["rates"]):
            self.bend(node, ppm)
            if WALL in node.env:
                node.env[WALL] = str(fault.more["wall"])
            node.spawn()
        for node in nodes:
            node.wait_ready(60)

    def stop_clients(self, fault):
        worker = self.workers[int(fault.more["which"] * len(self.workers))]
        worker.send_signal(signal.SIGSTOP)
        self.stop.wait(fault.length)
        worker.send_signal(signal.SIGCONT)

    def heal(self):
        if self.net:
            self.net.heal()
        for node in self.cluster.nodes:
            if node.running():
                node.resume()
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
