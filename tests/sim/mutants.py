#!/usr/bin/env python3
"""Is every rule of the protocol missed when it is broken? See --help; run by tools/mutants."""
import concurrent.futures
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TABLE = os.path.join(HERE, "mutants.txt")
RULES = os.path.join(ROOT, "src", "base", "mutant.h")
BUILD = os.path.join(ROOT, "build-torture")
EVENTS = 20000
# Found within a few seeds, one or two of each part of the protocol: what a quick test looks for.
FEW = ("trylock-overwrites", "vote-twice", "release-any", "extend-minority", "update-sticky",
       "promise-expires", "restart-votes", "sync-one", "quarantine-none", "clean-always",
       "heal-never", "heal-answers", "clock-wall", "clock-fast", "waiter-stays", "gate-off",
       "quorum-fixed", "epoch-ignored", "merge-none", "joiner-votes",
       "copy-lease-anew")
FEW_RUNS = 200
# Clocks beyond the bound that the engines are told must break mutual exclusion: the judges see time.
CLOCKS_LIE, LYING = "clocks-lie", ["--lie", "100000"]
# Runs that are made for them, not drawn: the simulator's --drill.
DRILLED = {
    "update-short": "aside", "update-late": "aside", "release-shadowed": "aside",
    "extend-versions": "scattered", "hearsay-counts": "forgetful", "sync-promiseless": "forgetful",
    "read-any-absent": "early-end", "never-seen": "early-end", "restart-no-wait": "restarts",
    "tomb-short": "restarts", "heal-no-wait": "aside", "extend-late": "values",
    "extend-unconfirming": "values",
    **dict.fromkeys((
        "quorum-fixed", "epoch-ignored", "merge-none", "merge-one", "merge-keeps-live",
        "sync-unmerged", "probe-unmerged", "joiner-votes", "removed-votes", "gate-off",
        "config-volatile", "copy-gap-ignored", "copy-old",
        "copy-lease-anew"), "members"),
}
STATUS = {2: "safety", 3: "liveness", 4: "crash"}

HELP = f"""\
mutants - break the rules of the protocol, one at a time, and see that the simulator finds out

usage: tools/mutants [SECONDS] [NAME ...]
       tools/mutants --check [NAME ...]

Builds the simulator with switches that break a rule each (src/base/mutant.h), in build-torture.
Then every rule, or those named, is broken and seeds are tried from 1 on, {EVENTS} events each,
until a judge objects, for at most SECONDS of processor time (default 120) a rule. Without a NAME
the result replaces the table tests/sim/mutants.txt; with one it is only shown.

  --check  run just the seed that the table names for each rule, and the same seed with no rule
           broken: seconds instead of minutes. Says which rows are no longer true
  --list   the names
  -h, --help

exit status: 0 every rule was missed, 1 one was not, or a row is not true, 2 usage, 3 no build
"""


def usage(sentence):
    print(f"mutants: {sentence} (see --help)", file=sys.stderr)
    sys.exit(2)


def build():
    print("building in build-torture", flush=True)
    steps = [["tools/install_deps", "build", "test"]]
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        steps.append(["meson", "setup", BUILD, "--buildtype=release", "-Dtests=enabled"])
    steps.append(["ninja", "-C", BUILD, "tests/sim/sim_mutants"])
    for words in steps:
        done = subprocess.run(words, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode != 0:
            print(done.stdout[-4000:], file=sys.stderr)
            print(f"mutants: {' '.join(words)} failed", file=sys.stderr)
            sys.exit(3)
    return os.path.join(BUILD, "tests", "sim", "sim_mutants")


def rules():
    """name -> what is broken, from the comments of the switches."""
    with open(RULES, encoding="utf-8") as f:
        found = re.findall(r"MUTANT_([A-Z_]+),\s*/\* (.*?) \*/", f.read(), re.S)
    return {name.lower().replace("_", "-"): " ".join(what.split()) for name, what in found}


class Result:
    """seed None: nothing was found. kind: safety, liveness, crash. cpu_s: user and system."""

    def __init__(self, names, line, status, cpu_s):
        said = re.match(r"\w+(?: LOST)?: seed (\d+), (\d) nodes, event \d+, commit \S+: (\w+)", line)
        found = said is not None and status in STATUS
        self.names = names
        self.cpu_s = cpu_s
        self.kind = STATUS[status] if found else None
        self.seed = int(said[1]) if found else None
        self.nodes = int(said[2]) if found else None
        self.judge = said[3] if found else None
        self.trouble = None if found or status in (0, -9, -24) else f"status {status}: {line}"


def simulate(sim, names, seed, runs, seconds, drill=None):
    """Break `names` (None: nothing) and try `runs` seeds, for that much processor time."""
    drill = drill or DRILLED.get(names)
    words = [sim, "--seed", str(seed), "--runs", str(runs), "--events", str(EVENTS)]
    words += LYING if names == CLOCKS_LIE else ["--mutant", names] if names else []
    words += ["--drill", drill] if drill else []
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            words, stdout=out, stderr=subprocess.STDOUT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1)))
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        return Result(names, out.readline().strip(), child.returncode,
                      used.ru_utime + used.ru_stime)


def search(sim, names, seconds):
    """A result for each name; tells how it goes."""
    begun = time.monotonic()
    results = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(simulate, sim, n, 1, 10**9, seconds): n for n in names}
        for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            name, r = jobs[job], job.result()
            results[name] = r
            what = f"{r.kind}, seed {r.seed}, {r.judge}" if r.seed else r.trouble or "NOT FOUND"
            print(f"[{time.monotonic() - begun:6.0f} s {done:3}/{len(names)}] {r.names:24} "
                  f"{r.cpu_s:6.1f} s  {what}", flush=True)
    return results


def row(r, what):
    drill = DRILLED.get(r.names, "-")
    return (f"{r.names:26} {r.kind:9} {r.seed:>7} {drill:10} {r.nodes:>5} {r.cpu_s:>7.1f}  "
            f"{r.judge:16} {what}")


def write_table(results):
    what = rules()
    lines = [
        "# Rules broken on purpose, and the first seed, from 1 on, in which a judge objected.",
        f"# Events of a run: {EVENTS}. CPU s: processor time from seed 1 to there, one core.",
        "# Written by tools/mutants; tools/mutants --check runs the seeds.",
        "# drill: its seeds mean runs of that drill (sim --drill).",
        f"# {'rule':24} {'lost':9} {'seed':>7} {'drill':10} {'nodes':>5} {'CPU s':>7}  {'judge':16} "
        "what is broken",
    ]
    lines += [row(results[n], what[n]) for n in what if n in results and results[n].seed]
    lost = [n for n in results if not results[n].seed]
    if lost:
        lines += ["# not found this time: " + ", ".join(lost)]
    with open(TABLE, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"written: {os.path.relpath(TABLE)}")


def read_table():
    """names -> (kind, seed)"""
    with open(TABLE, encoding="utf-8") as f:
        rows = [line.split() for line in f if not line.startswith("#")]
    return {r[0]: (r[1], int(r[2])) for r in rows}


def check(sim, names):
    table = read_table()
    bad = 0
    for name in names:
        if name not in table:
            print(f"{name}: not in the table")
            bad += 1
            continue
        kind, seed = table[name]
        r = simulate(sim, name, seed, 1, 600)
        if (r.kind, r.seed) != (kind, seed):
            print(f"{name}: the table says {kind} in seed {seed}; now {r.kind or 'nothing'}")
            bad += 1
        whole = simulate(sim, None, seed, 1, 600, DRILLED.get(name))
        if whole.seed is not None or whole.trouble:
            print(f"seed {seed}, nothing broken: {whole.kind or whole.trouble}")
            bad += 1
    print(f"{len(names)} rules, {bad} rows that are not true" + (
        ": look for seeds anew with tools/mutants" if bad else ""))
    return 1 if bad else 0


def few(sim):
    """The short test of tools/test, whatever the seeds are by now."""
    bad = 0
    for name in (*FEW, CLOCKS_LIE):
        r = simulate(sim, name, 1, FEW_RUNS, 600)
        print(f"{name:24} {r.cpu_s:6.1f} s  {r.kind or r.trouble or 'NOT FOUND'} seed {r.seed}",
              flush=True)
        bad += r.seed is None
    return 1 if bad else 0


def report(results, seconds):
    lost = sorted(n for n, r in results.items() if r.seed is None)
    slow = max((r for r in results.values() if r.seed), key=lambda r: r.cpu_s, default=None)
    print(f"{len(results) - len(lost)} of {len(results)} broken rules found within {seconds} s"
          + (f", the slowest after {slow.cpu_s:.0f} s ({slow.names})" if slow else ""))
    for name in lost:
        print(f"NOT FOUND: {name}: {rules()[name]}")
    return 1 if lost else 0


def main(words):
    seconds, checking, names = 120, False, []
    known = list(rules())
    for word in words:
        if word in ("-h", "--help"):
            print(HELP, end="")
            return 0
        if word == "--list":
            print("\n".join(known))
            return 0
        if word == "--check":
            checking = True
        elif word.startswith("--few="):
            return few(word.partition("=")[2])
        elif word.isdigit() and int(word) > 0:
            seconds = int(word)
        elif word in known:
            names.append(word)
        else:
            usage(f"no rule or option '{word}'")
    sim = build()
    if checking:
        return check(sim, names or known)
    results = search(sim, names or known, seconds)
    if not names:
        write_table(results)
    return report(results, seconds)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
