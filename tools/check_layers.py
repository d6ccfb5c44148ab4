#!/usr/bin/env python3
"""Fail when an include, a call or a file breaks the table in src/README.md.

usage: check_layers.py [ROOT]

The table is the block fenced with ```layers. Its lines:
  ROOM: ROOM...            the rooms that ROOM may include (itself always)
  only WORD: ROOM...       a function, or a <header>, that may be used in these rooms only
  ban ROOM: WORD...        functions that may not be called in ROOM
  lines: N                 the longest a C file may be
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"][^>"]+[>"])', re.M)
NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


class Table:
    def __init__(self, text):
        block = re.search(r"^```layers\n(.*?)^```", text, re.S | re.M)
        if not block:
            raise ValueError("src/README.md has no ```layers table")
        self.may, self.only, self.ban, self.lines = {}, {}, {}, None
        for line in block.group(1).splitlines():
            line = line.split("#")[0].strip()
            if not line:
                continue
            name, colon, rest = line.partition(":")
            if not colon:
                raise ValueError(f"src/README.md: no colon in '{line}'")
            words = rest.split()
            kind, _, what = name.partition(" ")
            if name == "lines":
                self.lines = int(rest)
            elif kind == "only" and what:
                self.only[what.strip()] = words
            elif kind == "ban" and what:
                self.ban[what.strip()] = words
            else:
                self.may[name] = words
        for room, others in list(self.may.items()) + list(self.only.items()):
            for other in others:
                if other not in self.may:
                    raise ValueError(f"src/README.md: {room} names the unknown room '{other}'")
        if self.lines is None:
            raise ValueError("src/README.md: no 'lines: N'")


def blank(match):
    """Comments and literals away, line numbers kept."""
    return re.sub(r"[^\n]", " ", match.group(0))


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def check_file(path, room, text, table):
    """Yield (line, sentence) for every broken rule of one file."""
    lines = text.count("\n")
    if lines > table.lines:
        yield lines, f"{lines} lines; {table.lines} is the longest"
    code = NOISE.sub(blank, text)
    # Includes are looked up in the original: blanking took their quotes. A commented-out one is
    # blank in the code at that place.
    for match in INCLUDE.finditer(text):
        if not code[match.start():match.end()].strip().startswith("#"):
            continue
        name = match.group(1)
        line = line_of(text, match.start(1))
        if name.startswith("<"):
            rooms = table.only.get(name)
            if rooms is not None and room not in rooms:
                yield line, f"{name} belongs to {' '.join(rooms) or 'no room'} only"
            continue
        other = name.strip('"').split("/")[0] if "/" in name else room
        if name.startswith('"../') or other not in table.may:
            yield line, f"{name} is in no room of the table"
        elif other != room and other not in table.may[room]:
            yield line, f"{room} may not include {other} ({name})"
    for word, rooms in table.only.items():
        if not word.startswith("<") and room not in rooms:
            for match in re.finditer(rf"\b{re.escape(word)}\s*\(", code):
                yield line_of(code, match.start()), \
                    f"{word}() belongs to {' '.join(rooms) or 'no room'} only"
    for word in table.ban.get(room, []):
        for match in re.finditer(rf"(?<![\w.>]){re.escape(word)}\s*\(", code):
            yield line_of(code, match.start()), f"{word}() may not be called in {room}"


def folders(root, table):
    for room in table.may:
        if room in ("tools", "bench"):
            yield room, root / room
        elif room == "locker":
            yield room, root / "include" / "locker"
        else:
            yield room, root / "src" / room
    for folder in sorted((root / "src").iterdir()):
        if folder.is_dir() and folder.name not in table.may:
            yield folder.name, folder


def main():
    default = pathlib.Path(__file__).resolve().parent.parent
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    try:
        table = Table((root / "src" / "README.md").read_text())
    except (OSError, ValueError) as error:
        print(f"check_layers: {error}", file=sys.stderr)
        return 1
    files = bad = 0
    for room, folder in folders(root, table):
        if room not in table.may:
            print(f"{folder.relative_to(root)}: a room that the table does not know")
            bad += 1
            continue
        for path in sorted(folder.rglob("*.[ch]")):
            files += 1
            for line, why in check_file(path, room, path.read_text(), table):
                print(f"{path.relative_to(root)}:{line}: {why}")
                bad += 1
    if files == 0:
        print("check_layers: no files found", file=sys.stderr)
        return 1
    print(f"check_layers: {files} files, {bad} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
