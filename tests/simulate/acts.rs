//! What the daemon in memory does when an action says so.

use super::*;

impl Host<'_> {
    pub(super) fn act(&mut self, action: Action) -> Broken {
        if let Some(id) = job_of(&action) {
            let over = self.disk.jobs.get(id).filter(|record| matches!(record.phase, Phase::Done | Phase::Taken));
            if over.is_some() {
                return Err(format!("job {id} is over, and {action:?} is done for it"));
            }
        }
        match action {
            Action::Log(..) | Action::SaveIdentity(_) | Action::RemoveOutput(_) => {}
            Action::RereadDefinitions => self.reread(),
            Action::Reread => {
                self.reread();
                self.queue.push_back(Event::Reread { problems: Vec::new(), notes: Vec::new() });
            }
            Action::Answer(client, _)
            | Action::AnswerSettled(client, ..)
            | Action::AnswerReport(client, _)
            | Action::AnswerJobs(client, _) => {
                if !self.clients.remove(&client.0) {
                    return Err(format!("{client:?} is answered, and nobody waits"));
                }
            }
            Action::Reexec(..) | Action::Replace(..) => return Err("bootagent was not to be changed".into()),
            Action::Quit(_) => self.quit()?,

            Action::StartPrestart(name) => return Err(format!("agent {name} has no prestart")),
            Action::Start(name) => self.start(name)?,
            Action::FindMain(name) => self.find_main(name),
            Action::Signal(name, _, sig) => self.signal(&name, sig),
            Action::CountProcesses { name, .. } => {
                let left = self.processes.values().filter(|live| live.name == name).count();
                self.queue.push_back(Event::ProcessCount(name, left as u32));
            }
            Action::Release(name) => {
                if self.processes.values().any(|live| live.name == name) {
                    return Err(format!("agent {name} is thought to be gone, and is not"));
                }
            }
            // No agent here says or leaves anything.
            Action::FollowMain(name, _) => return Err(format!("agent {name} has no other main process")),
            Action::Spare(name) => return Err(format!("agent {name} spares processes")),
            Action::Measure => self.measure(),
            Action::Check(name) => self.check(name),
            Action::KillCheck(name) => self.answer(10, Event::Checked(name, Exit::Signal(Sig::KILL), "".into())),

            Action::Reload(name) => self.answer(10, Event::ReloadEnded(name, Exit::Code(0), "".into())),
            Action::KillReload(_) => {}

            Action::Exchange(server, message) => {
                if std::mem::replace(&mut self.exchanging, true) {
                    return Err("two exchanges at a time".into());
                }
                self.exchange(&server.base, message)?;
            }
            Action::Fetch(id) => self.fetch(id)?,
            Action::StopFetch(id) => {
                if !self.end_fetch(&id) {
                    return Err(format!("the download of {id} is cut, and there is none"));
                }
                self.fetching = Some(id.clone());
                let cut = Fetched::Cut { reason: "others wait".into(), progress: true, retry_after: None };
                self.answer(10, Event::Fetched(id, cut));
            }
            Action::RemoveDownload(id) => {
                self.disk.downloads.remove(&id);
                self.end_fetch(&id);
            }
            Action::Tool(ToolOwner::Job(id), tool) => self.tool(id, tool)?,
            Action::Tool(ToolOwner::Reexec, _) | Action::KillTool(ToolOwner::Reexec) => {
                return Err("bootagent was not to be changed".into());
            }
            Action::KillTool(ToolOwner::Job(id)) => {
                if let Some(number) = self.tools.get(&id).copied() {
                    self.later(10, Due::ToolEnds(id, number, Exit::Signal(Sig::KILL), String::new()));
                }
            }
            Action::PlacePackage(id, name, file) => {
                let key = (name, file);
                let result = if self.wears() {
                    Err("no space".into())
                } else if self.disk.downloads.remove(&id) {
                    self.disk.packages.insert(key.clone(), number_of(&key.1));
                    Ok(())
                } else if self.disk.packages.contains_key(&key) {
                    Ok(())
                } else {
                    Err("the download is gone".into())
                };
                self.queue.push_back(Event::Placed(id, result));
            }
            Action::Verify(id, _, file) => {
                let digest = Digest([number_of(&file); 32]);
                let result = match self.wears() {
                    true => Verified::Hostile("not signed by a trusted key".into()),
                    false => Verified::Sound(digest),
                };
                self.queue.push_back(Event::Verified(id, result));
            }
            Action::Unpack { job, name, file, dir, .. } => self.unpack(job, name, file, dir),
            Action::Rename { job, name, from, to } => {
                let moved = if self.wears() { None } else { self.disk.packages.remove(&(name.clone(), from)) };
                let result = moved.ok_or("cannot move".into());
                let result = result.map(|number| self.disk.packages.extend([((name, to), number)]));
                self.queue.push_back(Event::Placed(job, result));
            }
            Action::Inspect { job, name, dir, text } => self.inspect(job, &name, dir, text),
            Action::Link(id, name, dir) => {
                // The way back is a link that was there before. No wear hits it: there is no way back from that.
                let known = self.linked.contains(&(name.clone(), dir.clone()));
                let there = self.disk.packages.contains_key(&(name.clone(), dir.clone())) && (known || !self.wears());
                if there {
                    self.linked.insert((name.clone(), dir.clone()));
                    self.disk.current.insert(name, dir);
                }
                self.queue.push_back(Event::Placed(id, if there { Ok(()) } else { Err("not there".into()) }));
            }
            Action::RemovePackage(name, files) => {
                self.disk.packages.retain(|(of, file), _| *of != name || !files.is_empty() && !files.contains(file));
                if files.is_empty() {
                    self.disk.current.remove(&name);
                }
            }

            Action::SaveJob(record) => self.save_job(*record)?,
            Action::TouchJob(id, seq) => {
                if let Some(record) = self.disk.jobs.get_mut(&id) {
                    record.seq = seq;
                }
            }
            Action::RemoveJob(id) => drop(self.disk.jobs.remove(&id)),
            Action::SaveAgent(record) => drop(self.disk.agents.insert(record.name.clone(), *record)),
            Action::RemoveAgent(name) => {
                self.disk.agents.remove(&name);
                self.disk.runs.remove(&name);
                // One of its name that comes later is another one.
                self.watches.insert(name.clone(), Watch::new());
                if self.processes.values().any(|live| live.name == name) && self.life(&name).is_none() {
                    return Err(format!("agent {name} is forgotten, and runs"));
                }
            }
            Action::SaveSettings(settings) => self.disk.settings = settings,
            Action::SaveStop(stop) => self.disk.stop = Some(stop.at),
            Action::SaveRun(run) => drop(self.disk.runs.insert(run.name.clone(), *run)),
        }
        Ok(())
    }

    pub(super) fn quit(&mut self) -> Broken {
        if self.stopping.is_some_and(|at| self.now().time < at) {
            if let Some(live) = self.processes.values().next() {
                return Err(format!("the daemon ends in time, and agent {} runs", live.name));
            }
        }
        let waiting: Vec<u32> = self.clients.iter().copied().collect();
        if self.stopping.is_some() && !waiting.is_empty() {
            return Err(format!("clients {waiting:?} are not answered"));
        }
        self.crash();
        Ok(())
    }

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

    pub(super) fn exchange(&mut self, server: &str, message: Message) -> Broken {
        let mode = if self.wears() { Mode::Garbage } else { self.mode };
        let failed = |reason: &str, retry_after| Reply::Failed { reason: reason.into(), retry_after };
        let after = if mode == Mode::Silent { 30_000 } else { self.random.below(500) };
        let reply = match (mode, message) {
            (Mode::Silent, _) => failed("it says nothing", None),
            (Mode::Garbage, _) => failed("it talks rubbish", None),
            (Mode::Busy, _) => failed("it is busy", Some(self.random.below(4_000))),
            (mode, Message::Status(_)) => {
                let new = server.contains("new");
                if new && self.random.chance(50) {
                    failed("it is not there", None)
                } else if mode == Mode::Losing {
                    failed("the answer was cut", None)
                } else {
                    let errcode = if new && self.random.chance(20) { None } else { Some(0) };
                    let open = self.cancelled.iter().filter(|id| !self.results.contains_key(*id));
                    let cancel = open.cloned().collect();
                    Reply::Jobs { errcode, jobs: self.offers(), cancel }
                }
            }
            (Mode::Refusing, Message::Results(_)) => Reply::NotTaken("errcode 5".into()),
            (mode, Message::Results(results)) => {
                if results.is_empty() || results.len() > 64 {
                    return Err(format!("{} results in an exchange", results.len()));
                }
                for (id, outcome) in results {
                    let known = *self.results.entry(id.clone()).or_insert(outcome.code);
                    if outcome.code == Code::Success && self.doomed.contains(&id) {
                        return Err(format!("job {id} was cancelled in time, and done"));
                    }
                    if known != outcome.code {
                        return Err(format!("job {id} had the result {known:?}, and now has {outcome:?}"));
                    }
                }
                if mode == Mode::Losing {
                    failed("the answer was cut", None)
                } else {
                    Reply::Taken
                }
            }
        };
        self.answer(after, Event::Replied(reply));
        Ok(())
    }

    /// The servers offer what they have no result of, and now and then what they have one of.
    pub(super) fn offers(&mut self) -> Vec<Result<Job, RejectedJob>> {
        let again = self.random.chance(20);
        let wanted = |id: &JobId| again || !self.results.contains_key(id);
        let mut offers: Vec<Result<Job, RejectedJob>> =
            self.jobs.iter().filter(|job| wanted(&job.id)).cloned().map(Ok).collect();
        for id in self.bad.iter().filter(|id| wanted(id)) {
            let message = "action: missing".into();
            let rejected =
                RejectedJob { id: Some(id.clone()), code: Code::BadJob, message, action: "".into(), name: "".into() };
            offers.push(Err(rejected));
        }
        offers
    }

    pub(super) fn job(&self, id: &str) -> Option<&Job> {
        self.daemon.as_ref()?.job(id)
    }

    pub(super) fn source(&self, id: &str) -> Result<Source, String> {
        match self.job(id).map(|job| &job.action) {
            Some(JobAction::Install(source) | JobAction::Upgrade(source)) => Ok(source.clone()),
            _ => Err(format!("job {id} has no package")),
        }
    }

    pub(super) fn fetch(&mut self, id: JobId) -> Broken {
        if let Some(other) = self.fetching.replace(id.clone()) {
            return Err(format!("the downloads of {other} and {id} run at once"));
        }
        let source = self.source(&id)?;
        let resumed = !self.disk.downloads.insert(id.clone());
        let mut wrong = source.digest;
        wrong.0[1] = 0;
        let fetched = match self.random.below(if self.plan.wear == 0 { 1 } else { 8 }) {
            1 => Fetched::Cut { reason: "cut".into(), progress: self.random.chance(50), retry_after: None },
            2 => Fetched::Refused { reason: "not there".into() },
            3 => Fetched::Whole { digest: wrong, doubtful: resumed },
            4 => Fetched::Whole { digest: wrong, doubtful: true },
            _ => Fetched::Whole { digest: source.digest, doubtful: resumed },
        };
        let slow = if self.random.chance(5) { 60 } else { 1 };
        let after = self.random.below(60_000 * slow);
        self.answer(after, Event::Fetched(id, fetched));
        Ok(())
    }

    /// Ends a download, and whether there was one.
    pub(super) fn end_fetch(&mut self, id: &str) -> bool {
        let ends = self.fetching.as_deref() == Some(id);
        if ends {
            self.fetching = None;
            self.agenda.retain(|_, due| !matches!(due, Due::Answer(_, event) if matches!(**event, Event::Fetched(..))));
        }
        ends
    }

    pub(super) fn tool(&mut self, id: JobId, tool: Tool) -> Broken {
        if self.tools.contains_key(&id) {
            return Err(format!("two package tools of job {id} run at once"));
        }
        let argv: Vec<&str> = tool.argv.iter().map(|arg| &**arg).collect();
        let last = argv.last().copied().unwrap_or_default();
        let fails = self.wears();
        let (exit, output) = match argv[0] {
            _ if fails && self.random.chance(50) => (Exit::Code(2), "database is locked"),
            _ if fails => (Exit::Code(1), "broken"),
            "dpkg-deb" => (Exit::Code(0), "Package: agent-package\nVersion: 3\n"),
            "sh" if argv[3] == "query" && self.disk.installed.contains_key(last) => (Exit::Code(0), "3\n"),
            "sh" if ["query", "clear"].contains(&argv[3]) => (Exit::Code(0), ""),
            _ => (Exit::Code(0), "fine"),
        };
        if exit == Exit::Code(0) {
            let name = self.job(&id).map(|job| job.name.clone()).unwrap_or_default();
            if argv.contains(&"dpkg -i") {
                let file: Box<str> = argv[4].rsplit('/').next().unwrap_or_default().into();
                if !self.disk.packages.contains_key(&(name, file.clone())) {
                    return Err(format!("job {id}: {file} is installed, and is not there"));
                }
                self.disk.installed.insert("agent-package".into(), number_of(&file));
            } else if argv.contains(&"-r") {
                self.disk.installed.remove(last);
            }
        }
        self.count += 1;
        let number = self.count;
        self.tools.insert(id.clone(), number);
        let hangs = self.random.chance(self.plan.wear / 2);
        if !hangs {
            let after = self.random.below(30_000);
            self.later(after, Due::ToolEnds(id, number, exit, output.into()));
        }
        Ok(())
    }

    pub(super) fn unpack(&mut self, job: JobId, name: Name, file: Box<str>, dir: Box<str>) {
        let package = self.disk.packages.get(&(name.clone(), file)).copied();
        let result = match package {
            None => Err("the package is gone".into()),
            Some(_) if self.wears() => Err("damaged".into()),
            Some(number) => {
                self.disk.packages.insert((name, dir), number);
                Ok(())
            }
        };
        let after = self.random.below(5_000);
        self.answer(after, Event::Unpacked(job, result));
    }

    pub(super) fn inspect(&mut self, job: JobId, name: &Name, dir: Box<str>, text: Option<Box<str>>) {
        let number = if dir.is_empty() {
            self.disk.installed.get("agent-package").copied()
        } else {
            self.disk.packages.get(&(name.clone(), dir)).copied()
        };
        let result = match text {
            _ if self.wears() => Err("unreadable".into()),
            Some(text) => Ok(job_definition(&text)),
            None => Ok(number.and_then(|number| package_definition(number, name))),
        };
        self.queue.push_back(Event::Inspected(job, result));
    }

    pub(super) fn save_job(&mut self, record: JobRecord) -> Broken {
        let id = record.id.clone();
        let over = |phase| matches!(phase, Phase::Done | Phase::Taken);
        if let Some(known) = self.disk.jobs.get(&id).filter(|known| over(known.phase)) {
            if !over(record.phase) || known.outcome != record.outcome {
                return Err(format!("job {id} was over, and is run again: {record:?}"));
            }
        }
        if matches!(record.phase, Phase::Installing | Phase::Starting | Phase::Settling) && self.doomed.contains(&id) {
            return Err(format!("job {id} was cancelled in time, and goes on: {record:?}"));
        }
        let result = if self.disk.full {
            Err("no space left on device".into())
        } else {
            self.accepted.entry(id.clone()).or_insert(self.time);
            match record.phase {
                Phase::Installing | Phase::Starting | Phase::Settling => {
                    self.working.insert(id.clone(), record.name.clone());
                }
                _ => drop(self.working.remove(&id)),
            }
            self.disk.jobs.insert(id.clone(), record);
            Ok(())
        };
        self.queue.push_back(Event::Saved(id, result));
        Ok(())
    }
}
