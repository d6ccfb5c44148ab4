"""Judges of what clients saw. Each takes records, returns sentences, one for each thing that must
not happen; none: nothing wrong was seen. All times are seconds of one clock of the host.

A record is a list; its first item tells what it is:

held   key value token sent start end who   believed to hold it in [start, end); the grant was
                                            asked for at sent, and its answer read at start
lost   key token said sent read end         was told in between that it is not the holder, while it
                                            had reason to believe so until end
check  key token answer sent read           CHECK
read   key value sent read                  READ QUORUM; value None: held by nobody
reg    key token op expected new sent read word
                                            the register: op is first, cas, miss (a refused cas) or
                                            seen (a read, of new); read None: it may have taken
                                            effect, at any time from sent on
add    set token element                    an element was stored, says the resource
"""
import bisect
import collections
import json

NEVER = float("inf")


def load(paths):
    """{kind: [record without its kind]}"""
    records = collections.defaultdict(list)
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    break  # its writer was killed over it
                record = json.loads(line)
                records[record[0]].append(tuple(record[1:]))
    return records


def by_key(rows):
    keys = collections.defaultdict(list)
    for row in rows:
        keys[row[0]].append(row)
    return keys


# ---- one holder at a time, tokens that rise ----

def one_holder(held):
    """No two beliefs of different tokens overlap: tokens are in the order of the beliefs."""
    wrong = []
    for key, rows in by_key(held).items():
        groups = collections.defaultdict(list)
        for _, value, token, _, start, end, who in rows:
            if start < end:  # a reply that came too late made nobody believe anything
                groups[token].append((start, end, value, who))
        until, last = -NEVER, None
        for token in sorted(groups):
            start = min(group[0] for group in groups[token])
            if start < until:
                before = max(groups[last], key=lambda g: g[1])
                first = min(groups[token])
                wrong.append(
                    f"two holders of {key}: {before[3]} with token {last} in [{before[0]:.6f}, "
                    f"{before[1]:.6f}), {first[3]} with token {token} from {start:.6f}: "
                    f"{(until - start) * 1000:.3f} ms")
            end = max(group[1] for group in groups[token])
            if end > until:
                until, last = end, token
            if len({group[2] for group in groups[token]}) > 1:
                wrong.append(f"token {token} of {key} was given to several")
    return wrong


def rising_tokens(held):
    """A grant that was asked for when another had been read has a larger token, or is the same."""
    wrong = []
    for key, rows in by_key(held).items():
        asked = sorted((sent, token, value) for _, value, token, sent, _, _, _ in rows)
        read = sorted((start, token, value) for _, value, token, _, start, _, _ in rows)
        i, highest, whose = 0, -1, None
        for sent, token, value in asked:
            while i < len(read) and read[i][0] < sent:
                if read[i][1] > highest:
                    highest, whose = read[i][1], read[i][2]
                i += 1
            if token < highest or (token == highest and value != whose):
                wrong.append(f"token {token} of {key} was given when {highest} had been: asked "
                             f"for at {sent:.6f}")
    return wrong


def told_otherwise(lost):
    """Nobody hears that it does not hold what it has reason to believe it holds."""
    return [f"{said} of {key} with token {token}, asked at {sent:.6f} and read at {read:.6f}, "
            f"which was valid until {end:.6f}"
            for key, token, said, sent, read, end in lost if read < end]


class Beliefs:
    """Who believed what when, to be asked about."""

    def __init__(self, held):
        self.rows = {}
        for key, rows in by_key(held).items():
            rows = sorted((row[4], row[5], row[2], row[1]) for row in rows if row[4] < row[5])
            self.rows[key] = (rows, [row[0] for row in rows])
        self.grants = {}  # (token, highest token read until then...) in the order of reading
        for key, rows in by_key(held).items():
            read, tops, top = [], [], -1
            for start, token in sorted((row[4], row[2]) for row in rows):
                top = max(top, token)
                read.append(start)
                tops.append(top)
            self.grants[key] = (read, tops)

    def throughout(self, key, start, end):
        """(token, value) believed during all of [start, end], or None."""
        rows, starts = self.rows.get(key, ([], []))
        # Beliefs do not overlap, or another judge has said so.
        for i in range(bisect.bisect_right(starts, start) - 1, -1, -1)[:3]:
            if rows[i][1] > end:
                return rows[i][2], rows[i][3]
        return None

    def top(self, key, when):
        """The largest token whose grant had been read before @when, or -1."""
        read, tops = self.grants.get(key, ([], []))
        i = bisect.bisect_left(read, when)
        return tops[i - 1] if i else -1


def answers(held, checks, reads):
    """CHECK and READ QUORUM contradict nobody's belief."""
    wrong = []
    beliefs = Beliefs(held)
    for key, token, answer, sent, read in checks:
        if answer == 1 and beliefs.top(key, sent) > token:
            wrong.append(f"CHECK {key} {token} said 1 at {sent:.6f}, a later grant had been read")
        believed = beliefs.throughout(key, sent, read)
        if answer == 0 and believed and believed[0] == token:
            wrong.append(f"CHECK {key} {token} said 0 in [{sent:.6f}, {read:.6f}] to its holder")
    for key, value, sent, read in reads:
        believed = beliefs.throughout(key, sent, read)
        if believed and believed[1] != value:
            wrong.append(f"READ {key} QUORUM said {value!r} in [{sent:.6f}, {read:.6f}], "
                         f"{believed[1]!r} held it with token {believed[0]}")
    return wrong


# ---- the lock set ----

def lost_adds(adds, stored):
    """[(set, element)] that were acknowledged and are not there. @stored: {set: elements}"""
    there = {name: set(elements) for name, elements in stored.items()}
    return [(name, element) for name, _, element in adds if element not in there.get(name, ())]


# ---- the register ----

def registers(rows):
    """Every register, one for each token of each key, is linearizable. New values are unique, and
    a write names the one it replaces: so the order of the writes is known, and a point for each
    operation exists iff none ended before one that has to come earlier in that order began."""
    wrong = []
    keys = collections.defaultdict(list)
    for row in rows:
        keys[row[:2]].append(row[2:])
    for (key, token), ops in sorted(keys.items()):
        wrong += [f"register {key} with token {token}: {sentence}"
                  for sentence in _register(ops)]
    return wrong


def _register(ops):
    first, misses = [], []
    writes, seen = collections.defaultdict(list), collections.defaultdict(list)
    for op, expected, new, sent, read, word in ops:
        if op == "first":
            first.append((new, sent, NEVER if read is None else read))
        elif op == "cas":
            writes[expected].append((new, sent, NEVER if read is None else read, read is not None))
        elif op == "miss":
            misses.append((expected, sent, read, word))
        else:
            seen[new].append((sent, read))
    known = set(seen) | {e for e, ws in writes.items() if any(w[3] for w in ws)}
    roots = {value for value, _, _ in first}
    if len(roots) > 1:
        return [f"it began with all of {sorted(roots)}"]
    if not roots:
        # Nobody knows how it began: a lock whose answer was lost. It began with what no write made.
        made = {w[0] for ws in writes.values() for w in ws}
        roots = {value for value in known if value not in made}
        if len(roots) != 1:
            return [f"values from nowhere: {sorted(roots)}"] if roots else []
        first = [(next(iter(roots)), -NEVER, NEVER)]
    value, sent, read = first[0]
    chain = [(value, sent, read)]
    visited = {value}
    wrong = []
    while True:
        # A write that may have happened did if it, or something after it, was seen.
        effective = [w for w in writes.get(value, ()) if w[3] or _reaches(w[0], writes, known)]
        if len(effective) > 1:
            wrong.append(f"an update was lost: {value!r} was replaced by all of "
                         f"{sorted(w[0] for w in effective)}")
            break
        if not effective or effective[0][0] in visited:
            break
        value, sent, read = effective[0][:3]
        visited.add(value)
        chain.append((value, sent, read))
    if not wrong and known - visited:
        wrong.append(f"values from nowhere: {sorted(known - visited)}")
    return wrong + _in_time(chain, seen, misses)


def _reaches(value, writes, known):
    """Was @value, or one made from it, surely there?"""
    todo, visited = [value], set()
    while todo:
        value = todo.pop()
        if value in known:
            return True
        visited.add(value)
        todo += [w[0] for w in writes.get(value, ()) if w[0] not in visited]
    return False


def _in_time(chain, seen, misses):
    wrong = []
    latest, what = -NEVER, None  # the latest begin of all that has to come earlier
    span = {}
    for i, (value, sent, read) in enumerate(chain):
        if read < latest:
            wrong.append(f"the write of {value!r} ended at {read:.6f}, {what} began at "
                         f"{latest:.6f}")
        if sent > latest:
            latest, what = sent, f"the write of {value!r}"
        after = latest
        for begin, end in seen.get(value, ()):
            if end < latest:
                wrong.append(f"{value!r} was read until {end:.6f}, {what} began at {latest:.6f}")
            after = max(after, begin)
        if after > latest:
            latest, what = after, f"a read of {value!r}"
        # Surely the value from the end of its write until the next one's begin.
        span[value] = (read, chain[i + 1][1] if i + 1 < len(chain) else None)
    for expected, sent, read, word in misses:
        begin, end = span.get(expected, (NEVER, None))
        # The last value may have ended with its lease.
        if end is not None and begin < sent and read < end and word == "NOTOWNER":
            wrong.append(f"an update of {expected!r} in [{sent:.6f}, {read:.6f}] was refused, "
                         f"which it was from {begin:.6f} to {end:.6f}")
    return wrong


# commands.md, outcomes. SILENT and UNSENT are the client's own words. With what a client does here
# no LIMIT may be met. LOCK-AGAIN is LOCK with IDEMPOTENT, which may have to extend.
WORDS = {
    "LOCK": "OK null NOQUORUM BUSY NOTREADY",
    "LOCK-AGAIN": "OK null NOQUORUM BUSY NOTREADY UNKNOWN",
    "EXTEND": "OK NOTOWNER NOTFOUND NOQUORUM UNKNOWN BUSY NOTREADY",
    "RELEASE": "OK NOTOWNER NOTFOUND NOQUORUM UNKNOWN BUSY NOTREADY",
    "UPDATE": "OK NOTOWNER NOTFOUND NOQUORUM UNKNOWN BUSY NOTREADY",
    "CHECK": "OK NOQUORUM NOTREADY",
    "READ": "OK null NOQUORUM NOTREADY",
    "HOLDER": "OK null NOQUORUM NOTREADY",
}


def words(counts):
    """Nobody hears what the contract does not know. @counts: {"COMMAND word": times}"""
    wrong = []
    for what, times in sorted(counts.items()):
        command, word = what.split(" ")
        if command in WORDS and word not in WORDS[command].split() + ["SILENT", "UNSENT"]:
            wrong.append(f"{command} was answered {word}, {times} times")
    return wrong


class Windows:
    """Grants judged as they come, window by window, each longer than any lease: what is older than
    the last window counts with the highest token of each key only."""

    def __init__(self):
        self.last = []
        self.top = {}
        self.grants = 0
        self.wrong = []

    def add(self, records):
        held = records["held"]
        self.grants += len(held)
        rows = list(self.top.values()) + self.last + held
        for sentence in one_holder(rows) + rising_tokens(rows) + told_otherwise(records["lost"]):
            if sentence not in self.wrong:
                self.wrong.append(sentence)
        for row in self.last:
            if row[2] > self.top.get(row[0], row)[2] or row[0] not in self.top:
                self.top[row[0]] = row
        self.last = held


def everything(records):
    """All that can be said of the @records of load()."""
    held = records["held"]
    return (one_holder(held) + rising_tokens(held) + told_otherwise(records["lost"])
            + answers(held, records["check"], records["read"]) + registers(records["reg"]))
