//! Agents of the host in memory: how their processes start, hang and end, what they need, and how they are.

use super::*;

impl Host<'_> {
    pub(super) fn start(&mut self, name: Name) -> Broken {
        if self.stopping.is_some() {
            return Err(format!("agent {name} is started in a shutdown"));
        }
        if let Some(live) = self.processes.values().find(|live| live.name == name) {
            return Err(format!("a second copy of agent {name} is started beside {:?}", live.process));
        }
        let now = self.now().time;
        self.watch(&name).started(now).map_err(|why| format!("agent {name}: {why}"))?;
        let Some(spec) = self.daemon.as_ref().and_then(|state| state.spec(&name)) else {
            return Err(format!("agent {name} is started without a definition"));
        };
        self.started_by.insert(name.clone(), spec.clone());
        if self.wears() {
            self.queue.push_back(Event::NotStarted { name, reason: "making a process: no memory".into() });
            return Ok(());
        }
        let role = if spec.kind == Kind::Forking { Role::Starter } else { Role::Main };
        let process = self.process(&name, role);
        self.sought.remove(&name);
        self.checks.remove(&name);
        let pid = process.pid.raw();
        self.followed.insert(pid, Followed { ours: true, since: now, role, signalled: false });
        let poll_memory = !spec.limits.is_empty() && self.random.chance(10);
        self.polled.insert(name.clone(), poll_memory);
        self.queue.push_back(Event::Started {
            name: name.clone(),
            process,
            limits_by: None,
            poll_cpu: false,
            poll_memory,
        });
        if self.wears() {
            self.processes.remove(&pid);
            self.queue.push_back(Event::NotStarted { name, reason: "executing the program: not there".into() });
            return Ok(());
        }
        if role == Role::Starter {
            // It hangs, gives up, or leaves an agent behind.
            if !self.wears() {
                let exit = if self.wears() { Exit::Code(1) } else { Exit::Code(0) };
                let after = self.random.below(2_000);
                self.later(after, Due::Dies(pid, exit));
            }
            if !self.wears() {
                let main = self.process(&name, Role::Main);
                self.ends_some_day(main.pid.raw());
            }
        } else {
            self.ends_some_day(pid);
        }
        while self.random.chance(20) {
            let other = self.process(&name, Role::Other);
            if self.random.chance(50) {
                let after = self.random.below(600_000);
                self.later(after, Due::Dies(other.pid.raw(), Exit::Code(0)));
            }
        }
        Ok(())
    }

    pub(super) fn process(&mut self, name: &Name, role: Role) -> Process {
        self.last_pid += 1;
        let pid = Pid::new(self.last_pid).expect("pids are above 1 here");
        let process = Process { pid, ticks: self.time / (10 * MS) };
        let stubborn = self.random.chance(20);
        self.processes.insert(self.last_pid, Live { name: name.clone(), process, role, stubborn });
        process
    }

    pub(super) fn ends_some_day(&mut self, pid: i32) {
        let after = match self.random.below(12) {
            0 | 1 => self.random.below(20_000),
            2 | 3 => self.random.below(900_000),
            4 => self.random.below(7_200_000),
            _ => return,
        };
        let exits = [Exit::Code(0), Exit::Code(1), Exit::Code(7), Exit::Signal(Sig::KILL), Exit::Signal(Sig::HUP)];
        let exit = self.random.pick(&exits);
        self.later(after, Due::Dies(pid, exit));
    }

    pub(super) fn find_main(&mut self, name: Name) {
        let left = self.processes.values().filter(|live| live.name == name).count() as u32;
        let main = self.processes.values().filter(|live| live.name == name && live.role != Role::Starter);
        let main = main.min_by_key(|live| live.process.pid).map(|live| live.process);
        if let Some(process) = main {
            let since = match self.life(&name) {
                Some(AgentState::Forking { since, .. }) => *since,
                _ => self.now().time,
            };
            let followed = Followed { ours: true, since, role: Role::Main, signalled: false };
            self.followed.insert(process.pid.raw(), followed);
        }
        self.queue.push_back(Event::MainProcess { name, found: main, left });
    }

    pub(super) fn signal(&mut self, name: &str, sig: Sig) {
        let tree: Vec<(i32, bool)> = self
            .processes
            .iter()
            .filter(|(_, live)| *live.name == *name)
            .map(|(pid, live)| (*pid, live.stubborn))
            .collect();
        for (pid, stubborn) in tree {
            if let Some(followed) = self.followed.get_mut(&pid) {
                followed.signalled = true;
            }
            if sig == Sig::KILL {
                // Some hang in the kernel for a while.
                let after = if self.wears() { self.random.below(20_000) } else { self.random.below(50) };
                self.later(after, Due::Dies(pid, Exit::Signal(Sig::KILL)));
            } else if !stubborn {
                let after = self.random.below(5_000);
                let exit = if self.random.chance(50) { Exit::Code(0) } else { Exit::Signal(sig) };
                self.later(after, Due::Dies(pid, exit));
            }
        }
    }

    pub(super) fn measure(&mut self) {
        let Some(state) = &self.daemon else { return };
        let names: Vec<Name> =
            state.agents().filter(|agent| !agent.is_down()).map(|agent| agent.name().clone()).collect();
        let usages = names.into_iter().map(|name| {
            let memory = Some(if self.hogs.contains(&name) { 1 << 30 } else { 1 << 10 });
            Usage { name, cpu: Some(Duration::from_nanos(self.time / 100)), memory, spared: 0 }
        });
        let usages = usages.collect();
        self.queue.push_back(Event::Measured(usages));
    }

    pub(super) fn check(&mut self, name: Name) {
        let sick = self.processes.values().find(|live| live.name == name && live.role == Role::Main);
        let sick = sick.is_some_and(|live| live.process.pid.raw() % 5 == 0);
        let exit = if sick || self.wears() { Exit::Code(1) } else { Exit::Code(0) };
        if !self.wears() {
            let after = self.random.below(9_000);
            self.answer(after, Event::Checked(name, exit, "".into()));
        }
    }
}
