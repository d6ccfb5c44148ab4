#!/usr/bin/env python3
"""Fail when a header needs another to come before it, or cannot come twice.

usage: check_headers.py ROOT COMPILER...
"""
import concurrent.futures
import os
import pathlib
import subprocess
import sys


def complaint(root, compiler, header):
    """What the compiler says about the header alone and twice; empty when all is well."""
    line = f'#include "{header}"\n'
    done = subprocess.run(
        [*compiler, "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused-parameter",
         "-Werror", "-fsyntax-only", f"-I{root / 'src'}", f"-I{root / 'include'}",
         f"-I{header.parent}", "-x", "c", "-"],
        input=line * 2, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    root, compiler = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    headers = [h for folder in ("include", "src", "tools", "bench", "tests")
               for h in sorted((root / folder).rglob("*.h"))]
    if not headers:
        print("check_headers: no headers found", file=sys.stderr)
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        said = list(pool.map(lambda h: complaint(root, compiler, h), headers))
    bad = [(h, text) for h, text in zip(headers, said) if text]
    for header, text in bad:
        print(f"{header.relative_to(root)} does not stand alone:\n{text}")
    print(f"check_headers: {len(headers)} headers, {len(bad)} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
