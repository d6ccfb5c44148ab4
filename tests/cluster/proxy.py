#!/usr/bin/env python3
"""A network that misbehaves on order, between the peer ports of real nodes.

A process of its own listens once for each pair (a, b) of nodes: there a finds b. It reads the
streams as hello and frames (src/wire/frame.h) and delays, loses, doubles, reorders or holds whole
frames, cuts streams in the middle of one, and resets connections, each direction by a rule of its
own. Run with --bench it says how many frames a second it passes on.

Rules, all optional: cut "drop" (frames vanish) or "hold" (they arrive when the rule ends), loss,
twice and reorder (probabilities), delay [from, to] in ms, tear (probability for a frame that its
connection ends in the middle of it).
"""
import collections
import heapq
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time

HELLO_PREFIX = 12
FRAME_HEADER = 96
FRAME_MAX = 1 << 20
READ_BYTES = 1 << 18
HELD_MAX_BYTES = 4 << 20  # beyond it the sender has to wait
RESET = struct.pack("ii", 1, 0)


class Wire:
    """One direction of one connection."""
    __slots__ = ("proxy", "pair", "source", "sink", "other", "data", "hello", "out", "held",
                 "waiting", "late", "last_due", "begun", "ended", "broken", "deaf", "frames",
                 "open")

    def __init__(self, proxy, pair, source, sink):
        self.proxy = proxy
        self.pair = pair
        self.source = source
        self.sink = sink
        self.other = None  # the other direction
        self.data = bytearray()  # the beginning of what is not whole yet
        self.hello = True  # still to come
        self.out = bytearray()  # due, and the kernel did not take it yet
        self.held = collections.deque()
        self.waiting = 0  # bytes in @held, and those below
        self.late = 0  # frames with a time of their own
        self.last_due = 0.0
        self.begun = 0.0  # when the hello is due: nothing overtakes it
        self.ended = False  # nothing more comes from the source
        self.broken = False  # and that was no orderly end
        self.deaf = False  # the sink takes nothing any more
        self.frames = True  # False: what comes is not understood, and passed on as it is
        self.open = True

    def readable(self):
        try:
            more = self.source.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.lost()
            return
        if not more:
            self.ended = True
            self.proxy.watch(self)
            self.drained()
            return
        self.data += more
        self.take()
        self.proxy.watch(self)

    def lost(self):
        """The source is gone. Whether the other end hears of it is a matter of the rules."""
        self.ended = self.broken = True
        self.other.deaf = True
        self.other.out.clear()
        self.proxy.watch(self)
        self.drained()

    def take(self):
        """Whatever is whole goes on its way."""
        data = self.data
        if self.hello:
            if len(data) < HELLO_PREFIX:
                return
            size = HELLO_PREFIX + int.from_bytes(data[8:12], "little")
            if len(data) < size:
                return
            self.hello = False
            self.send_hello(bytes(data[:size]))
            del data[:size]
        rule = self.proxy.rules.get(self.pair)
        plain = rule is None and not self.held and self.late == 0
        at, end = 0, len(data)
        count = 0
        while self.open and self.frames and end - at >= FRAME_HEADER:
            size = int.from_bytes(data[at + 4:at + 8], "little")
            if size < FRAME_HEADER or size > FRAME_MAX:
                self.frames = False
                self.proxy.stats["not_understood"] += 1
                break
            if end - at < size:
                break
            if not plain:
                self.frame(bytes(data[at:at + size]), rule or {})
            at += size
            count += 1
        if not self.open:
            return
        self.proxy.stats["frames"] += count
        if not self.frames:
            at = end
        if plain or not self.frames:
            self.push(data[:at])
        del data[:at]

    def send_hello(self, hello):
        """A stream without its beginning is none: it may be late, never lost."""
        rule = self.proxy.rules.get(self.pair) or {}
        if rule.get("cut"):
            self.hold(hello)
        else:
            self.later(hello, {"delay": rule.get("delay")})
            self.begun = self.last_due

    def hold(self, data):
        self.waiting += len(data)
        self.held.append(data)

    def frame(self, frame, rule):
        stats, chance = self.proxy.stats, self.proxy.random.random
        if rule.get("cut") == "drop":
            stats["cut"] += 1
            return
        if rule.get("cut") == "hold":
            stats["held"] += 1
            self.hold(frame)
            return
        if rule.get("loss") and chance() < rule["loss"]:
            stats["lost"] += 1
            return
        if rule.get("tear") and chance() < rule["tear"]:
            stats["torn"] += 1
            self.push(frame[:self.proxy.random.randrange(1, len(frame))])
            self.reset(abrupt=chance() < 0.5)
            return
        self.later(frame, rule)
        if rule.get("twice") and chance() < rule["twice"]:
            stats["doubled"] += 1
            self.later(frame, {**rule, "reorder": 1, "delay": rule.get("delay") or (0, 50)})

    def later(self, data, rule):
        """Send @data when its time has come: behind what was sent before unless reordered."""
        now = time.monotonic()
        due = now
        if rule.get("delay"):
            low, high = rule["delay"]
            due += self.proxy.random.uniform(low, high) / 1000
            self.proxy.stats["delayed"] += 1
        if rule.get("reorder") and self.proxy.random.random() < rule["reorder"]:
            self.proxy.stats["reordered"] += 1
            due = max(due, self.begun)
        else:
            due = self.last_due = max(due, self.last_due)
        if due <= now and self.late == 0:
            self.push(data)
        else:
            self.late += 1
            self.waiting += len(data)
            self.proxy.at(due, self, data)

    def release(self):
        """What was held goes on, in order."""
        while self.held and self.open:
            data = self.held.popleft()
            self.waiting -= len(data)
            self.later(data, {})
        self.drained()

    def push(self, data):
        if not self.deaf:
            self.out += data
            self.writable()

    def writable(self):
        """Offer the kernel what is due."""
        try:
            while self.out and self.open:
                del self.out[:self.sink.send(self.out)]
        except BlockingIOError:
            pass
        except OSError:
            self.other.lost()
            return
        if self.open:
            self.proxy.watch(self)
            self.drained()

    def full(self):
        """Is so much on its way that the sender had better wait?"""
        return len(self.out) + self.waiting > HELD_MAX_BYTES

    def drained(self):
        """Pass the end of the stream on, behind its last byte and not through a cut."""
        if not self.open or not self.ended or self.out or self.waiting:
            return
        if (self.proxy.rules.get(self.pair) or {}).get("cut"):
            return
        if self.broken or self.deaf:
            self.reset()
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if self.other.ended and not (self.other.out or self.other.waiting):
            self.proxy.close(self)

    def reset(self, abrupt=True):
        """End the connection, both ways."""
        if not self.open:
            return
        for sock in (self.source, self.sink) if abrupt else ():
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            except OSError:
                pass
        self.proxy.close(self)


class Network:
    """The proxy's process: listeners, wires, rules and a clock."""

    def __init__(self, routes, seed):
        self.random = random.Random(seed)
        self.rules = {}
        self.stats = collections.Counter()
        self.timers = []
        self.serial = 0
        self.wires = set()
        self.by_sock = {}  # socket: [the wire that reads it, the wire that writes it]
        self.selector = selectors.DefaultSelector()
        self.orders = bytearray()
        for a, b, listen, target in routes:
            sock = socket.create_server(tuple(listen), backlog=64)
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, ("accept", (a, b), tuple(target)))
        os.set_blocking(0, False)
        self.selector.register(0, selectors.EVENT_READ, ("orders",))

    def at(self, due, wire, data):
        self.serial += 1
        heapq.heappush(self.timers, (due, self.serial, wire, data))

    def watch(self, wire):
        """Ask for the events that the two wires of each socket can use now."""
        for sock in (wire.source, wire.sink):
            pair = self.by_sock.get(sock)
            if pair is None:
                continue
            reader, writer = pair
            events = 0
            if not reader.ended and not reader.full():
                events |= selectors.EVENT_READ
            if writer.out:
                events |= selectors.EVENT_WRITE
            key = self.selector.get_map().get(sock)
            if key is None:
                if events:
                    self.selector.register(sock, events, ("wire", reader, writer))
            elif not events:
                self.selector.unregister(sock)
            elif key.events != events:
                self.selector.modify(sock, events, key.data)

    def accept(self, listener, pair, target):
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.socket()
        try:
            far.settimeout(1)
            far.connect(target)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.close()
            far.close()
            return
        self.stats["connections"] += 1
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there = Wire(self, pair, near, far)
        back = Wire(self, pair[::-1], far, near)
        there.other, back.other = back, there
        self.by_sock[near] = [there, back]
        self.by_sock[far] = [back, there]
        self.wires |= {there, back}
        self.watch(there)

    def close(self, wire):
        for sock in (wire.source, wire.sink):
            if sock in self.by_sock:
                del self.by_sock[sock]
                if sock in self.selector.get_map():
                    self.selector.unregister(sock)
                sock.close()
        for each in (wire, wire.other):
            each.open = False
            each.held.clear()
            self.wires.discard(each)

    def obey(self, order):
        if order["do"] == "rule":
            for a, b in order["pairs"]:
                self.rules.pop((a, b), None)
                if order["rule"]:
                    self.rules[(a, b)] = order["rule"]
            for wire in list(self.wires):
                if not (self.rules.get(wire.pair) or {}).get("cut"):
                    wire.release()
        elif order["do"] == "reset":
            pairs = {tuple(p) for p in order["pairs"]}
            for wire in list(self.wires):
                if wire.open and wire.pair in pairs:
                    self.stats["resets"] += 1
                    wire.reset()
        return dict(self.stats)

    def read_orders(self):
        """False: whoever gave them is gone."""
        try:
            more = os.read(0, 65536)
        except BlockingIOError:
            return True
        if not more:
            return False
        self.orders += more
        while b"\n" in self.orders:
            line, _, rest = self.orders.partition(b"\n")
            self.orders = bytearray(rest)
            print(json.dumps(self.obey(json.loads(line))), flush=True)
        return True

    def run(self):
        while True:
            wait = None
            if self.timers:
                wait = max(0.0, self.timers[0][0] - time.monotonic())
            for key, events in self.selector.select(wait):
                kind = key.data[0]
                if kind == "accept":
                    self.accept(key.fileobj, *key.data[1:])
                elif kind == "orders":
                    if not self.read_orders():
                        return
                else:
                    _, reader, writer = key.data
                    if events & selectors.EVENT_READ and reader.open:
                        reader.readable()
                    if events & selectors.EVENT_WRITE and writer.open:
                        writer.writable()
            now = time.monotonic()
            while self.timers and self.timers[0][0] <= now:
                _, _, wire, data = heapq.heappop(self.timers)
                wire.late -= 1
                wire.waiting -= len(data)
                if wire.open:
                    wire.push(data)


class Proxy:
    """The handle on such a process. @routes: (a, b, where it listens, where b listens)."""

    def __init__(self, routes, seed):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--serve"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True)
        self.stats = self._order({"routes": routes, "seed": seed})

    def _order(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise AssertionError("the proxy died")
        return json.loads(answer)

    def rule(self, pairs, **rule):
        """From now on this holds for the directions @pairs; without words: nothing does."""
        self.stats = self._order({"do": "rule", "pairs": list(pairs), "rule": rule})

    def reset(self, pairs):
        self.stats = self._order({"do": "reset", "pairs": list(pairs)})

    def read_stats(self):
        self.stats = self._order({"do": "stats"})
        return self.stats

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve():
    first = json.loads(sys.stdin.buffer.raw.readline())
    network = Network(first["routes"], first["seed"])
    print(json.dumps({}), flush=True)
    network.run()


def frame(payload=b""):
    """As much of a frame as the proxy looks at."""
    return (b"LCKF" + struct.pack("<I", FRAME_HEADER + len(payload))).ljust(FRAME_HEADER, b"\0") \
        + payload


def hello(body=b"\0" * 70):
    return b"locker\r\n" + struct.pack("<I", len(body)) + body


def bench(seconds=2.0, burst=8):
    """Frames a second, each with one small message, in reads of @burst frames."""
    target = socket.create_server(("127.0.0.1", 0))
    probe = socket.create_server(("127.0.0.1", 0))
    listen = probe.getsockname()
    probe.close()
    proxy = Proxy([(1, 2, listen, target.getsockname())], 1)
    near = socket.create_connection(listen)
    far, _ = target.accept()
    one = frame(b"\1" * 80)
    near.sendall(hello())
    sent, until = 0, time.monotonic() + seconds
    expected = len(hello())
    begun = time.monotonic()
    while time.monotonic() < until:
        near.sendall(one * burst)
        sent += burst
        expected = len(one) * burst + expected
        while expected > 0:
            expected -= len(far.recv(READ_BYTES))
    rate = sent / (time.monotonic() - begun)
    for sock in (near, far, target):
        sock.close()
    proxy.close()
    return rate


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        try:
            serve()
        except KeyboardInterrupt:
            pass
    elif sys.argv[1:] == ["--bench"]:
        for n in (1, 8, 64):
            print(f"{bench(burst=n):,.0f} frames/s, {n} a read")
    else:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
