#!/usr/bin/env python3
"""Clusters under faults of all kinds, with clients that write down what they believed, and judges.

Each campaign prints its seed and its schedule. SEED=N runs the fresh one with that seed;
campaign.py runs any of them alone, tools/torture many. What these tests can see is shown by those
that break a promise on purpose: clocks beyond the bound, and a resource that looks at no token.
"""
import os
import random
import time
import unittest

import campaign
import judge
from harness import Cluster, eventually, main

SECONDS = float(os.environ.get("NEMESIS_SECONDS", "15"))
FIXED_SEED = 20260
TOO_FAST_PPM = 200000  # --drift-ppm is 1,000


def fresh_seed():
    return int(os.environ.get("SEED", "0")) or random.randrange(1, 2**31)


def say(line):
    print(line, flush=True)


class Case(unittest.TestCase):
    def judged(self, one):
        """Run the campaign @one; its report."""
        print(f"SEED={one.seed}", flush=True)
        report = one.run()
        say(campaign.summary(report))
        self.assertEqual(report["wrong"], [])
        self.assertGreater(sum(report["faults"].values()), 0)
        return report


class Campaigns(Case):
    def test_a_fixed_seed(self):
        self.judged(campaign.Campaign(FIXED_SEED, SECONDS, 3, "proxy", say))

    def test_a_fresh_seed(self):
        self.judged(campaign.Campaign(fresh_seed(), SECONDS, 3, "proxy", say))

    def test_restarts_under_load(self):
        one = campaign.Restarts(fresh_seed(), SECONDS / 2, every=2.5, say=say)
        self.assertGreater(self.judged(one)["judged"], 0)


class Controls(unittest.TestCase):
    """What goes wrong when a promise is broken is seen to go wrong."""

    def start(self, **env):
        cluster = Cluster(3, start=False, max_lease=2000, attempt_time=250)
        self.addCleanup(cluster.abandon)
        for node in cluster.nodes[:2]:
            node.env.update(env)
        cluster.start()
        workers = campaign.Workers(cluster.dir, [n.address for n in cluster.nodes], 1,
                                   cluster[1].address.rsplit(":", 1)[0])
        self.addCleanup(workers.close)
        return cluster, workers

    def test_clocks_beyond_the_bound_make_two_holders(self):
        """On two of three masters a second takes a sixth less: leases end there before their
        holders expect it."""
        cluster, workers = self.start(LOCKER_TEST_CLOCK_RATE_PPM=str(TOO_FAST_PPM))
        for _ in range(2):
            workers.start(clients={"lock": 6}, keys=2)

        def overlap():
            time.sleep(0.5)
            return judge.one_holder(judge.load(workers.histories())["held"])
        wrong = eventually(overlap, "the judge sees two holders", timeout=120)
        self.assertIn("two holders of lock", wrong[0])
        say(wrong[0])
        workers.finish()
        cluster.close()

    def test_a_lock_alone_guards_no_data(self):
        """Clients that are stopped while they hold the lock overwrite what others wrote since;
        a resource that looks at the token refuses them."""
        cluster, workers = self.start()
        for _ in range(3):
            workers.start(clients={"set": 3}, sets=["fenced", "unfenced"], self_stop=0.1,
                          set_lease=200)

        def lost():
            time.sleep(0.2)
            records = judge.load(workers.histories())
            names = [n for n, _ in judge.lost_adds(records["add"], workers.resource.sets)]
            if names.count("unfenced") >= 3 and workers.counts()["set refused"] >= 3:
                return names
            return None
        eventually(lost, "updates are lost without tokens", timeout=120)
        workers.finish()
        records = judge.load(workers.histories())
        cluster.close()
        lost = judge.lost_adds(records["add"], workers.resource.sets)
        say(f"{len(records['add'])} updates, lost without tokens: {len(lost)}")
        self.assertEqual([element for name, element in lost if name == "fenced"], [])
        self.assertGreater(sum(name == "fenced" for name, _, _ in records["add"]), 20)
        self.assertEqual(judge.everything(records), [])


if __name__ == "__main__":
    main()
