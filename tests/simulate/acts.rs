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
            Action::Log(..) | Action::SaveIdentity(_) | Action::RemoveOutput(_) | Action::LookAtPackages => {}
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

            Action::StartPrestart(name) => self.start_prestart(name)?,
            Action::Start(name) => self.start(name)?,
            Action::FindMain(name) => self.find_main(name),
            Action::Signal(name, scope, sig) => self.signal(&name, scope, sig),
            Action::CountProcesses { name, scope, .. } => {
                let left = self.scope(&name, scope).len() as u32;
                self.queue.push_back(Event::ProcessCount(name, left));
            }
            Action::Release(name) => {
                if self.processes.values().any(|live| live.name == name) {
                    return Err(format!("agent {name} is thought to be gone, and is not"));
                }
            }
            Action::FollowMain(name, main) => self.follow_main(&name, main)?,
            Action::Spare(name) => {
                if !self.may_spare.contains(&name) {
                    return Err(format!("agent {name} spares processes, and was never to"));
                }
                self.spare(&name);
            }
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
            Action::Tool(ToolOwner::Reexec | ToolOwner::Inventory, _)
            | Action::KillTool(ToolOwner::Reexec | ToolOwner::Inventory) => {
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
                if self.processes.values().any(|live| live.name == name && !live.spared) && self.life(&name).is_none() {
                    return Err(format!("agent {name} is forgotten, and runs"));
                }
                // What it has left is nobody's.
                self.processes.retain(|_, live| live.name != name);
            }
            Action::SaveSettings(settings) => self.disk.settings = settings,
            Action::SaveStop(stop) => self.disk.stop = Some(stop.at),
            Action::SaveRun(run) => {
                // Only now would another daemon know that its main process has moved.
                if let Some(main) = run.process.filter(|_| !run.forking && !run.stopping) {
                    self.is_main(&run.name, main);
                }
                self.disk.runs.insert(run.name.clone(), *run);
            }
        }
        Ok(())
    }

    pub(super) fn quit(&mut self) -> Broken {
        if self.stopping.is_some_and(|at| self.now().time < at) {
            if let Some(live) = self.processes.values().find(|live| !live.spared) {
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

/// The job for whose sake an action changes the host.
fn job_of(action: &Action) -> Option<&JobId> {
    match action {
        Action::Fetch(id)
        | Action::Tool(ToolOwner::Job(id), _)
        | Action::PlacePackage(id, ..)
        | Action::Verify(id, ..)
        | Action::Link(id, ..) => Some(id),
        Action::Unpack { job, .. } | Action::Rename { job, .. } | Action::Inspect { job, .. } => Some(job),
        _ => None,
    }
}
