#!/usr/bin/env python3
"""Print "PASSED FAILED SKIPPED" of a meson testlog.json, counting cases inside each program.

usage: count_tests.py TESTLOG.json

A program that says how many cases it ran (cmocka, Python's unittest) counts as that many, any
other as one. Cases and exit status that disagree count as a failure.
"""
import json
import re
import sys

CMOCKA = {word: re.compile(rf"^\[\s*{word}\s*\]\s+(\d+) test\(s\)", re.M)
          for word in ("PASSED", "FAILED", "SKIPPED")}
UNITTEST = re.compile(r"^Ran (\d+) tests? in [^\n]*\n+(?:OK|FAILED)(?: \(([^)]*)\))?", re.M)


def cases(text):
    """(passed, failed, skipped) as the program's own output tells, all 0 when it does not."""
    passed, failed, skipped = (sum(int(n) for n in CMOCKA[w].findall(text))
                               for w in ("PASSED", "FAILED", "SKIPPED"))
    for ran, detail in UNITTEST.findall(text):
        words = dict(re.findall(r"([a-z ]+)=(\d+)", detail))
        bad = int(words.get("failures", 0)) + int(words.get("errors", 0))
        left = int(words.get("skipped", 0))
        passed += max(0, int(ran) - bad - left)
        failed += bad
        skipped += left
    return passed, failed, skipped


def count(log):
    total = [0, 0, 0]
    for line in log:
        test = json.loads(line)
        passed, failed, skipped = cases(test.get("stdout", "") + "\n" + test.get("stderr", ""))
        result = test["result"]
        if result in ("OK", "EXPECTEDFAIL"):
            if failed:
                print(f"{test['name']}: exit status 0, but failed cases", file=sys.stderr)
            passed = passed or (0 if skipped else 1)
        elif result == "SKIP":
            skipped = skipped or 1
        else:
            failed = failed or 1
        for i, n in enumerate((passed, failed, skipped)):
            total[i] += n
    return total


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(sys.argv[1], encoding="utf-8") as log:
            print(*count(log))
    except (OSError, ValueError, KeyError) as error:
        print(f"count_tests: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
