#!/usr/bin/env python3
"""The instruments of the nemesis tests: each judge sees the errors that were planted for it and no
others, the proxy does what it is told, schedules depend on their seed alone."""
import random
import socket
import tempfile
import time
import unittest

import judge
import nemesis
import proxy
from harness import eventually, free_address, main
from lockset import Resource, ResourceServer
from networks import split


def held(token, start, end, key="k", value=None, sent=None):
    return (key, value or f"v{token}", token, start if sent is None else sent, start, end,
            f"client of {token}")


class Holders(unittest.TestCase):
    def test_one_after_the_other(self):
        self.assertEqual(judge.one_holder([held(1, 0, 1), held(2, 1, 2), held(1, 0, 9, key="l")]),
                         [])

    def test_an_overlap(self):
        wrong = judge.one_holder([held(1, 0, 1.5), held(2, 1, 2)])
        self.assertEqual(len(wrong), 1)
        self.assertIn("500.000 ms", wrong[0])
        # Not with its neighbour, but with one that believed for long.
        self.assertTrue(judge.one_holder([held(1, 0, 9), held(2, 9, 10), held(3, 5, 6)]))
        self.assertTrue(judge.one_holder([held(1, 2, 3), held(2, 0, 1)]))

    def test_a_belief_that_never_began_or_goes_on(self):
        self.assertEqual(judge.one_holder([held(1, 3, 2), held(2, 2.5, 4)]), [])
        self.assertEqual(judge.one_holder([held(1, 0, 1), held(1, 2, 3), held(2, 3, 4)]), [])
        self.assertTrue(judge.one_holder([held(1, 0, 1), held(2, 1, 2), held(1, 3, 4)]))

    def test_a_token_of_two(self):
        self.assertTrue(judge.one_holder([held(1, 0, 1), held(1, 2, 3, value="other")]))

    def test_tokens(self):
        self.assertEqual(judge.rising_tokens([held(1, 0, 1), held(2, 1, 2)]), [])
        # Asked for at the same time, they may be read in any order.
        self.assertEqual(judge.rising_tokens([held(2, 1, 2, sent=0), held(1, 3, 4, sent=0)]), [])
        self.assertTrue(judge.rising_tokens([held(2, 1, 2, sent=0), held(1, 3, 4, sent=2)]))
        # Also when it was too late to be believed in.
        self.assertTrue(judge.rising_tokens([held(2, 1, 0, sent=0), held(1, 3, 4, sent=2)]))
        self.assertEqual(judge.rising_tokens([held(2, 1, 2, sent=0), held(2, 3, 4, sent=2)]), [])
        self.assertTrue(judge.rising_tokens([held(2, 1, 2, sent=0),
                                             held(2, 3, 4, sent=2, value="other")]))

    def test_windows(self):
        windows = judge.Windows()
        for rows in ([held(1, 0, 1), held(5, 0, 1, "l")], [held(2, 1, 4), held(6, 1, 2, "l")],
                     [held(3, 5, 6)], [held(4, 6, 7)]):
            windows.add({"held": rows, "lost": []})
        self.assertEqual((windows.wrong, windows.grants), ([], 6))
        windows.add({"held": [held(5, 6.5, 7)], "lost": []})  # while 4 was held, a window ago
        self.assertEqual(len(windows.wrong), 1)
        windows.add({"held": [held(4, 9, 10, "l")], "lost": []})  # after 6, many windows ago
        self.assertTrue(any("token 4 of l" in sentence for sentence in windows.wrong))

    def test_told_otherwise(self):
        self.assertTrue(judge.told_otherwise([("k", 1, "EXTEND NOTFOUND", 1, 2, 3)]))
        self.assertEqual(judge.told_otherwise([("k", 1, "EXTEND NOTFOUND", 1, 4, 3)]), [])

    def test_answers(self):
        rows = [held(1, 0, 2), held(2, 5, 8)]
        fine = judge.answers(rows, [("k", 1, 1, 0.5, 1), ("k", 1, 0, 3, 4), ("k", 2, 0, 7, 9),
                                    ("k", 1, 1, 4, 9), ("k", 2, 1, 4, 9)],
                             [("k", "v1", 0.5, 1), ("k", None, 1, 3), ("k", None, 3, 4),
                              ("k", "v2", 1, 6), ("x", None, 0, 1)])
        self.assertEqual(fine, [])
        for checks, reads in (([("k", 1, 1, 6, 7)], []), ([("k", 2, 0, 6, 7)], []),
                              ([], [("k", None, 6, 7)]), ([], [("k", "v1", 6, 7)])):
            self.assertEqual(len(judge.answers(rows, checks, reads)), 1, (checks, reads))

    def test_words(self):
        self.assertEqual(judge.words({"LOCK OK": 1, "EXTEND SILENT": 2, "set added": 3}), [])
        self.assertEqual(len(judge.words({"LOCK UNKNOWN": 1, "RELEASE null": 2})), 2)


def reg(op, expected, new, sent, read, word="OK", token=1):
    return ("r", token, op, expected, new, sent, read, word)


class Registers(unittest.TestCase):
    begin = [reg("first", None, "a", 0, 1), reg("cas", "a", "b", 2, 3), reg("cas", "b", "c", 4, 5)]

    def assertFine(self, *rows):
        self.assertEqual(judge.registers(self.begin + list(rows)), [])

    def assertWrong(self, sentence, *rows):
        wrong = judge.registers(self.begin + list(rows))
        self.assertTrue(any(sentence in w for w in wrong), wrong)

    def test_reads(self):
        self.assertFine(reg("seen", None, "b", 3, 3.5), reg("seen", None, "b", 0, 9),
                        reg("seen", None, "c", 4.5, 4.6), reg("seen", None, "b", 4.1, 4.2))
        self.assertWrong("was read until", reg("seen", None, "b", 1.1, 1.5))  # before its time
        self.assertWrong("ended at", reg("seen", None, "b", 6, 7))  # after it
        # Two reads that saw the writes in the other order.
        self.assertWrong("was read until", reg("cas", "c", "d", 5, 20),
                         reg("seen", None, "d", 6, 7), reg("seen", None, "c", 8, 9))

    def test_lost_updates(self):
        self.assertWrong("an update was lost", reg("cas", "b", "x", 4, 5))
        self.assertWrong("an update was lost", reg("cas", "b", "x", 4, None, "UNKNOWN"),
                         reg("seen", None, "x", 6, 7))
        # One that may have happened did not.
        self.assertFine(reg("cas", "b", "x", 4, None, "UNKNOWN"))

    def test_maybe(self):
        self.assertFine(reg("cas", "c", "d", 6, None, "UNKNOWN"), reg("cas", "d", "e", 7, 8))
        self.assertFine(reg("cas", "c", "d", 6, None, "UNKNOWN"), reg("seen", None, "d", 90, 91))
        self.assertWrong("was read until", reg("cas", "c", "d", 6, None, "UNKNOWN"),
                         reg("seen", None, "d", 1, 2))

    def test_nowhere(self):
        self.assertWrong("values from nowhere", reg("seen", None, "z", 6, 7))
        self.assertWrong("values from nowhere", reg("cas", "z", "y", 6, 7))
        self.assertWrong("began with", reg("first", None, "z", 6, 7))

    def test_refusals(self):
        self.assertFine(reg("miss", "a", "x", 4, 5, "NOTOWNER"),
                        reg("miss", "b", "x", 3.5, 4.5, "NOTOWNER"),
                        reg("miss", "c", "x", 6, 7, "NOTFOUND"))
        self.assertWrong("was refused", reg("miss", "b", "x", 3.2, 3.8, "NOTOWNER"))

    def test_tokens_are_registers_of_their_own(self):
        self.assertFine(reg("first", None, "z", 10, 11, token=2))

    def test_an_unknown_beginning(self):
        rows = [reg("seen", None, "q", 0, 1, token=7), reg("cas", "q", "r", 2, 3, token=7)]
        self.assertFine(*rows)
        self.assertWrong("values from nowhere", *rows, reg("seen", None, "s", 0, 1, token=7))


class Sets(unittest.TestCase):
    def test_lost_adds(self):
        adds = [("s", 1, "a"), ("s", 2, "b"), ("t", 1, "c")]
        self.assertEqual(judge.lost_adds(adds, {"s": ["a", "b"], "t": ["c"]}), [])
        self.assertEqual(judge.lost_adds(adds, {"s": ["b"]}), [("s", "a"), ("t", "c")])

    def test_the_resource_refuses_old_tokens_of_readers_too(self):
        server = ResourceServer("127.0.0.1")
        self.addCleanup(server.close)

        def visit(name, token):
            resource = Resource(server.address, name, token)
            self.addCleanup(resource.__exit__)
            return resource
        old, new = visit("fenced", 1), visit("fenced", 2)
        self.assertEqual(old.read(), [])
        self.assertEqual(new.read(), [])
        self.assertFalse(old.write(["old"]))
        self.assertIsNone(old.read())
        self.assertTrue(new.write(["new"]))
        self.assertTrue(new.write(["newer"]))
        self.assertEqual(server.sets["fenced"], ["newer"])
        self.assertTrue(visit("plain", 2).write(["x"]))
        self.assertTrue(visit("plain", 1).write(["y"]))


class Histories(unittest.TestCase):
    def test_half_a_line_at_the_end_is_nothing(self):
        with tempfile.NamedTemporaryFile("w+", suffix=".history") as file:
            file.write('["held","k","v",1,0,1,2,"c"]\n["lost","k",1,"x",1,2,3]\n["held","k"')
            file.flush()
            records = judge.load([file.name])
        self.assertEqual(records["held"], [("k", "v", 1, 0, 1, 2, "c")])
        self.assertEqual(len(records["lost"]), 1)


class Schedules(unittest.TestCase):
    def test_the_seed_decides(self):
        for network in ("proxy", "netns", None):
            one, same, other = ([str(f) for f in nemesis.schedule(seed, 60, 5, 2.0, network)]
                                for seed in (1, 1, 2))
            self.assertEqual(one, same)
            self.assertNotEqual(one, other)

    def test_every_fault_comes_up_and_ends_in_time(self):
        wanted = {"proxy": [nemesis.NODE_FAULTS, nemesis.NETWORK_FAULTS, nemesis.PROXY_FAULTS,
                            nemesis.CLIENT_FAULTS],
                  "netns": [nemesis.NODE_FAULTS, nemesis.NETWORK_FAULTS, nemesis.NETNS_FAULTS]}
        for network, kinds in wanted.items():
            for n in (3, 5):
                faults = nemesis.schedule(1, 3000, n, 1.0, network)
                self.assertEqual({k for each in kinds for k in each} - {f.kind for f in faults},
                                 set())
                for fault in faults:
                    self.assertLessEqual(fault.at + fault.length, 3000 + 0.051)
                    self.assertTrue(fault.pairs or fault.nodes or fault.track == "clients")

    def test_partitions(self):
        rng = random.Random(1)
        for n in (3, 5):
            self.assertEqual(len(nemesis.partition(rng, "isolate", n)), 2 * (n - 1))
            self.assertEqual(len(nemesis.partition(rng, "one way", n)), n - 1)
            self.assertEqual(len(nemesis.partition(rng, "halves", n)), 4 if n == 3 else 12)
            self.assertEqual(len(nemesis.partition(rng, "bridge", n)), 2 if n == 3 else 8)


class Wires(unittest.TestCase):
    """Node 1 finds node 2 through the proxy."""

    def setUp(self):
        listen = split(free_address())
        self.target = socket.create_server(split(free_address()))
        self.addCleanup(self.target.close)
        self.proxy = proxy.Proxy([(1, 2, listen, self.target.getsockname())], 7)
        self.addCleanup(self.proxy.close)
        self.near = socket.create_connection(listen, timeout=20)
        self.addCleanup(self.near.close)
        self.far, _ = self.target.accept()
        self.addCleanup(self.far.close)
        self.far.settimeout(20)
        self.near.sendall(proxy.hello())
        self.far.sendall(proxy.hello())
        self.assertEqual(self.take(self.far, len(proxy.hello())), proxy.hello())
        self.assertEqual(self.take(self.near, len(proxy.hello())), proxy.hello())

    @staticmethod
    def take(sock, n):
        data = b""
        while len(data) < n:
            more = sock.recv(n - len(data))
            if not more:
                break
            data += more
        return data

    def frames(self, sock, n):
        """The payloads, of ten bytes each, of the next @n frames."""
        size = proxy.FRAME_HEADER + 10
        return [self.take(sock, size)[-10:] for _ in range(n)]

    @staticmethod
    def payloads(n, first=0):
        return [b"%010d" % i for i in range(first, first + n)]

    def send(self, sock, payloads):
        sock.sendall(b"".join(proxy.frame(p) for p in payloads))

    def test_passes_on_in_pieces_and_in_bulk(self):
        data = b"".join(proxy.frame(p) for p in self.payloads(3))
        for i in range(0, len(data), 50):
            self.near.sendall(data[i:i + 50])
            time.sleep(0.001)
        self.assertEqual(self.frames(self.far, 3), self.payloads(3))
        self.send(self.far, self.payloads(1000))
        self.assertEqual(self.frames(self.near, 1000), self.payloads(1000))

    def test_one_way_is_one_way(self):
        self.proxy.rule([(1, 2)], cut="drop")
        self.send(self.near, self.payloads(5))
        self.send(self.far, self.payloads(5))
        self.assertEqual(self.frames(self.near, 5), self.payloads(5))
        eventually(lambda: self.proxy.read_stats().get("cut") == 5, "5 frames vanished")
        self.proxy.rule([(1, 2)])
        self.send(self.near, self.payloads(2, 7))
        self.assertEqual(self.frames(self.far, 2), self.payloads(2, 7))

    def test_what_is_held_comes_late_and_in_order(self):
        self.proxy.rule([(1, 2)], cut="hold")
        self.send(self.near, self.payloads(5))
        eventually(lambda: self.proxy.read_stats().get("held") == 5, "5 frames are held")
        self.far.settimeout(0.1)
        with self.assertRaises(TimeoutError):
            self.far.recv(1)
        self.far.settimeout(20)
        self.proxy.rule([(1, 2)])
        self.send(self.near, self.payloads(5, 5))
        self.assertEqual(self.frames(self.far, 10), self.payloads(10))

    def test_delay_keeps_the_order_and_reordering_does_not(self):
        begun = time.monotonic()
        self.proxy.rule([(1, 2)], delay=[50, 80])
        self.send(self.near, self.payloads(100))
        self.assertEqual(self.frames(self.far, 100), self.payloads(100))
        self.assertGreaterEqual(time.monotonic() - begun, 0.05)
        self.proxy.rule([(1, 2)], delay=[0, 50], reorder=0.5)
        self.send(self.near, self.payloads(100))
        got = self.frames(self.far, 100)
        self.assertNotEqual(got, self.payloads(100))
        self.assertEqual(sorted(got), self.payloads(100))

    def test_loss_and_doubles(self):
        self.proxy.rule([(1, 2)], loss=0.5)
        self.send(self.near, self.payloads(200))
        lost = eventually(lambda: (s := self.proxy.read_stats()).get("frames") == 200 and s,
                          "all were looked at")["lost"]
        self.assertGreater(lost, 20)
        got = self.frames(self.far, 200 - lost)
        self.assertEqual(got, sorted(got))
        self.proxy.rule([(1, 2)], twice=1)
        self.send(self.near, self.payloads(20))
        self.assertEqual(sorted(self.frames(self.far, 40)), sorted(2 * self.payloads(20)))

    def test_torn(self):
        self.proxy.rule([(1, 2)], tear=1)
        self.send(self.near, self.payloads(1))
        data = b""
        try:
            data = self.take(self.far, 1000)
        except ConnectionResetError:
            pass
        self.assertLess(len(data), proxy.FRAME_HEADER + 10)

    def test_reset(self):
        self.proxy.reset([(2, 1)])
        for sock in (self.near, self.far):
            try:
                self.assertEqual(sock.recv(1), b"")
            except ConnectionResetError:
                pass

    def test_ends_are_passed_on_but_not_through_a_cut(self):
        self.proxy.rule([(1, 2)], cut="drop")
        self.near.close()
        self.far.settimeout(0.1)
        with self.assertRaises(TimeoutError):
            self.far.recv(1)
        self.far.settimeout(20)
        self.proxy.rule([(1, 2)])
        self.assertEqual(self.take(self.far, 1), b"")

    def test_a_slow_reader_holds_its_writer_up(self):
        self.proxy.rule([(1, 2)], cut="hold")
        self.near.settimeout(1)
        sent = 0
        with self.assertRaises(TimeoutError):
            while sent < 256 << 20:
                sent += self.near.send(proxy.frame(b"x" * 60000))
        self.assertLess(sent, 64 << 20)

    def test_speed(self):
        for burst in (1, 8):
            print(f"proxy: {proxy.bench(0.5, burst):,.0f} frames/s, {burst} a read", flush=True)

    def test_it_dies_with_who_made_it(self):
        self.assertIsNone(self.proxy.process.poll())
        self.proxy.close()
        self.assertEqual(self.proxy.process.returncode, 0)


if __name__ == "__main__":
    main()
