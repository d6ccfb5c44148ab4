"""What a lock protects: sets that are read and written back, with a token or without one."""
import collections
import json
import os
import socket
import threading


class Resource:
    """One read and one write of a set, as somebody with a token."""

    def __init__(self, address, name, token):
        self.sock = socket.create_connection(tuple(address), timeout=20)
        self.file = self.sock.makefile("rw", encoding="utf-8")
        self.name = name
        self.token = token

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()

    def _ask(self, **what):
        self.file.write(json.dumps({"set": self.name, "token": self.token, **what}) + "\n")
        self.file.flush()
        return json.loads(self.file.readline() or "null")

    def read(self):
        """The elements; None: refused."""
        return self._ask(do="read")

    def write(self, elements):
        return bool(self._ask(do="write", elements=elements))


class ResourceServer:
    """Keeps sets. One whose name begins with "fenced" refuses a token below the highest it has
    seen, of a reader too: who has not been seen while reading cannot be kept from overwriting.
    @journal: a path, where every request is written down with its answer, to explain a loss."""

    def __init__(self, host, journal=os.devnull):
        self.journal = open(journal, "w", encoding="utf-8")
        self.sets = collections.defaultdict(list)
        self.tokens = collections.Counter()
        self.lock = threading.Lock()
        self.listener = socket.create_server((host, 0), backlog=128)
        self.address = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            with sock, sock.makefile("rw", encoding="utf-8") as file:
                for line in file:
                    file.write(json.dumps(self.obey(json.loads(line))) + "\n")
                    file.flush()
        except (OSError, ValueError):
            pass

    def obey(self, request):
        with self.lock:
            answer = self._obey(request)
            self.journal.write(json.dumps({**request, "answer": answer}) + "\n")
            return answer

    def _obey(self, request):
        name, token = request["set"], request["token"]
        if name.startswith("fenced"):
            if token < self.tokens[name]:
                return None
            self.tokens[name] = token
        if request["do"] == "read":
            return self.sets[name]
        self.sets[name] = request["elements"]
        return True

    def close(self):
        self.listener.close()
        with self.lock:
            self.journal.flush()
