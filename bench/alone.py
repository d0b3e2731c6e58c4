"""What is measured of bootagent alone: reports, checks, a download, and idling."""

import contextlib
import hashlib
import http.server
import json
import os
import platform
import re
import shutil
import subprocess
import threading
import time

from measure import Run, stat
from supervisors import Bootagent

#: The package that is downloaded, bytes, and how often.
SIZE, DOWNLOADS = 512 << 20, 3

TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """A control server that hands out jobs, and a web server with one package."""

    def __init__(self, package=None):
        self.jobs, self.results = [], []
        self.heard = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                size = os.path.getsize(package)
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                self.wfile.flush()
                with open(package, "rb") as file, contextlib.suppress(OSError):
                    sent = 0
                    while sent < size:
                        sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, size - sent)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply = {"errcode": 0}
                with outer.heard:
                    if self.path.endswith("/status"):
                        reply["jobs"], outer.jobs = outer.jobs, []
                    else:
                        outer.results += [(time.monotonic(), result) for result in json.loads(body)]
                    outer.heard.notify_all()
                text = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def running(count, place, sleeper, binary, **config):
    """The daemon with so many agents, settled."""
    directory = os.path.join(place, f"alone-{time.monotonic_ns()}")
    run = Run(Bootagent(directory, sleeper, binary), count, **config)
    try:
        run.start()
        time.sleep(3)
        yield run
    finally:
        run.clear()


def command(run, *words):
    subprocess.run([run.supervisor.binary, "-c", run.supervisor.path("bootagent.json"), *words], check=True,
                   stdout=subprocess.DEVNULL)


def used(pid):
    """Processor time of a process and of the children it has waited for, s."""
    fields = stat(pid)
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / TICK


def reports(place, sleeper, binary, found):
    times = 20
    server = Server()
    with running(1000, place, sleeper, binary, svrlist=server.address, splay=0) as run:
        pid = run.supervisor.process.pid
        command(run, "report")
        before, began = used(pid), time.monotonic()
        for _ in range(times):
            command(run, "report")
        found["a report of 1000 agents, until the server has it"] = f"{(time.monotonic() - began) / times * 1e3:.0f} ms"
        found["a report of 1000 agents, processor time with its helper"] = f"{(used(pid) - before) / times * 1e3:.1f} ms"
        began = time.monotonic()
        for _ in range(times):
            command(run, "status")
        found["the command status with 1000 agents"] = f"{(time.monotonic() - began) / times * 1e3:.0f} ms"
    server.close()


def checks(place, sleeper, binary, found):
    seconds = 10
    with running(1000, place, sleeper, binary, checksecs=0.5) as run:
        _, before = run.activity()
        time.sleep(seconds)
        _, after = run.activity()
        found["a check with 1000 agents, processor time"] = f"{(after - before) / 1e6 / seconds / 2:.2f} ms"


def download(place, sleeper, binary, found):
    """A job whose package has another digest than it says: nothing but the download is in its time."""
    package = os.path.join(place, "package.tar")
    with open(package, "wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(SIZE >> 20):
            file.write(block)
    server = Server(package)
    url = f"http://{server.address}/package.tar"
    theirs, ours = [], []
    with running(0, place, sleeper, binary, svrlist=server.address, splay=0, max_download=SIZE * 2) as run:
        for index in range(DOWNLOADS):
            began = time.monotonic()
            subprocess.run(f"curl -s {url} | sha256sum", shell=True, check=True, stdout=subprocess.DEVNULL)
            theirs.append(time.monotonic() - began)
            job = {"id": f"bench-{index}", "action": "install", "name": "package", "version": "1", "url": url,
                   "checksum": "SHA256:" + hashlib.sha256(b"").hexdigest()}
            with server.heard:
                server.jobs.append(job)
            began = time.monotonic()
            command(run, "report")
            with server.heard:
                server.heard.wait_for(lambda: any(result["id"] == job["id"] for _, result in server.results), 120)
                at, result = next(pair for pair in server.results if pair[1]["id"] == job["id"])
            if result["errcode"] != 5:
                raise SystemExit(f"bench/run: the download ended otherwise than expected: {result}")
            ours.append(at - began)
    server.close()
    os.unlink(package)
    found[f"a download of {SIZE >> 20} MiB over loopback, result and all, fastest of {DOWNLOADS}"] = f"{min(ours):.2f} s"
    found["the same with curl piped to sha256sum"] = f"{min(theirs):.2f} s, so {min(ours) / min(theirs):.2f} x"


def idling(root, found, say):
    """Instructions that the model takes for a day in which nothing happens, as valgrind counts them."""
    if not shutil.which("valgrind"):
        return say("not installed: valgrind (make deps-bench): idling is not counted")
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "--example", "idle"], cwd=root, check=True)
    program = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target")), "release/examples/idle")
    for count in (10, 1000):
        counts = []
        for hours in (0, 24):
            text = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, str(count),
                                   str(hours)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                  check=True).stderr
            counts.append(int(re.search(r"Collected : (\d+)", text).group(1)))
        found[f"24 h of simulated idling with {count} agents, reports included ({platform.machine()})"] = (
            f"{(counts[1] - counts[0]) / 1e6:.1f} million instructions")


def measure(root, place, sleeper, binary, say):
    """What is measured, with its unit, by what it is."""
    found = {}
    for step in (reports, checks, download):
        step(place, sleeper, binary, found)
    idling(root, found, say)
    for what, value in found.items():
        say(f"{what}: {value}")
    return found
