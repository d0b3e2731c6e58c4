//! Agents of the host in memory: how their processes start, hang and end, what they need, and how they are.

use super::*;

impl Host<'_> {
    /// What is so before any start of an agent or its `prestart`; returns its definition.
    fn may_start(&mut self, name: &Name) -> Result<Spec, String> {
        if self.stopping.is_some() {
            return Err(format!("agent {name} is started in a shutdown"));
        }
        let Some(spec) = self.daemon.as_ref().and_then(|state| state.spec(name)) else {
            return Err(format!("agent {name} is started without a definition"));
        };
        // What its prestart has left belongs to the run that begins now.
        let prepared = self.prepared.remove(name);
        // So may what earlier runs have left, where that is spared.
        let spares = spec.kill == KillMode::Main
            || self.daemon.iter().flat_map(State::agents).any(|agent| agent.name() == name && agent.spares());
        let is_copy = |live: &&Live| {
            let may_stay = live.spared || (spares || prepared) && live.role == Role::Other;
            live.name == *name && !may_stay
        };
        if let Some(live) = self.processes.values().find(is_copy) {
            return Err(format!("a second copy of agent {name} is started beside {:?}", live.process));
        }
        self.unheard.remove(name);
        self.started_by.insert(name.clone(), spec.clone());
        let now = self.now().time;
        if !prepared {
            self.watch(name).started(now).map_err(|why| format!("agent {name}: {why}"))?;
            if spares {
                self.spare(name);
            }
        }
        Ok(spec)
    }

    /// What runs of an agent is left by its earlier runs.
    pub(super) fn spare(&mut self, name: &str) {
        self.processes.values_mut().filter(|live| *live.name == *name).for_each(|live| live.spared = true);
    }

    /// Whether the host could not make a process, and says so.
    fn lacks_resources(&mut self, name: &Name) -> bool {
        if !self.wears() {
            return false;
        }
        let (name, reason) = (name.clone(), "making a process: no memory".into());
        let lacks = self.random.chance(50);
        self.queue.push_back(match lacks {
            true => Event::ResourceExhausted { name, reason },
            false => Event::NotStarted { name, reason },
        });
        true
    }

    /// Makes the process of an agent that the daemon follows.
    fn followed_process(&mut self, name: &Name, role: Role) -> Process {
        let process = self.process(name, role);
        let since = self.now().time;
        self.followed.insert(process.pid.raw(), Followed { ours: true, since, role, signalled: false });
        process
    }

    pub(super) fn start_prestart(&mut self, name: Name) -> Broken {
        self.may_start(&name)?;
        if self.lacks_resources(&name) {
            return Ok(());
        }
        self.prepared.insert(name.clone());
        let process = self.followed_process(&name, Role::Prestart);
        let pid = process.pid.raw();
        self.queue.push_back(Event::PrestartStarted(name.clone(), process));
        if self.wears() {
            self.processes.remove(&pid);
            self.queue.push_back(Event::NotStarted { name, reason: "executing the program: not there".into() });
            return Ok(());
        }
        if self.random.chance(20) {
            self.process(&name, Role::Other);
        }
        // It hangs, fails, or does its work.
        if !self.wears() {
            let exit = if self.wears() { Exit::Code(1) } else { Exit::Code(0) };
            let after = self.random.below(10_000);
            self.later(after, Due::Dies(pid, exit));
        }
        Ok(())
    }

    pub(super) fn start(&mut self, name: Name) -> Broken {
        let spec = self.may_start(&name)?;
        if self.lacks_resources(&name) {
            return Ok(());
        }
        let role = if spec.kind == Kind::Forking { Role::Starter } else { Role::Main };
        let process = self.followed_process(&name, role);
        self.sought.remove(&name);
        self.checks.remove(&name);
        let pid = process.pid.raw();
        let poll_memory = !spec.limits.is_empty() && self.random.chance(10);
        self.polled.insert(name.clone(), poll_memory);
        self.queue.push_back(Event::Started { name: name.clone(), process, enforcement: polls_memory(poll_memory) });
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
            if spec.kind == Kind::Notify && !self.wears() {
                let after = self.random.below(5_000);
                self.later(after, Due::Says(pid));
            }
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
        let live = Live { name: name.clone(), process, role, stubborn, spared: false };
        self.processes.insert(self.last_pid, live);
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
        let left = self.processes.values().filter(|live| live.name == name && !live.spared).count() as u32;
        let may_be = |live: &&Live| live.name == name && !live.spared && live.role != Role::Starter;
        let main = self.processes.values().filter(may_be);
        let main = main.min_by_key(|live| live.process.pid).map(|live| live.process);
        if let Some(process) = main {
            let since = match self.life(&name) {
                Some(AgentState::Forking { since, .. }) => *since,
                _ => self.now().time,
            };
            let followed = Followed { ours: true, since, role: Role::Main, signalled: false };
            self.followed.insert(process.pid.raw(), followed);
            self.is_main(&name, process);
        }
        self.queue.push_back(Event::MainProcess { name, found: main, left });
    }

    /// A main process says that it is ready; now and then that another one is the main process from now on.
    pub(super) fn says(&mut self, pid: i32) {
        let Some(live) = self.processes.get(&pid).filter(|_| self.daemon.is_some()) else { return };
        let name = live.name.clone();
        let other =
            self.processes.values().find(|other| other.name == name && other.role == Role::Other && !other.spared);
        let other = other.map(|live| live.process);
        let main = other.filter(|_| self.random.chance(30));
        let status = self.random.chance(50).then(|| "at work".into());
        self.queue.push_back(Event::Notified(name, Notification { ready: true, main, status }));
    }

    /// One process of an agent is its main process, and no other is.
    pub(super) fn is_main(&mut self, name: &str, main: Process) {
        for live in self.processes.values_mut().filter(|live| *live.name == *name) {
            live.role = match live.role {
                _ if live.process == main => Role::Main,
                Role::Main => Role::Other,
                role => role,
            };
        }
    }

    /// The daemon follows another process as an agent's main process.
    pub(super) fn follow_main(&mut self, name: &Name, main: Process) -> Broken {
        let is_old = |pid: &i32| self.processes.get(pid).is_some_and(|live| live.name == *name);
        let Some(old) = self.followed.keys().copied().find(is_old) else {
            return Err(format!("agent {name} has no main process that could have moved"));
        };
        let since = self.followed.remove(&old).map_or(self.now().time, |followed| followed.since);
        self.followed.insert(main.pid.raw(), Followed { ours: true, since, role: Role::Main, signalled: false });
        Ok(())
    }

    /// An agent says that it is ready: it counts as started from now on, if it had not done so yet.
    pub(super) fn is_ready(&mut self, name: &str) {
        if matches!(self.life(name), Some(AgentState::Running { ready_by: Some(_), .. })) {
            self.counts_from_now(name);
        }
    }

    /// The time that an agent has been up counts from now on.
    pub(super) fn counts_from_now(&mut self, name: &str) {
        let now = self.now().time;
        for (pid, followed) in &mut self.followed {
            if self.processes.get(pid).is_some_and(|live| *live.name == *name) {
                followed.since = now;
            }
        }
    }

    /// The processes of an agent that a signal or a count is about.
    pub(super) fn scope(&self, name: &str, scope: Scope) -> Vec<i32> {
        let agent = self.daemon.iter().flat_map(State::agents).find(|agent| **agent.name() == *name);
        let main = agent.and_then(|agent| agent.process());
        let is_meant = |live: &Live| match scope {
            Scope::Tree => true,
            Scope::Run => !live.spared,
            Scope::Main => Some(live.process) == main,
        };
        let members = self.processes.iter().filter(|(_, live)| *live.name == *name && is_meant(live));
        members.map(|(pid, _)| *pid).collect()
    }

    pub(super) fn signal(&mut self, name: &str, scope: Scope, sig: Sig) {
        for pid in self.scope(name, scope) {
            let stubborn = self.processes.get(&pid).is_some_and(|live| live.stubborn);
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
            let spared = self.processes.values().filter(|live| live.name == name && live.spared).count() as u32;
            Usage { name, cpu: Some(Duration::from_nanos(self.time / 100)), memory, spared }
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
