#!/usr/bin/env python3
"""Is every command and option that --help tells of in the manual, and in the completion?

usage: check_manuals.py LOCKER LOCKERD LOCKER.1 LOCKERD.8 COMPLETION
"""
import pathlib
import re
import shutil
import subprocess
import sys

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def output(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()


def manual(path):
    """The words of a page, as they are written."""
    return re.sub(r"\\f.", "", pathlib.Path(path).read_text().replace("\\-", "-"))


def missing(wanted, text):
    return [word for word in wanted if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]


def render(path):
    """Complaints of whatever formats manuals here."""
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", path], stdout=subprocess.PIPE,
                              check=False)
        return done.stdout.decode()
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", path],
                              stderr=subprocess.PIPE, check=False)
        return done.stderr.decode()
    return ""


def main():
    locker, lockerd, locker_1, lockerd_8, completion = sys.argv[1:]
    summary = output(locker, "--help")
    commands = re.findall(r"(?m)^  ([a-z][a-z-]+)(?: |$)", summary)
    client = set(OPTION.findall(summary)) | {"--help"}
    for command in commands:
        if command != "help":
            text = output(locker, "help", command)
            client |= set(OPTION.findall(re.sub(r"\(lockerd [^)]*\)", "", text)))
    server = re.findall(r"(?m)^  (--[a-z-]+)", output(lockerd, "--help"))
    wrong = []
    if len(commands) < 10 or len(client) < 10 or len(server) < 20:
        wrong.append(f"--help does not look as it did: {commands}, {client}, {server}")
    for path, wanted in ((locker_1, [*commands, *sorted(client)]), (lockerd_8, server),
                         (completion, [*commands, *sorted(client)])):
        wrong += [f"{path}: no {word}" for word in missing(wanted, manual(path))]
    for path in (locker_1, lockerd_8):
        wrong += [f"{path}: {line}" for line in render(path).splitlines()]
    for line in wrong:
        print(line)
    print(f"check_manuals: {len(commands)} commands, {len(client)} and {len(server)} options, "
          f"{len(wrong)} complaints")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
