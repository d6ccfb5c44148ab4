#!/usr/bin/env python3
"""Instructions per LOCK, EXTEND and RELEASE of one key, by callgrind: a count, not a time.

usage: instructions.py [--cycles N] [BUILD_DIR]      (default build-release, built when missing)

Two runs of different length are subtracted, so that the start does not count. Prints a Markdown
table: engines and the message codec alone, no shard and no socket.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def instructions(program, masters, cycles):
    """Instructions of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", program,
             str(masters), str(cycles)], capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or found is None:
        sys.exit(f"instructions: callgrind failed:\n{run.stderr}")
    return int(found.group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cycles", type=int, default=20000)
    parser.add_argument("build", nargs="?", default=os.path.join(ROOT, "build-release"))
    options = parser.parse_args()
    subprocess.run([os.path.join(ROOT, "tools/install_deps"), "build", "count"], check=True)
    if not os.path.exists(os.path.join(options.build, "build.ninja")):
        subprocess.run(["meson", "setup", options.build, ROOT, "--buildtype=release",
                        "-Dtests=disabled"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", options.build, "--quiet", "bench/engine_bench"], check=True)
    program = os.path.join(options.build, "bench/engine_bench")
    print("| masters | instructions per cycle |\n| --- | ---: |")
    for masters in (1, 3):
        short = instructions(program, masters, options.cycles // 4)
        long = instructions(program, masters, options.cycles)
        print(f"| {masters} | {(long - short) / (options.cycles - options.cycles // 4):.1f} |")


if __name__ == "__main__":
    main()
