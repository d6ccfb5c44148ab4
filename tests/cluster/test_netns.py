#!/usr/bin/env python3
"""Five nodes, each in a network namespace of its own, with packet filters between them: cuts and
losses that TCP itself has to live with. Skipped, with the reason, where namespaces are not to be
had; netns.py tells what it takes."""
import campaign
import netns
from harness import main
from test_nemesis import SECONDS, Case, fresh_seed, say

WHY_NOT = None


class Namespaces(Case):
    def setUp(self):
        if WHY_NOT:
            self.skipTest(WHY_NOT)

    def test_a_fresh_seed(self):
        self.judged(campaign.Campaign(fresh_seed(), SECONDS, 5, "netns", say))


if __name__ == "__main__":
    if not netns.inside():
        WHY_NOT = netns.why_not()
        if WHY_NOT is None:
            netns.enter()
    main()
