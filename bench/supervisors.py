"""Every supervisor that is measured: how it is set up for a number of agents, started and stopped.

Each keeps all it writes in a directory of its own, restarts an agent that ends, and waits before that as little as it
can be told to. What it writes by default is switched off where it can be, so that none pays for more than it must.
"""

import glob
import os
import re
import shutil
import signal
import subprocess


class Supervisor:
    """One kind of supervisor; an object is one instance with its directory."""

    name = ""
    #: The programs it needs, the first being the one that is started.
    programs = ()
    #: Directories that belong to it besides its programs and their libraries.
    trees = ()
    #: A note for the table.
    note = ""

    def __init__(self, directory, sleeper, binary):
        self.dir, self.sleeper, self.binary = directory, sleeper, binary
        self.starts = os.path.join(directory, "starts")
        self.process = None

    @classmethod
    def present(cls):
        return all(shutil.which(program) for program in cls.programs)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def write(self, path, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path(path), mode)

    def setup(self, count):
        """Writes the configuration for so many agents."""
        raise NotImplementedError

    def command(self):
        """What starts it, to stay in the foreground."""
        raise NotImplementedError

    def start(self):
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", "BENCH_STARTS": self.starts}
        with open(self.path("output"), "ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, cwd=self.dir, start_new_session=True)

    def stop(self):
        """Asks it to end its agents and itself."""
        self.process.send_signal(signal.SIGTERM)

    def files(self):
        """The files it is made of, libraries included."""
        found = set()
        for program in self.programs:
            path = os.path.realpath(shutil.which(program))
            found.add(path)
            with open(path, "rb") as file:
                if file.read(4) != b"\x7fELF":
                    continue
            libraries = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       text=True, check=False).stdout
            found.update(os.path.realpath(name) for name in re.findall(r"(/\S+) \(0x", libraries))
        for tree in self.trees:
            for top, _, names in os.walk(tree):
                found.update(os.path.realpath(os.path.join(top, name)) for name in names)
        return {path for path in found if os.path.isfile(path)}


class Bootagent(Supervisor):
    name = "bootagent"
    #: Where what outlives a reboot is kept: on a disk, while all that is of this boot only is in memory as below /run.
    disk = "/var/tmp"

    def setup(self, count, **more):
        import json
        kept = os.path.join(self.disk, os.path.basename(self.dir))
        config = {"agents_dir": self.path("agents.d"), "state_dir": f"{kept}/state", "run_dir": self.path("run"),
                  "log_dir": f"{kept}/log", "restartsecs": 0, "retries": 1000000, **more}
        self.write("bootagent.json", json.dumps(config))
        for index in range(count):
            self.write(f"agents.d/a{index}.json", json.dumps(
                {"name": f"a{index}", "version": "1", "exec": [self.sleeper, self.starts]}))

    def command(self):
        return [self.binary, "-c", self.path("bootagent.json"), "run"]

    def files(self):
        return {os.path.realpath(self.binary)}


class Dinit(Supervisor):
    name = "dinit"
    programs = ("dinit",)

    def setup(self, count):
        for index in range(count):
            self.write(f"services/a{index}",
                       f"type = process\ncommand = {self.sleeper} {self.starts}\nrestart = true\n"
                       "restart-delay = 0\nrestart-limit-interval = 0\nsmooth-recovery = true\n")
        self.write("services/boot", "type = internal\n" + "".join(f"waits-for: a{index}\n" for index in range(count)))

    def command(self):
        return ["dinit", "-d", self.path("services"), "-p", self.path("socket"), "-q", "boot"]


class Runit(Supervisor):
    name = "runit"
    programs = ("runsvdir", "runsv")

    def setup(self, count):
        for index in range(count):
            os.makedirs(self.path("services", f"a{index}"))
            # As run is executed without arguments, it is the agent itself.
            os.symlink(self.sleeper, self.path("services", f"a{index}", "run"))

    def command(self):
        return ["runsvdir", "-P", self.path("services")]

    def stop(self):
        self.process.send_signal(signal.SIGHUP)


class Busybox(Runit):
    name = "busybox runsv"
    programs = ("busybox",)
    note = "all applets in one file"

    @classmethod
    def present(cls):
        if not super().present():
            return False
        applets = subprocess.run(["busybox", "--list"], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
        return {"runsv", "runsvdir"} <= set(applets)

    def command(self):
        os.makedirs(self.path("bin"), exist_ok=True)
        for applet in ("runsv", "runsvdir"):
            if not os.path.exists(self.path("bin", applet)):
                os.symlink(shutil.which("busybox"), self.path("bin", applet))
        # It looks for runsv on the PATH.
        return ["env", f"PATH={self.path('bin')}:{os.environ['PATH']}", "runsvdir", "-P", self.path("services")]


class S6(Runit):
    name = "s6"
    programs = ("s6-svscan", "s6-supervise")

    def command(self):
        return ["s6-svscan", "-c", "1500", self.path("services")]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)


class Supervisord(Supervisor):
    name = "supervisord"
    programs = ("supervisord", "python3")
    trees = tuple(glob.glob("/usr/lib/python3.*")) + tuple(glob.glob("/usr/lib/python3/dist-packages/supervisor"))
    note = "with Python's library"

    def setup(self, count):
        lines = [f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={self.path('pid')}\n"
                 "minfds=16384\n"]
        for index in range(count):
            lines.append(f"[program:a{index}]\ncommand={self.sleeper} {self.starts}\nautorestart=true\nstartsecs=0\n"
                         "stdout_logfile=NONE\nstderr_logfile=NONE\n")
        self.write("supervisord.conf", "\n".join(lines))

    def command(self):
        return ["supervisord", "-c", self.path("supervisord.conf")]


class Monit(Supervisor):
    name = "monit"
    programs = ("monit",)
    note = "looks once a second"

    def setup(self, count):
        lines = [f"set daemon 1\nset pidfile {self.path('pid')}\nset idfile {self.path('id')}\n"
                 f"set statefile {self.path('state')}\n"
                 f"set httpd unixsocket {self.path('socket')} allow bench:bench\n"]
        for index in range(count):
            pidfile = self.path(f"a{index}.pid")
            lines.append(f"check process a{index} with pidfile {pidfile}\n"
                         f"  start program = \"{self.sleeper} -d {self.starts} {pidfile}\"\n"
                         f"  stop program = \"{self.sleeper} -k {pidfile}\"\n")
        self.write("monitrc", "\n".join(lines), 0o600)

    def command(self):
        return ["monit", "-I", "-c", self.path("monitrc")]

    def stop(self):
        subprocess.run(["monit", "-c", self.path("monitrc"), "stop", "all"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    #: It stays when its agents have been stopped.
    stays = True


ALL = (Bootagent, Dinit, Runit, Busybox, S6, Supervisord, Monit)
