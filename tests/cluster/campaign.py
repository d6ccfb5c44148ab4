#!/usr/bin/env python3
"""One campaign: a cluster, clients, a nemesis, and judges over what the clients saw.

usage: campaign.py [--seed N] [--seconds N] [--nodes 3|5] [--network proxy|netns|none]
                   [--restarts] [--json]

Prints its seed, what it does to the cluster, and what came of it. With --restarts one master is
killed and started again every 5 s instead, under as much load as the clients can make. Exit
status: 0 nothing wrong, 1 something is, 2 usage, 4 skipped. Environment: LOCKERD.
"""
import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

import harness
import judge
import lockset
import netns
import networks
import workload
from harness import RespError, eventually, node_states
from nemesis import Nemesis, schedule

MAX_LEASE_MS = 2000
ATTEMPT_MS = 250
# Longer than it takes to see that a silent node is one (5 s), and than a noisy machine needs.
NOQUORUM_LIMIT = 15


class Workers:
    """The client processes of a campaign. Those that stop themselves are woken up again."""

    def __init__(self, directory, nodes, seed, host):
        self.resource = lockset.ResourceServer(host, os.path.join(directory, "resource"))
        self.directory = directory
        self.common = {"nodes": nodes, "seed": seed, "resource": self.resource.address}
        self.processes = []
        self.reports = []
        self.sleepers = []
        self.rng = random.Random(f"{seed}/waking")
        self.threads = []
        self.ended = threading.Event()

    def start(self, **config):
        number = len(self.processes)
        with open(self.history(number), "a", encoding="utf-8"):
            pass  # there from the beginning, for those who look early
        process = workload.start(**{**self.common, "worker": number, **config},
                                 history=self.history(number))
        self.processes.append(process)
        self.reports.append({"counts": {}, "streaks": [], "gaps": []})
        self.watch(self.listen, number)
        if config.get("self_stop"):
            self.watch(self.wake, process, config["set_lease"] / 1000)
        return process

    def watch(self, function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        thread.start()
        self.threads.append(thread)

    def history(self, number):
        return os.path.join(self.directory, f"history{number}")

    def histories(self):
        return [self.history(i) for i in range(len(self.processes))]

    def listen(self, number):
        for line in self.processes[number].stdout:
            self.reports[number] = json.loads(line)

    def wake(self, process, lease):
        """It stops itself, for a tenth of a lease to three leases."""
        while not self.ended.is_set() and process.poll() is None:
            try:
                with open(f"/proc/{process.pid}/stat", encoding="ascii", errors="replace") as stat:
                    stopped = stat.read().rsplit(")", 1)[1].split()[0] in "Tt"
            except OSError:
                return
            if stopped:
                self.ended.wait(0.1 * lease * 30 ** self.rng.random())
                process.send_signal(signal.SIGCONT)
            time.sleep(0.005)

    def counts(self):
        total = collections.Counter()
        for report in list(self.reports):
            total.update(report["counts"])
        return total

    def grants(self):
        return self.counts()["LOCK OK"]

    def longest(self, what):
        """"streaks" (begin, end, client, nodes, what was said) or "gaps", longest first."""
        return sorted((s for r in list(self.reports) for s in r[what]), key=lambda s: s[0] - s[1])

    def finish(self):
        """End them in order; AssertionError if one had ended by itself."""
        wrong = [p.returncode for p in self.processes if p.poll() is not None]
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(60)
        self.ended.set()
        for thread in self.threads:
            thread.join(10)
        self.close()
        wrong += [p.returncode for p in self.processes if p.returncode != 0]
        if wrong:
            raise AssertionError(f"a client process ended with {wrong[0]}")

    def close(self):
        self.ended.set()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.resource.close()


class Campaign:
    words = ("LOCK OK", "EXTEND OK", "RELEASE OK", "UPDATE OK", "CHECK OK", "set added")

    def __init__(self, seed, seconds=20, n=3, network="proxy", say=print):
        self.seed = seed
        self.seconds = seconds
        self.n = n
        self.network = network
        self.say = say
        self.max_lease = MAX_LEASE_MS
        self.faults = schedule(seed, seconds, n, self.max_lease / 1000,
                               None if network == "none" else network)
        self.report = {"seed": seed, "nodes": n, "network": network, "seconds": seconds,
                       "wrong": []}
        self.cluster = self.workers = self.nemesis = None

    def progress(self):
        """How far it is, for whoever watches."""
        nemesis, workers = self.nemesis, self.workers
        if not nemesis or not workers:
            return {}
        return {"grants": workers.grants(), "faults": sum(nemesis.done.values()),
                "now": ", ".join(filter(None, list(nemesis.now.values())))}

    def repeat(self):
        return (f"campaign.py --seed {self.seed} --seconds {self.seconds:g} --nodes {self.n} "
                f"--network {self.network}")

    def run(self):
        """The report; report["wrong"] is empty when all is well."""
        rng = random.Random(f"{self.seed}/set-up")
        self.cluster = cluster = networks.make(
            self.network, self.n, self.seed, max_lease=self.max_lease, attempt_time=ATTEMPT_MS)
        for node in cluster.nodes:
            node.options["threads"] = rng.choice((1, 2))
        try:
            self.workers = Workers(cluster.dir, [n.address for n in cluster.nodes], self.seed,
                                   cluster.nodes[0].address.rsplit(":", 1)[0]
                                   if self.network != "netns" else netns.Namespaces.host(netns.HUB))
            self.nemesis = Nemesis(cluster, cluster, self.workers.processes, self.seed,
                                   wall_offset=rng.random() < 0.5)
            self.say(f"seed {self.seed}, {self.n} nodes, {self.network}; clocks (ppm, ms): "
                     f"{self.nemesis.clocks}")
            cluster.start(60)
            self.start_clients()
            eventually(self.all_begun, "every kind of client gets going", 60)
            self.torment()
            cluster.heal()
            self.settle()
            self.judge()
            cluster.close()
        except AssertionError as error:
            self.keep()
            self.report["wrong"].append(str(error))
        finally:
            if self.workers:
                self.workers.close()
            cluster.abandon()
        return self.report

    def start_clients(self):
        common = {"max_lease": self.max_lease, "attempt": ATTEMPT_MS}
        for _ in range(2):
            self.workers.start(clients={"lock": 6, "register": 3}, **common)
        for _ in range(2):
            self.workers.start(clients={"set": 3}, sets=["fenced", "unfenced"], self_stop=0.03,
                               set_lease=300, **common)
        # Those that stop themselves are nobody else's to stop.
        self.nemesis.workers = self.workers.processes[:2]

    def all_begun(self):
        counts = self.workers.counts()
        return all(counts[word] for word in self.words)

    def torment(self):
        for fault in self.faults:
            self.say(f"  {fault}")
        self.nemesis.run(self.faults)

    def settle(self):
        """All is well again: every node takes part, and every key can be had."""
        cluster = self.cluster
        cluster.wait_active(60)
        before = self.workers.grants()
        eventually(lambda: self.workers.grants() > before, "grants after the faults", 60)
        self.workers.finish()
        keys = sorted({row[0] for row in judge.load(self.workers.histories())["held"]})
        for i, key in enumerate(keys):
            with cluster.nodes[i % self.n].client() as client:
                eventually(lambda: not isinstance(reply := client.cmd(
                    "LOCK", key, "last", 50, "WAIT", 500), RespError) and reply is not None,
                    f"{key} can be locked after the faults", 60)

    def judge(self):
        records = judge.load(self.workers.histories())
        report = self.report
        report["wrong"] += judge.everything(records) + judge.words(self.workers.counts())
        sets = self.workers.resource.sets
        lost = judge.lost_adds(records["add"], sets)
        report["lost"] = dict(collections.Counter(name for name, _ in lost))
        report["wrong"] += [f"element {element} of {name}, which refuses old tokens, was lost"
                            for name, element in lost if name.startswith("fenced")]
        report["records"] = {kind: len(rows) for kind, rows in records.items()}
        report["counts"] = dict(self.workers.counts())
        report["grants"] = self.workers.grants()
        report["faults"] = dict(self.nemesis.done)
        report["net"] = self.cluster.stats()
        streaks = self.workers.longest("streaks")
        report["longest_noquorum"] = round(streaks[0][1] - streaks[0][0], 3) if streaks else 0.0
        if report["wrong"]:
            self.keep()

    def keep(self):
        """What there is to look at, out of reach of the cleaning."""
        if "kept" in self.report or not os.path.isdir(self.cluster.dir):
            return
        to = tempfile.mkdtemp(prefix="locker-nemesis.")
        shutil.copytree(self.cluster.dir, to, dirs_exist_ok=True)
        self.report["kept"] = to
        self.cluster.show_logs(40)
        self.say(f"histories and logs are in {to}; repeat it with: LOCKERD={harness.LOCKERD} "
                 f"tests/cluster/{self.repeat()}")


class Restarts(Campaign):
    """One master is killed and started again every @every seconds, under full load."""
    words = ("LOCK OK", "RELEASE OK")
    window = 20  # seconds, longer than any lease

    def __init__(self, seed, seconds, n=3, every=5.0, say=print):
        super().__init__(seed, seconds, n, "none", say)
        self.every = every
        self.kills = []  # when, whom, seconds until it voted again
        self.windows = judge.Windows()
        self.next_window = None
        self.loaded = 0.0

    def repeat(self):
        return f"campaign.py --restarts --seed {self.seed} --seconds {self.seconds:g} " \
               f"--nodes {self.n}"

    def start_clients(self):
        self.loaded = time.monotonic()
        self.next_window = int(self.loaded // self.window)
        for _ in range(2):
            self.workers.start(clients={"batch": 6}, keys=400, batch=16, wander=0.0,
                               window=self.window, max_lease=self.max_lease, attempt=ATTEMPT_MS)

    def torment(self):
        rng = random.Random(f"{self.seed}/restarts")
        end = time.monotonic() + self.seconds
        due = time.monotonic() + 1
        while due < end:
            self.judge_windows(due - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            node = rng.choice(self.cluster.nodes)
            self.nemesis.now["nodes"] = f"kill one {node.id}"
            killed = time.monotonic()
            node.kill()
            node.start(60)
            watcher = self.cluster.nodes[node.id % self.n]

            def votes():
                with watcher.client() as client:
                    return node_states(client)[node.id][0] == b"active"
            # It is the one that is down: before it votes again no other may be killed.
            eventually(votes, f"node {node.id} votes again", 120)
            self.kills.append((killed, node.id, time.monotonic() - killed))
            self.nemesis.now["nodes"] = None
            self.nemesis.done["kill one"] += 1
            due = max(killed + self.every, time.monotonic())
        time.sleep(1)
        self.report["load"] = round(self.workers.grants() / (time.monotonic() - self.loaded))

    def judge_windows(self, until=None):
        """Those that are over; with @until as long as there is time."""
        while until is None or time.monotonic() < until:
            paths = [f"{path}.{self.next_window}" for path in self.workers.histories()]
            over = (self.next_window + 1) * self.window + 3 < time.monotonic()
            if until is not None and not over:
                return
            if not any(map(os.path.exists, paths)):
                return
            self.windows.add(judge.load(path for path in paths if os.path.exists(path)))
            if not self.windows.wrong:
                for path in paths:
                    os.unlink(path)
            self.next_window += 1

    def settle(self):
        self.cluster.wait_active(60)
        self.workers.finish()

    def judge(self):
        self.judge_windows()
        super().judge()
        report = self.report
        report["wrong"] += self.windows.wrong
        report["judged"] = self.windows.grants
        report["kills"] = len(self.kills)
        report["votes_again"] = self.figures([kill[2] for kill in self.kills])
        report["noquorum"] = self.noquorum()
        gaps = self.workers.longest("gaps")
        report["longest_without_grant"] = round(gaps[0][1] - gaps[0][0], 3) if gaps else None
        report["failover"] = self.figures(
            [max((gap[1] - gap[0] for gap in gaps if killed < gap[1] < killed + self.every / 2),
                 default=0.0) for killed, _, _ in self.kills])

    def noquorum(self):
        """How long clients heard nothing else, while all but one master were there."""
        streaks = self.workers.longest("streaks")
        out = {"streaks": len(streaks), "longest_s": 0.0}
        if streaks:
            begin, end, client, nodes, said = streaks[0]
            out.update(longest_s=round(end - begin, 3), nodes=nodes, said=said)
            if end - begin > NOQUORUM_LIMIT:
                self.report["wrong"].append(
                    f"client {client} heard nothing but NOQUORUM for {end - begin:.1f} s from "
                    f"nodes {nodes} while all masters but one were there: {said}")
        return out

    @staticmethod
    def figures(seconds):
        if not seconds:
            return {}
        seconds = sorted(seconds)
        return {"median_s": round(seconds[len(seconds) // 2], 3), "most_s": round(seconds[-1], 3)}


def summary(report):
    """A few lines for people."""
    counts = report.get("counts", {})
    lines = [f"{report.get('grants', 0)} grants, {sum(counts.values())} answers, "
             f"{len(report['wrong'])} violations; longest NOQUORUM of a client "
             f"{report.get('longest_noquorum', 0):g} s; updates lost without tokens: "
             f"{report.get('lost', {}).get('unfenced', 0)}, with: "
             f"{report.get('lost', {}).get('fenced', 0)}"]
    for name in ("load", "judged", "longest_without_grant"):
        if name in report:
            lines.append(f"{name}: {report[name]}")
    for name in ("faults", "net", "records", "noquorum", "failover", "votes_again"):
        if report.get(name):
            lines.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in
                                                 sorted(report[name].items())))
    words = ", ".join(f"{k} {v}" for k, v in sorted(counts.items()))
    lines.append(f"answers: {words}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n\n")[0])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    parser.add_argument("--network", choices=("proxy", "netns", "none"), default="proxy")
    parser.add_argument("--restarts", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not os.access(harness.LOCKERD, os.X_OK):
        print(f"campaign: no lockerd at {harness.LOCKERD}; set LOCKERD", file=sys.stderr)
        return 2
    if options.network == "netns":
        reason = None if netns.inside() else netns.why_not()
        if reason:
            print(reason, file=sys.stderr)
            return 4
        netns.enter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = options.seed if options.seed is not None else random.randrange(1, 2**31)


    def say(line):
        print(json.dumps({"say": line}) if options.json else line, flush=True)

    if options.restarts:
        campaign = Restarts(seed, options.seconds, options.nodes, say=say)
    else:
        campaign = Campaign(seed, options.seconds, options.nodes, options.network, say)
    if options.json:
        def watch():
            while True:
                time.sleep(1)
                print(json.dumps({"progress": campaign.progress()}), flush=True)
        threading.Thread(target=watch, daemon=True).start()
    report = campaign.run()
    if options.json:
        print(json.dumps({"report": report}), flush=True)
    else:
        print(summary(report))
        for sentence in report["wrong"]:
            print(f"WRONG: {sentence}")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
