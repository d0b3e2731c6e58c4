"""Measures one supervisor: times from the agents' own notes, memory and processor time from /proc."""

import contextlib
import os
import select
import signal
import statistics
import struct
import time

RECORD = struct.Struct("<QQ")

#: The longest that all agents may take to start or to stop, s.
DEADLINE = 120

#: An agent that is killed has run for so long, s: several supervisors hold back one that ends sooner.
AGE = 1.3


def starts(path, skip=0):
    """Process id and time (ns, monotonic) of every start from record `skip` on."""
    try:
        with open(path, "rb") as file:
            file.seek(skip * RECORD.size)
            content = file.read()
    except FileNotFoundError:
        return []
    return list(RECORD.iter_unpack(content[:len(content) // RECORD.size * RECORD.size]))


def wait_for_starts(path, count, seconds):
    """Waits until there are so many; False when there are not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_size >= count * RECORD.size:
                return True
        time.sleep(0.0005)
    return False


def stat(pid):
    """The fields of /proc/PID/stat after the name; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def descendants(root):
    """`root` and all below it."""
    below = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat(name)):
            below.setdefault(int(fields[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(below.get(pid, ()))
    return found


class Run:
    """A supervisor with its agents running."""

    def __init__(self, supervisor, count, **config):
        self.supervisor, self.count = supervisor, count
        # Nothing is removed before the end: ext4 is slow to make files for some seconds after it has removed as many.
        os.makedirs(supervisor.dir)
        supervisor.setup(count, **config)
        self.started = None
        self.agents = []

    def start(self):
        """Starts it; the time until the last agent runs, ms, or None."""
        begin = time.monotonic_ns()
        self.supervisor.start()
        if not wait_for_starts(self.supervisor.starts, self.count, DEADLINE):
            return None
        self.agents = starts(self.supervisor.starts)
        self.started = (max(at for _, at in self.agents) - begin) / 1e6
        return self.started

    def own(self):
        """The supervisor's processes, agents left out."""
        agents = {pid for pid, _ in starts(self.supervisor.starts)}
        return [pid for pid in descendants(self.supervisor.process.pid) if pid not in agents]

    def memory(self):
        """Sums over its processes in KiB: resident, proportional, private dirty, and how many processes there are."""
        rss = pss = dirty = count = 0
        for pid in self.own():
            try:
                with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
                    values = {line.split(":")[0]: int(line.split()[1]) for line in file if line.endswith("kB\n")}
            except OSError:
                continue
            rss += values["Rss"]
            pss += values["Pss"]
            dirty += values["Private_Dirty"]
            count += 1
        return {"rss": rss, "pss": pss, "dirty": dirty, "processes": count}

    def activity(self):
        """How often its processes have been woken, and the processor time they have used, ns."""
        wakes = spent = 0
        for pid in self.own():
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as file:
                        wakes += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
                    with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as file:
                        spent += int(file.read().split()[0])
        return wakes, spent

    def kills(self, most, seconds):
        """Milliseconds from kill -9 of an agent to its next process, so often, as long as there is time."""
        times = []
        until = time.monotonic() + seconds
        agents = sorted(self.agents, key=lambda agent: agent[1])
        seen = len(self.agents)
        while len(times) < most and time.monotonic() < until:
            pid, at = agents.pop(0)
            time.sleep(max(0, AGE - (time.monotonic_ns() - at) / 1e9))
            begin = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            if not wait_for_starts(self.supervisor.starts, seen + 1, 30):
                break
            new = starts(self.supervisor.starts, seen)[0]
            times.append((new[1] - begin) / 1e6)
            seen += 1
            agents.append(new)
            # The next one finds the supervisor at rest.
            time.sleep(0.01)
        self.agents = agents
        return times

    def stop(self):
        """Milliseconds from the order until no agent is left, and no supervisor if it ends with them; or None."""
        waiting = select.poll()
        open_fds = {}
        for pid, _ in self.agents:
            with contextlib.suppress(OSError):
                fd = os.pidfd_open(pid)
                open_fds[fd] = pid
                waiting.register(fd, select.POLLIN)
        process = self.supervisor.process
        if not getattr(self.supervisor, "stays", False):
            fd = os.pidfd_open(process.pid)
            open_fds[fd] = process.pid
            waiting.register(fd, select.POLLIN)
        begin = time.monotonic_ns()
        self.supervisor.stop()
        until = time.monotonic() + DEADLINE
        while open_fds and time.monotonic() < until:
            for fd, _ in waiting.poll(1000):
                waiting.unregister(fd)
                os.close(fd)
                del open_fds[fd]
        spent = None if open_fds else (time.monotonic_ns() - begin) / 1e6
        for fd in open_fds:
            os.close(fd)
        self.clear()
        return spent

    def clear(self):
        """Ends whatever is left, by process id."""
        process = self.supervisor.process
        if process is None:
            return
        if process.poll() is None:
            left = descendants(process.pid)
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        for pid, _ in starts(self.supervisor.starts):
            with contextlib.suppress(OSError):
                # Only what is still an agent: its id may be another's by now.
                if os.path.samefile(f"/proc/{pid}/exe", self.supervisor.sleeper):
                    os.kill(pid, signal.SIGKILL)


def spread(times):
    """Median and 99th percentile."""
    if not times:
        return None, None
    ordered = sorted(times)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
