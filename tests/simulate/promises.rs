//! What the model promises, looked at before and after each step and at the end of a life.

use super::*;

impl Host<'_> {
    /// What the event says about agents, before the model hears of it.
    pub(super) fn before(&mut self, event: &Event) {
        match event {
            Event::Command(_, Command::Start(name) | Command::Stop(name) | Command::Restart(name)) => {
                self.watch(name).excuse();
            }
            Event::Replied(Reply::Jobs { errcode: Some(_), jobs, cancel }) => {
                for id in cancel {
                    let offered = jobs.iter().any(|job| job.as_ref().is_ok_and(|job| job.id == *id));
                    let record = self.daemon.as_ref().and_then(|state| state.job_record(id));
                    let early = record
                        .map_or(offered && !self.disk.jobs.contains_key(id), |record| record.phase <= Phase::Verified);
                    if early {
                        self.doomed.insert(id.clone());
                    }
                }
            }
            Event::Notified(name, said) if said.ready => self.is_ready(name),
            Event::Definitions { .. } | Event::Shutdown(_) => {
                let names: Vec<Name> = self.watches.keys().cloned().collect();
                names.iter().for_each(|name| self.watch(name).excuse());
            }
            Event::Measured(usages) => {
                let now = self.now().time;
                for usage in usages {
                    let Some(limit) = self.daemon.as_ref().and_then(|state| state.spec(&usage.name)?.limits.memory)
                    else {
                        continue;
                    };
                    let polled = self.polled.get(&usage.name).copied().unwrap_or(false);
                    if polled && usage.memory.is_some_and(|memory| memory > limit) {
                        if let Some(AgentState::Running { since, .. }) = self.life(&usage.name) {
                            let ran = now.since(*since);
                            self.watch(&usage.name).ended(End::Forced, ran, now);
                        }
                    }
                }
            }
            Event::Checked(name, exit, _) => {
                let now = self.now().time;
                // What a check of an earlier run says counts no more.
                let Some(AgentState::Running { since, health: Health::Busy { .. }, .. }) = self.life(name) else {
                    return;
                };
                let ran = now.since(*since);
                let failed = self.checks.entry(name.clone()).or_default();
                *failed = if *exit == Exit::Code(0) { 0 } else { *failed + 1 };
                if *failed == 2 {
                    *failed = 0;
                    self.watch(name).ended(End::Forced, ran, now);
                }
            }
            Event::NotStarted { name, .. } => {
                let now = self.now().time;
                let stopping = matches!(self.life(name), Some(AgentState::Stopping(_)));
                self.followed.retain(|pid, _| self.processes.contains_key(pid));
                if !stopping {
                    self.watch(name).ended(End::NotStarted, Duration::ZERO, now);
                }
            }
            Event::MainProcess { name, found: None, left } => {
                let now = self.now().time;
                let sought = self.sought.get(name).copied();
                let (mut seeks, mut runs_since) = (false, None);
                if let Some(AgentState::Forking { starter: None, since, ask, .. }) = self.life(name) {
                    // The next look is later than the search: it runs as long as there is any process of it.
                    runs_since = ask.filter(|(next, until)| next > until).map(|_| *since);
                    seeks = runs_since.is_none();
                }
                if let (Some(since), 0) = (runs_since, left) {
                    self.watch(name).ended(End::Exited(Exit::Unknown), now.since(since), now);
                }
                let startsecs = self
                    .daemon
                    .as_ref()
                    .and_then(|state| state.spec(name))
                    .map_or(Duration::ZERO, |spec| spec.startsecs);
                let longest = startsecs.max(Duration::from_secs(10));
                // What is left may be it: only the processes that live are known.
                let spec = self.daemon.as_ref().and_then(|state| state.spec(name));
                let may_be = *left > 0 && spec.is_none_or(|spec| spec.pidfile.is_none());
                if seeks && !may_be && sought.is_some_and(|since| now.since(since) >= longest) {
                    self.watch(name).ended(End::NotStarted, Duration::ZERO, now);
                }
            }
            _ => {}
        }
    }

    /// The start of an agent has taken too long, as `late_starts` says.
    pub(super) fn is_late(&mut self, name: &Name, now: Time) {
        // Nobody may have heard that it is ready.
        if self.unheard.remove(name) {
            return self.counts_from_now(name);
        }
        self.watch(name).ended(End::NotStarted, Duration::ZERO, now);
    }

    /// Jobs at work on an agent are orders, as long as they are.
    pub(super) fn note_orders(&mut self) {
        for name in self.working.values() {
            self.watches.entry(name.clone()).or_insert_with(Watch::new).excuse();
        }
    }

    /// Which agents may leave processes when they are stopped.
    pub(super) fn note_kill_modes(&mut self) {
        let spares = |spec: &Spec| spec.kill == KillMode::Main;
        for agent in self.daemon.iter().flat_map(State::agents) {
            if agent.definition.as_ref().is_some_and(|definition| spares(&definition.spec)) {
                self.may_spare.insert(agent.name().clone());
            }
        }
    }

    /// Nothing that was promised is broken.
    pub(super) fn after(&mut self) -> Broken {
        let Some(state) = &self.daemon else { return Ok(()) };
        let now = self.now().time;
        let policy = self.plan.policy;
        let mut watches = std::mem::take(&mut self.watches);
        for agent in state.agents() {
            let name = agent.name();
            let ordered = self.stopping.is_some() || self.working.values().any(|at_work| at_work == name);
            let failures = agent.report(now, policy).failures;
            let spec = agent.definition.as_ref().map(|definition| &*definition.spec);
            let mut watch = watches.remove(name).unwrap_or_else(Watch::new);
            let looked = watch.look(&agent.state, failures, ordered, policy, spec, now);
            looked.map_err(|why| format!("agent {name}: {why}"))?;
            self.watches.insert(name.clone(), watch);
            let by =
                self.started_by.get(name).filter(|_| matches!(agent.state, AgentState::Running { .. }) && !ordered);
            if by.zip(agent.spec().as_ref()).is_some_and(|(by, spec)| !by.is_run_as(spec)) {
                return Err(format!("agent {name} runs by {by:?}, which is no more its definition"));
            }
        }
        if self.stopping.is_some_and(|at| now > at) {
            return Err("the daemon was told to stop, and does not end".into());
        }
        Ok(())
    }

    /// After a long peace: every job answered, every person too, every agent where it should be.
    pub(super) fn rests(&self) -> Broken {
        let Some(state) = &self.daemon else { return Err("there is no daemon after hours of peace".into()) };
        // Servers that did not answer may not be asked for a whole step.
        let patient = self.plan.step > Duration::from_secs(3600);
        let waits = |id: &JobId| patient && state.job_record(id).is_some_and(|record| record.phase == Phase::Done);
        for (id, since) in &self.accepted {
            if self.time - since < LONGEST || waits(id) {
                continue;
            }
            if !self.results.contains_key(id) {
                let record = state.job_record(id).map(|record| (record.phase, record.outcome.clone()));
                return Err(format!("job {id} is not answered: {record:?}"));
            }
            // A job whose last record could not be written is answered once more by the next daemon, which does no harm.
            if state.job_record(id).is_some() {
                return Err(format!("job {id} is answered, and not over"));
            }
        }
        if let Some(client) = self.clients.first() {
            return Err(format!("client {client} is not answered"));
        }
        for agent in state.agents() {
            let up = matches!(agent.state, AgentState::Running { .. });
            let given_up = !matches!(agent.state, AgentState::Down) || !agent.is_fresh();
            let name = agent.name();
            match agent.wanted() {
                Wanted::Up if !up && !given_up && agent.definition.is_some() => {
                    return Err(format!("agent {name} should run, and is {:?}", agent.state))
                }
                Wanted::Down if !agent.is_down() => return Err(format!("agent {name} should not run, and does")),
                _ => {}
            }
            let lives = self.processes.values().filter(|live| live.name == *name && !live.spared).count();
            if agent.is_down() != (lives == 0) && !matches!(agent.state, AgentState::Waiting { .. }) {
                return Err(format!("agent {name} is {:?}, and {lives} processes of it live", agent.state));
            }
            let package = agent.record.package.as_ref();
            if let Some(package) = package.filter(|package| package.format == Format::Tar) {
                let dir = package.package.clone();
                if self.disk.packages.get(&(name.clone(), dir.clone())) != Some(&package.digest.0[0]) {
                    return Err(format!("the package of agent {name} is not in {dir}"));
                }
                if self.disk.current.get(name) != Some(&dir) {
                    return Err(format!("the package of agent {name} is {dir}, and not the current one"));
                }
            }
        }
        let strays = self.processes.values().find(|live| state.agents().all(|agent| *agent.name() != live.name));
        if let Some(live) = strays {
            return Err(format!("{live:?} runs, and no agent is known of that name"));
        }
        Ok(())
    }
}

/// Agents whose starter or `prestart` has run for too long, or that have not said for too long that they are ready.
pub(super) fn late_starts(state: &State, now: Time) -> Vec<Name> {
    let is_late = |life: &AgentState| match life {
        AgentState::Forking { starter: Some(_), since, .. } => now.since(*since) >= STARTER,
        AgentState::Prestart { since, .. } => now.since(*since) >= PRESTART,
        AgentState::Running { ready_by: Some(at), .. } => now >= *at,
        _ => false,
    };
    state.agents().filter(|agent| is_late(&agent.state)).map(|agent| agent.name().clone()).collect()
}
