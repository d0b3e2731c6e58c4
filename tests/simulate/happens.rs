//! What happens on the host in memory: what falls due, what comes from outside, how a daemon begins and ends.

use super::*;

impl Host<'_> {
    pub(super) fn happens(&mut self, due: Due) -> Broken {
        match due {
            Due::Script(index) => {
                let plan = self.plan;
                let outside = &plan.script[index].1;
                self.tell(|| format!("--- {outside:?}"));
                self.outside(outside)?;
            }
            Due::Boot => self.start_daemon()?,
            Due::Dies(pid, exit) => self.dies(pid, exit),
            Due::Says(pid) => self.says(pid),
            Due::Answer(daemon, event) => {
                if daemon == self.daemons && self.daemon.is_some() {
                    self.hear(&event);
                    self.queue.push_back(*event);
                }
            }
            Due::ToolEnds(job, number, exit, output) => self.tool_ends(job, number, exit, output),
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::Replied(_) => self.exchanging = false,
            Event::Fetched(..) => self.fetching = None,
            _ => {}
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        if self.daemon.is_some() {
            self.last_client += 1;
            self.clients.insert(self.last_client);
            self.queue.push_back(Event::Command(Client(self.last_client), command));
        }
    }

    pub(super) fn outside(&mut self, outside: &Outside) -> Broken {
        match outside {
            Outside::Offer(job) => self.jobs.push((**job).clone()),
            Outside::Cancel(id) => drop(self.cancelled.insert(id.clone())),
            Outside::OfferBad(id) => self.bad.push(id.clone()),
            Outside::Start(name) => self.command(Command::Start((*name).into())),
            Outside::Stop(name) => self.command(Command::Stop((*name).into())),
            Outside::Restart(name) => self.command(Command::Restart((*name).into())),
            Outside::Status => self.command(Command::Status(None)),
            Outside::Report => self.command(Command::Report),
            Outside::Gone => {
                if self.clients.remove(&self.last_client) {
                    self.queue.push_back(Event::Gone(Client(self.last_client)));
                }
            }
            Outside::Crash(after) => self.fuse = Some(*after),
            Outside::Reboot => self.reboot(),
            Outside::Shutdown if self.daemon.is_some() && self.stopping.is_none() => {
                let longest =
                    self.daemon.iter().flat_map(State::agents).filter_map(|agent| Some(agent.spec()?.stopsecs));
                self.stopping = Some(self.now().time + longest.max().unwrap_or_default() + Duration::from_secs(10));
                self.queue.push_back(Event::Shutdown(Shutdown::Stop));
            }
            Outside::Leave if self.daemon.is_some() => {
                self.queue.push_back(Event::Shutdown(Shutdown::Leave));
                self.stopping = None;
            }
            Outside::Shutdown | Outside::Leave => {}
            Outside::Change(spec) => {
                self.disk.files.insert(spec.name.clone(), (**spec).clone());
                self.command(Command::Reread);
            }
            Outside::Remove(name) => {
                self.disk.files.remove(*name);
                self.command(Command::Reread);
            }
            Outside::Kill(name, exit) => {
                let main = self.processes.iter().find(|(_, live)| *live.name == **name && live.role == Role::Main);
                if let Some(pid) = main.map(|(pid, _)| *pid) {
                    self.dies(pid, *exit);
                }
            }
            Outside::Hog(name) => drop(self.hogs.insert((*name).into())),
            Outside::Clock(by) => self.clock += by,
            Outside::Server(mode) => self.mode = *mode,
            Outside::Disk(full) => self.disk.full = *full,
        }
        Ok(())
    }

    pub(super) fn reread(&mut self) {
        if self.daemon.is_some() {
            let good = self.definitions();
            self.queue.push_back(Event::Definitions { whole: true, good, problems: Vec::new() });
        }
    }

    pub(super) fn definitions(&self) -> Vec<Definition> {
        let define = |origin, spec| Definition { origin, spec };
        let mut all: Vec<Definition> =
            self.disk.files.values().map(|spec| define(Origin::File, Box::new(spec.clone()))).collect();
        for record in self.disk.agents.values() {
            all.extend(record.definition.as_deref().and_then(job_definition).map(|spec| define(Origin::Job, spec)));
            let own = record.package.as_ref().and_then(|package| package_definition(package.digest.0[0], &record.name));
            all.extend(own.map(|spec| define(Origin::Package, spec)));
        }
        all
    }

    pub(super) fn reboot(&mut self) {
        self.crash();
        self.processes.clear();
        self.disk.runs.clear();
        self.disk.stop = None;
        self.hogs.clear();
        self.watches.clear();
        self.started_by.clear();
        self.may_spare.clear();
        self.tools.clear();
        self.agenda.retain(|_, due| matches!(due, Due::Script(_)));
        (self.booted, self.boots) = (self.time, self.boots + 1);
        self.at(self.time, Due::Boot);
    }

    /// The daemon is gone, with all that only it knew, and init starts the next one.
    pub(super) fn crash(&mut self) {
        if self.daemon.take().is_none() {
            return;
        }
        self.tell(|| "the daemon is gone".into());
        self.queue.clear();
        self.followed.clear();
        (self.fuse, self.exchanging, self.fetching, self.stopping) = (None, false, None, None);
        self.checks.clear();
        self.polled.clear();
        self.doomed.clear();
        self.sought.clear();
        self.prepared.clear();
        self.unheard.clear();
        self.clients.clear();
        self.tools.clear();
        let wait = 1 + self.random.below(5_000);
        self.later(wait, Due::Boot);
    }

    pub(super) fn start_daemon(&mut self) -> Broken {
        if self.daemon.is_some() {
            return Ok(());
        }
        self.daemons += 1;
        let now = self.now();
        let boot_id: Box<str> = format!("boot-{}", self.boots).into();
        let options = Options {
            hostname: "host".into(),
            version: "1".into(),
            boot_id,
            servers: parse_servers("one:1,two:2")?,
            step: self.plan.step,
            splay: Duration::from_secs(30),
            policy: self.plan.policy,
            times: Times::default(),
            signed: self.plan.signed,
            keyed: false,
            closed: None,
            program: "/bootagent".into(),
            config: "/bootagent.json".into(),
            checksecs: Duration::from_secs(60),
            packages: "/packages".into(),
            seed: self.plan.seed ^ u64::from(self.daemons),
        };
        let mut found = Recovered {
            settings: self.disk.settings.clone(),
            servers: parse_servers(&self.disk.settings.svrlist)?,
            definitions: self.definitions(),
            agents: self.disk.agents.values().cloned().collect(),
            leftovers: self.watches.values().next().is_some(),
            ..Recovered::default()
        };
        found.identity.sn = "sn".into();
        // Now and then it was 1.0.0 that died, which notes no step.
        let old = self.random.chance(20);
        for record in self.disk.jobs.values() {
            let job = (!record.text.is_empty()).then(|| self.jobs.iter().find(|job| job.text == record.text));
            let step = record.step.filter(|_| !old);
            let record = JobRecord { step, ..record.clone() };
            found.jobs.push((record, job.flatten().cloned().map(std::rc::Rc::new)));
        }
        if let Some(stop) = self.disk.stop {
            for run in self.disk.runs.values_mut() {
                run.end_with(stop);
            }
        }
        let mut adopted = BTreeSet::new();
        for run in self.disk.runs.values() {
            let live = run.process.filter(|process| self.processes.contains_key(&process.pid.raw()));
            found.runs.push((run.clone(), live.is_some()));
            if live.is_some() {
                adopted.insert(run.name.clone());
            }
        }
        let mut strays: BTreeMap<Name, Option<(Process, Time)>> = BTreeMap::new();
        for live in self.processes.values().filter(|live| !adopted.contains(&live.name)) {
            let main = strays.entry(live.name.clone()).or_default();
            if live.role != Role::Other && main.is_none() && self.random.chance(70) {
                let since = Time((live.process.ticks * 10 + 5_000) * MS - self.booted);
                *main = Some((live.process, since));
            }
        }
        found.unrecorded = strays.clone().into_iter().collect();
        found.choose_definitions();
        for name in found.forget_removed(&strays.keys().collect::<Vec<_>>()) {
            // What it has left is nobody's.
            self.processes.retain(|_, live| live.name != name);
            found.unrecorded.retain(|(known, _)| *known != name);
            strays.remove(&name);
            self.disk.runs.remove(&name);
            self.watches.remove(&name);
        }
        let names: BTreeSet<Name> = self.watches.keys().chain(self.disk.runs.keys()).cloned().collect();
        for name in names {
            let run = self.disk.runs.get(&name).cloned();
            let (alive, stray) = (adopted.contains(&name), strays.contains_key(&name));
            let watch = self.watch(&name);
            watch.found(run.as_ref(), alive, stray, now.time).map_err(|why| format!("agent {name}: {why}"))?;
        }
        let mut out = Vec::new();
        let state = State::new(options, found, now, &mut out);
        self.tell(|| "a daemon starts".into());
        let following: Vec<(Name, AgentState, Process)> = state
            .agents()
            .filter_map(|agent| Some((agent.name().clone(), agent.state.clone(), agent.process()?)))
            .collect();
        let runs: BTreeMap<Name, _> = state
            .agents()
            .map(|agent| {
                let ends_all = matches!(&agent.state, AgentState::Stopping(stopping) if stopping.scope == Scope::Tree);
                (agent.name().clone(), (agent.spares(), ends_all, agent.run_began(), agent.process()))
            })
            .collect();
        for live in self.processes.values_mut() {
            // What an agent has left that was just forgotten stays as it is.
            let Some((spares, ends_all, began, main)) = runs.get(&live.name).copied() else { continue };
            let is_older = began.is_none_or(|began| live.process.ticks < began);
            let spared = spares && is_older && Some(live.process) != main;
            let is_lost = spares && !live.spared && Some(live.process) != main;
            let recognized =
                strays.get(&live.name).is_some_and(|main| main.is_some_and(|(main, _)| main == live.process));
            if spared && is_lost && recognized && !ends_all {
                return Err(format!("{live:?} is taken for one that an earlier run has left"));
            } else if is_lost && !recognized {
                // Nobody knows that it is more than that.
                live.role = Role::Other;
            }
            live.spared = spared;
        }
        let unready =
            state.agents().filter(|agent| matches!(agent.state, AgentState::Running { ready_by: Some(_), .. }));
        self.unheard = unready.map(|agent| agent.name().clone()).collect();
        for (name, life, process) in following {
            let Some(live) = self.processes.get(&process.pid.raw()) else { continue };
            let role = live.role;
            let since = match &life {
                AgentState::Running { since, .. } | AgentState::Forking { since, .. } => *since,
                _ => now.time,
            };
            self.followed.insert(process.pid.raw(), Followed { ours: false, since, role, signalled: false });
            let poll = state.spec(&name).is_some_and(|spec| !spec.limits.is_empty()) && self.random.chance(10);
            self.polled.insert(name.clone(), poll);
            self.queue.push_back(Event::Attached(name, polls_memory(poll)));
        }
        for agent in state.agents() {
            if matches!(agent.state, AgentState::Forking { starter: None, .. }) {
                self.sought.insert(agent.name().clone(), now.time);
            }
            // Who should be down is ended, which nobody sees from outside; who was started by another definition, is
            // as good as ordered to start anew.
            let other = self.started_by.get(agent.name()).is_some_and(|known| Some(known) != agent.spec().as_ref());
            if other || agent.wanted() == Wanted::Down || agent.definition.is_none() {
                self.watches.entry(agent.name().clone()).or_insert_with(Watch::new).excuse();
            }
        }
        self.disk.downloads.retain(|id| state.job(id).is_some());
        self.daemon = Some(state);
        self.note_orders();
        self.note_kill_modes();
        self.perform(out)
    }

    pub(super) fn dies(&mut self, pid: i32, exit: Exit) {
        let Some(live) = self.processes.remove(&pid) else { return };
        self.tell(|| format!("    {} {pid} {exit}", live.name));
        if self.daemon.is_none() {
            return;
        }
        let Some(followed) = self.followed.remove(&pid) else { return self.queue.push_back(Event::ProcessesChanged) };
        if live.role == Role::Main {
            self.hogs.remove(&live.name);
        }
        let exit = if followed.ours { exit } else { Exit::Unknown };
        let now = self.now().time;
        let good_start =
            matches!(followed.role, Role::Starter | Role::Prestart) && matches!(exit, Exit::Code(0) | Exit::Unknown);
        if !followed.signalled && !good_start {
            let end = if followed.role == Role::Prestart { End::NotStarted } else { End::Exited(exit) };
            self.watch(&live.name).ended(end, now.since(followed.since), now);
        }
        if good_start && followed.role == Role::Starter {
            self.sought.insert(live.name.clone(), now);
        }
        let oom = (exit == Exit::Signal(Sig::KILL) && self.random.chance(30)).then(|| "out of memory".into());
        self.queue.push_back(Event::Exited {
            name: live.name,
            pid: Pid::new(pid).expect("it lived"),
            exit,
            oom,
            tail: "last words".into(),
        });
    }

    pub(super) fn tool_ends(&mut self, job: JobId, number: u64, exit: Exit, output: String) {
        if self.tools.get(&job) == Some(&number) {
            self.tools.remove(&job);
            self.queue.push_back(Event::ToolDone { owner: ToolOwner::Job(job), exit, output: output.into() });
        }
    }
}
