#!/usr/bin/env python3
"""Clients that lock, hold, extend, check, release and update, and write down what they believed.

A process of its own, so that it can be stopped and killed; its clients are threads. It reads one
line, how to behave (see start()), writes its history to a file (judge.py tells the records), a
line of counts to stdout each second, and ends when its stdin does.
"""
import collections
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import harness
from harness import Client, Closed, as_map
from lockset import Resource


class Answer:
    """What became of a command. word: OK, null, an error's first word, SILENT (it may have been
    carried out) or UNSENT."""
    __slots__ = ("word", "reply", "sent", "read")

    def __init__(self, word, reply, sent, read):
        self.word = word
        self.reply = reply
        self.sent = sent
        self.read = read


class Longest:
    """The longest of many spans: (begin, end, what else is to be said)"""

    def __init__(self, kept):
        self.kept = kept
        self.spans = []

    def add(self, *span):
        self.spans.append(span)
        if len(self.spans) >= 2 * self.kept:
            self.spans.sort(key=lambda s: s[0] - s[1])
            del self.spans[self.kept:]


class Worker:
    """What the clients of a process share."""

    def __init__(self, config):
        self.config = config
        self.lock = threading.Lock()
        self.window = self.history = None
        self.turn()
        self.stop = threading.Event()
        self.counts = collections.Counter()
        self.streaks = Longest(100)  # of NOQUORUM
        self.gaps = {}  # the longest between two grants of a client, by the second of its end

    def turn(self):
        """Histories may be cut into windows of time, to be judged while others are written."""
        seconds = self.config["window"]
        window = int(time.monotonic() // seconds) if seconds else None
        with self.lock:
            if self.history is None or window != self.window:
                if self.history:
                    self.history.close()
                self.window = window
                path = self.config["history"] + ("" if window is None else f".{window}")
                self.history = open(path, "a", encoding="utf-8", buffering=1 << 16)

    def write(self, *record):
        line = json.dumps(record, separators=(",", ":")) + "\n"
        with self.lock:
            self.history.write(line)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1


class Actor:
    """One client: a connection to each node it speaks to, one home, one request at a time."""

    def __init__(self, worker, number):
        config = worker.config
        self.worker = worker
        self.name = f"{config['worker']}-{number}"
        self.rng = random.Random(f"{config['seed']}/{self.name}")
        self.home = (number + config["worker"]) % len(config["nodes"])
        self.away_until = 0.0  # its home was not there
        self.rate = self.rng.uniform(-1, 1) * config["drift_ppm"] / 1e6  # of this client's clock
        self.connections = {}
        self.patience = (2 * config["attempt"] + 1000) / 1000
        self.serial = 0
        self.streak = None  # NOQUORUM and nothing better: [sent, read, nodes, what was said]
        self.granted = None  # when the last grant was read

    def run(self):
        while not self.worker.stop.is_set():
            self.step()
        self.end_streak()

    def step(self):
        raise NotImplementedError

    def value(self):
        self.serial += 1
        return f"{self.name}.{self.serial}"

    def until(self, answer):
        """The end of a grant on the host's clock, as a client whose clock is off sees it."""
        return answer.sent + as_map(answer.reply)[b"valid-ms"] / 1000 / (1 + self.rate)

    def node(self):
        """Mostly the same one: any of them will do."""
        n = len(self.worker.config["nodes"])
        if self.rng.random() < self.worker.config["wander"]:
            return self.rng.randrange(n)
        return self.home if time.monotonic() >= self.away_until else (self.home + 1) % n

    def drop(self, node):
        client = self.connections.pop(node, None)
        if client:
            client.close()
        if node == self.home:
            self.away_until = time.monotonic() + 1 + self.rng.random()

    def call(self, *words, node=None, more_patience=0, name=None):
        node = self.node() if node is None else node
        sent = time.monotonic()
        try:
            client = self.connections.get(node)
            if client is None:
                client = Client(self.worker.config["nodes"][node], timeout=self.patience)
                self.connections[node] = client
        except OSError:
            self.drop(node)
            time.sleep(0.01 + self.rng.random() * 0.05)
            return self.done(words[0], node, Answer("UNSENT", None, sent, time.monotonic()), name)
        try:
            client.sock.settimeout(self.patience + more_patience)
            sent = time.monotonic()
            reply = client.cmd(*words)
            word = getattr(reply, "word", "OK" if reply is not None else "null")
        except (OSError, Closed):
            reply, word = None, "SILENT"
            self.drop(node)
        return self.done(words[0], node, Answer(word, reply, sent, time.monotonic()), name)

    def done(self, command, node, answer, name=None):
        self.worker.count(f"{name or command} {answer.word}")
        if answer.word == "NOQUORUM":
            if self.streak is None:
                self.streak = [answer.sent, answer.read, set(), answer.reply.text]
            self.streak[1] = answer.read
            self.streak[2].add(node + 1)
        elif answer.word not in ("SILENT", "UNSENT", "NOTREADY"):
            self.end_streak()
        if command == "LOCK" and answer.word == "OK":
            if self.granted is not None:
                gaps, second = self.worker.gaps, int(answer.read)
                with self.worker.lock:
                    gaps[second] = max(gaps.get(second, (0, 0)), (self.granted, answer.read),
                                       key=lambda gap: gap[1] - gap[0])
            self.granted = answer.read
        return answer

    def end_streak(self):
        if self.streak is None:
            return
        with self.worker.lock:
            begin, end, nodes, said = self.streak
            self.worker.streaks.add(begin, end, self.name, sorted(nodes), said)
        self.streak = None

    def held(self, key, value, token, sent, start, end):
        self.worker.write("held", key, value, token, sent, start, end, self.name)


class Locker(Actor):
    """Takes a key, believes, looks around, extends, lets go or forgets."""

    def step(self):
        config, rng = self.worker.config, self.rng
        key = f"lock{rng.randrange(config['keys'])}"
        value = self.value()
        ttl = rng.choice((30, 200, 800, config["max_lease"]))
        wait = rng.choice((20, 500)) if rng.random() < 0.4 else 0
        words = ["LOCK", key, value, ttl] + (["WAIT", wait] if wait else [])
        answer = self.call(*words, more_patience=wait / 1000)
        if answer.word in ("NOQUORUM", "SILENT", "BUSY") and rng.random() < 0.5:
            answer = self.call("LOCK", key, value, ttl, "IDEMPOTENT", name="LOCK-AGAIN")
        if answer.word == "OK":
            self.hold(key, value, answer, ttl)
        else:
            if rng.random() < 0.1:
                look = self.call("READ", key, "QUORUM")
                if look.word in ("OK", "null"):
                    self.saw(key, look)
            time.sleep(rng.random() * 0.03)

    def saw(self, key, look):
        value = None if look.reply is None else look.reply.decode()
        self.worker.write("read", key, value, look.sent, look.read)

    def hold(self, key, value, answer, ttl):
        """From the grant until the belief ends."""
        token = as_map(answer.reply)[b"token"]
        sent, start, end = answer.sent, answer.read, self.until(answer)
        rng = self.rng
        while rng.random() < 0.6:
            what = rng.random()
            if what < 0.4:
                time.sleep(rng.random() * rng.choice((0.001, 0.01, 0.2)))
                continue
            if what < 0.6:
                look = self.call("CHECK", key, token)
                if look.word == "OK":
                    self.worker.write("check", key, token, look.reply, look.sent, look.read)
                continue
            if what < 0.75:
                look = self.call("READ", key, "QUORUM")
                if look.word in ("OK", "null"):
                    self.saw(key, look)
                continue
            more = self.call("EXTEND", key, value, ttl, "TOKEN", token)
            if more.word == "OK":
                if more.read < end:
                    end = max(end, self.until(more))
                else:
                    self.held(key, value, token, sent, start, end)
                    sent, start, end = more.sent, more.read, self.until(more)
            elif more.word in ("NOTFOUND", "NOTOWNER"):
                self.worker.write("lost", key, token, f"EXTEND {more.word}", more.sent, more.read,
                                  end)
                break
        if rng.random() >= 0.85:
            self.held(key, value, token, sent, start, end)
            return
        self.held(key, value, token, sent, start, min(end, time.monotonic()))
        gone = self.call("RELEASE", key, value, "TOKEN", token)
        if gone.word in ("NOTFOUND", "NOTOWNER"):
            self.worker.write("lost", key, token, f"RELEASE {gone.word}", gone.sent, gone.read,
                              end)
        elif gone.word == "UNKNOWN" and rng.random() < 0.5:
            # It was said that this release does nothing any more: the lock may be taken up again.
            again = self.call("EXTEND", key, value, ttl, "TOKEN", token)
            if again.word == "OK":
                self.hold(key, value, again, ttl)


class Batcher(Actor):
    """As many locks a second as can be had: takes many keys in one write, lets them go in the
    next. Some of the keys are judged."""

    def __init__(self, worker, number):
        super().__init__(worker, number)
        self.judged = {f"load{i}" for i in range(worker.config["judged"])}

    def step(self):
        config, rng = self.worker.config, self.rng
        keys = [f"load{rng.randrange(config['keys'])}" for _ in range(config["batch"])]
        names = {key: self.value() for key in keys}
        granted = []
        for key, answer in self.many([(k, ("LOCK", k, names[k], config["max_lease"]))
                                      for k in names]):
            if answer.word == "OK":
                token = as_map(answer.reply)[b"token"]
                granted.append((key, token, answer.sent, answer.read, self.until(answer)))
        now = time.monotonic()
        for key, token, sent, start, end in granted:
            if key in self.judged:
                self.held(key, names[key], token, sent, start, min(end, now))
        for (key, answer), grant in zip(
                self.many([(k, ("RELEASE", k, names[k], "TOKEN", t))
                           for k, t, _, _, _ in granted]), granted):
            if answer.word in ("NOTFOUND", "NOTOWNER"):
                self.worker.write("lost", key, grant[1], f"RELEASE {answer.word}", answer.sent,
                                  answer.read, grant[4])

    def many(self, commands):
        """[(key, Answer)] of all that were answered, sent with one write."""
        node, answers = self.node(), []
        if not commands:
            return answers
        first = self.call(*commands[0][1], node=node)
        answers.append((commands[0][0], first))
        client = self.connections.get(node)
        if client is None:
            return answers
        sent = time.monotonic()
        try:
            client.send_raw(b"".join(harness.encode(*words) for _, words in commands[1:]))
            for key, words in commands[1:]:
                reply = client.read()
                word = getattr(reply, "word", "OK" if reply is not None else "null")
                answers.append((key, self.done(words[0], node, Answer(word, reply, sent,
                                                                      time.monotonic()))))
        except (OSError, Closed):
            self.drop(node)
        return answers


class Setter(Actor):
    """Jepsen's lock set: reads a set, adds an element, writes it back, under a lock; sometimes its
    whole process is stopped in the middle. It looks at its clock before it begins, as it should,
    and not again."""

    def step(self):
        config, rng = self.worker.config, self.rng
        name = rng.choice(config["sets"])
        value, ttl = self.value(), config["set_lease"]
        answer = self.call("LOCK", name, value, ttl, "WAIT", 200, more_patience=0.2)
        if answer.word != "OK":
            time.sleep(rng.random() * 0.02)
            return
        token, end = as_map(answer.reply)[b"token"], self.until(answer)
        if time.monotonic() < end:
            self.add(name, value, token)
        self.held(name, value, token, answer.sent, answer.read, min(end, time.monotonic()))
        self.call("RELEASE", name, value, "TOKEN", token)

    def add(self, name, element, token):
        try:
            resource = Resource(self.worker.config["resource"], name, token)
        except OSError:
            return
        with resource:
            elements = resource.read()
            if elements is None:
                self.worker.count("set refused")
                return
            time.sleep(self.rng.random() * 0.005)
            if self.rng.random() < self.worker.config["self_stop"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            if resource.write(elements + [element]):
                self.worker.count("set added")
                self.worker.write("add", name, token, element)
            else:
                self.worker.count("set refused")


class Register(Actor):
    """Compare-and-set on the value of a lock, which anybody may take when it is free."""

    def step(self):
        config, rng = self.worker.config, self.rng
        key = f"register{rng.randrange(config['registers'])}"
        look = self.call("HOLDER", key, "QUORUM")
        if look.word == "null":
            value = self.value()
            answer = self.call("LOCK", key, value, config["max_lease"])
            if answer.word == "OK":
                token = as_map(answer.reply)[b"token"]
                self.record(key, token, "first", None, value, answer)
            return
        if look.word != "OK":
            time.sleep(rng.random() * 0.03)
            return
        holder = as_map(look.reply)
        token, value = holder[b"token"], holder[b"value"].decode()
        self.record(key, token, "seen", None, value, look)
        if rng.random() < 0.1:
            self.call("EXTEND", key, value, config["max_lease"], "TOKEN", token)
        time.sleep(rng.random() * 0.03)
        for _ in range(rng.randrange(4)):
            value = self.swap(key, token, value)
            if value is None:
                return

    def record(self, key, token, op, expected, new, answer, sent=None):
        self.worker.write("reg", key, token, op, expected, new,
                          answer.sent if sent is None else sent, answer.read, answer.word)

    def swap(self, key, token, expected):
        """The value that is there now, or None when that is not known."""
        new, sent = self.value(), None
        for _ in range(3):
            answer = self.call("UPDATE", key, expected, new, "TOKEN", token)
            if answer.word != "UNSENT" and sent is None:
                sent = answer.sent
            if answer.word == "OK":
                self.record(key, token, "cas", expected, new, answer, sent)
                return new
            if answer.word in ("NOTOWNER", "NOTFOUND", "BUSY", "LIMIT") and sent == answer.sent:
                self.record(key, token, "miss", expected, new, answer, sent)
                return None
            if answer.word not in ("UNKNOWN", "SILENT", "UNSENT", "NOQUORUM"):
                break
        if sent is not None:
            self.worker.write("reg", key, token, "cas", expected, new, sent, None, answer.word)
        return None


# ---- the process ----

ACTORS = {"lock": Locker, "batch": Batcher, "set": Setter, "register": Register}
DEFAULTS = {
    "seed": 1, "worker": 0, "max_lease": 2000, "attempt": 250, "drift_ppm": 1000, "wander": 0.2,
    "keys": 5, "registers": 2, "sets": ["fenced"], "set_lease": 300, "self_stop": 0.0,
    "batch": 32, "judged": 100, "window": 0, "resource": None, "clients": {"lock": 4},
}


def start(**config):
    """A worker process with these words of DEFAULTS, nodes (addresses) and history (a path)."""
    process = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, start_new_session=True)
    process.stdin.write(json.dumps({**DEFAULTS, **config}) + "\n")
    process.stdin.flush()
    return process


def serve():
    worker = Worker(json.loads(sys.stdin.readline()))
    threads, number = [], 0
    for kind, n in worker.config["clients"].items():
        for _ in range(n):
            actor = ACTORS[kind](worker, number)
            threads.append(threading.Thread(target=actor.run))
            number += 1
    for thread in threads:
        thread.start()

    def wait_for_end():
        sys.stdin.read()
        worker.stop.set()
    threading.Thread(target=wait_for_end, daemon=True).start()

    def report():
        with worker.lock:
            worker.history.flush()
            print(json.dumps({"counts": worker.counts, "streaks": worker.streaks.spans,
                              "gaps": list(worker.gaps.values())}), flush=True)
    while not worker.stop.wait(1):
        # In this order: told to stop, they end.
        if not all(thread.is_alive() for thread in threads) and not worker.stop.is_set():
            os._exit(3)  # its traceback is on stderr
        worker.turn()
        report()
    for thread in threads:
        thread.join()
    report()
    worker.history.close()


if __name__ == "__main__":
    serve()
