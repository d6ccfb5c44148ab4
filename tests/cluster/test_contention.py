#!/usr/bin/env python3
"""Many clients want one key over all nodes; at no moment do two of them have reason to believe they
hold it, and tokens rise in the order of the grants.

A client believes from when it has read the reply until the earlier of: the request's sending plus
valid-ms, and the sending of its release. All of them read one clock.
"""
import multiprocessing
import os
import random
import time
import unittest

from harness import Client, Cluster, as_map, background, main

SECONDS = float(os.environ.get("CONTENTION_SECONDS", "20"))
CLIENTS = 64
PROCESSES = 4


def contend(address, name, key, seconds, seed, held, counts):
    """One client: adds its (start, end, token) to @held, counts replies by word."""
    rng = random.Random(seed)
    stop = time.monotonic() + seconds
    with Client(address, timeout=60) as client:
        while time.monotonic() < stop:
            ttl_ms = rng.choice((5, 30, 200, 800))
            more = ("WAIT", rng.choice((20, 500))) if rng.random() < 0.4 else ()
            sent = time.monotonic()
            reply = client.cmd("LOCK", key, name, ttl_ms, *more)
            start = time.monotonic()
            word = "refused" if reply is None else getattr(reply, "word", "granted")
            counts[word] = counts.get(word, 0) + 1
            if word != "granted":
                time.sleep(rng.random() * 0.02)
                continue
            grant = as_map(reply)
            end = sent + grant[b"valid-ms"] / 1000
            if rng.random() < 0.95:
                time.sleep(rng.random() * 0.003)
                end = min(end, time.monotonic())
                answer = client.cmd("RELEASE", key, name, "TOKEN", grant[b"token"])
                word = "release " + getattr(answer, "word", "done")
                counts[word] = counts.get(word, 0) + 1
            held.append((start, end, grant[b"token"]))


def process_body(addresses, first, count, key, seconds, seed, results):
    """@count clients, a thread each."""
    parts = [([], {}) for _ in range(count)]
    joins = [background(contend, addresses[(first + i) % len(addresses)], f"{first + i}", key,
                        seconds, seed * 1000 + first + i, *parts[i]) for i in range(count)]
    try:
        for join in joins:
            join(seconds + 60)
    except BaseException as error:
        results.put(repr(error))
        raise
    held, counts = [], {}
    for part, part_counts in parts:
        held += part
        for word, n in part_counts.items():
            counts[word] = counts.get(word, 0) + n
    results.put((held, counts))


class Contention(unittest.TestCase):
    def run_contention(self, seconds, disturb=None, **options):
        cluster = Cluster(3, **options)
        self.addCleanup(cluster.abandon)
        addresses = [n.address for n in cluster.nodes]
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        seed = int(os.environ.get("SEED", "0")) or random.randrange(1, 2**31)
        print(f"SEED={seed}", flush=True)
        share = CLIENTS // PROCESSES
        processes = [context.Process(target=process_body, daemon=True, args=(
            addresses, i * share, share, "the-key", seconds, seed, results))
            for i in range(PROCESSES)]
        for process in processes:
            process.start()
        if disturb:
            disturb(cluster, seconds)
        held, counts = [], {}
        for _ in processes:
            result = results.get(timeout=seconds + 90)
            self.assertIsInstance(result, tuple, result)
            part, part_counts = result
            held += part
            for word, n in part_counts.items():
                counts[word] = counts.get(word, 0) + n
        for process in processes:
            process.join(30)
        print(f"{len(held)} grants, {counts}", flush=True)
        self.judge(held)
        cluster.close()
        return held, counts

    def judge(self, held):
        tokens = [token for _, _, token in held]
        self.assertEqual(len(set(tokens)), len(tokens), "a token was given twice")
        # A reply that was read when its lease was over made nobody believe anything.
        held = sorted((h for h in held if h[0] < h[1]), key=lambda h: h[2])
        for (start, end, token), (next_start, _, next_token) in zip(held, held[1:]):
            self.assertGreaterEqual(
                next_start, end, f"{token} until {end:.6f}, {next_token} from {next_start:.6f}")
            self.assertGreater(next_start, start)

    def test_judge_finds_an_overlap(self):
        with self.assertRaises(AssertionError):
            self.judge([(0.0, 2.0, 1), (1.0, 3.0, 2)])
        with self.assertRaises(AssertionError):
            self.judge([(0.0, 1.0, 5), (2.0, 3.0, 5)])
        with self.assertRaises(AssertionError):
            self.judge([(0.0, 1.0, 9), (2.0, 3.0, 5)])
        self.judge([(0.0, 1.0, 1), (1.0, 3.0, 2)])
        self.judge([(2.5, 2.0, 1), (2.0, 3.0, 2)])

    def test_one_holder_at_a_time(self):
        held, counts = self.run_contention(SECONDS)
        self.assertGreater(len(held), 100, counts)
        odd = set(counts) - {"granted", "refused", "BUSY", "release done", "release NOTFOUND",
                             "release NOTOWNER"}
        self.assertFalse(odd, counts)

    def test_one_holder_at_a_time_while_a_master_stumbles(self):
        def disturb(cluster, seconds):
            end = time.monotonic() + seconds - 1
            rng = random.Random(1)
            while time.monotonic() < end:
                node = rng.choice(cluster.nodes)
                node.pause()
                time.sleep(rng.random() * 0.4)
                node.resume()
                time.sleep(0.2 + rng.random() * 0.5)
        held, counts = self.run_contention(SECONDS / 2, disturb, attempt_time=250)
        self.assertGreater(len(held), 20, counts)


if __name__ == "__main__":
    main()
