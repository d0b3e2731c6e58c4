//! How a state begins: with the options of the daemon, and with what its start recovered on the host.
//!
//! Agents that run are taken over, those that should run and do not are started, and open jobs continue where their
//! records say. What is read from the host comes in; this file reads nothing itself.

use super::exchange::Exchanges;
use super::incidents::Incidents;
use super::inventory::Inventory;
use super::jobs::JobQueue;
use super::recovered::best;
use super::reexec::Reexec;
use super::{Measuring, Options, Recovered, Rereading, State};
use crate::kernel::{Level, Process, Time};
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Now};
use crate::model::record::{RunRecord, Wanted};
use crate::model::schedule::ExchangeSchedule;
use crate::model::spec::Name;
use crate::sorted_map::SortedMap;

impl State {
    /// The state of a host at the daemon's start, and what to do first.
    pub fn new(options: Options, mut recovered: Recovered, now: Now, out: &mut Vec<Action>) -> State {
        let step = recovered.settings.step.unwrap_or(options.step);
        let (default, of_job) = match options.closed {
            Some(_) => (Vec::new(), Vec::new()),
            None => (options.servers.clone(), recovered.servers),
        };
        let mut schedule = ExchangeSchedule::new(default, of_job, step, options.splay, options.seed, now.time);
        schedule.set_keyed(options.keyed);
        let definitions = best(recovered.definitions);
        let mut state = State {
            now,
            out: std::mem::take(out),
            options,
            identity: recovered.identity,
            settings: recovered.settings,
            began: now.time,
            agents: SortedMap::with_capacity(recovered.agents.len().max(definitions.len())),
            leaving: Vec::new(),
            jobs: JobQueue::new(recovered.leftovers && recovered.reexec.is_none()),
            exchanges: Exchanges::new(schedule),
            incidents: Incidents::default(),
            inventory: Inventory::default(),
            waiters: Vec::new(),
            measuring: Measuring::default(),
            poll_at: None,
            clock: None,
            shutdown: None,
            reexec: Reexec::new(recovered.undone),
            rereading: Rereading::default(),
            reloads: Vec::new(),
            unread: recovered.unread,
        };
        state.watch_clock();
        if !state.exchanges.schedule.has_servers() && state.options.closed.is_none() {
            log(&mut state.out, Level::Info, format_args!("no svrlist, so nothing is reported and no job taken"));
        }
        for (name, sentence) in recovered.damage {
            state.log_and_report(Level::Error, name, &sentence);
        }
        let signed = state.options.signed;
        for record in recovered.agents {
            state.agents.insert(record.name.clone(), Agent::new(record, None, recovered.leftovers, signed));
        }
        for definition in definitions {
            let name = definition.spec.name.clone();
            state.agent(&name, recovered.leftovers).definition = Some(definition);
        }
        state.keep_unread();
        state.hold_jobs(&mut recovered.jobs);
        state.load_jobs(recovered.jobs, recovered.damaged_jobs);
        state.resume_agents(recovered.runs, recovered.unrecorded, recovered.marked, recovered.reexec.is_some());
        if let Some(before) = recovered.reexec {
            state.continue_after_reexec(before);
        }
        state.follow();
        std::mem::swap(&mut state.out, out);
        state
    }

    /// Takes over running agents, and starts those that should run and do not.
    fn resume_agents(
        &mut self,
        runs: Vec<(RunRecord, bool)>,
        unrecorded: Vec<(Name, Option<(Process, Time)>)>,
        marked: Vec<Name>,
        after_reexec: bool,
    ) {
        // What runs without a definition is an agent nevertheless, until it has been stopped.
        let running = runs.iter().filter(|(_, alive)| *alive).map(|(run, _)| &run.name);
        for name in running.chain(unrecorded.iter().map(|(name, _)| name)).chain(&marked) {
            self.agent(name, true);
        }
        for (run, alive) in runs {
            // The agent was removed while no daemon ran: its record says nothing about a later agent of the same name.
            if !self.agents.contains_key(&run.name) {
                if !self.unread.all {
                    self.out.push(Action::RemoveAgent(run.name));
                }
                continue;
            }
            let more = unrecorded.iter().any(|(name, _)| *name == run.name);
            self.step_agent(&run.name.clone(), &mut |agent, context| {
                agent.resume(&run, alive, more, context);
                if after_reexec && alive {
                    // Its daemon never ended, so that there is nothing to report.
                    context.reported.clear();
                    agent.was_heard();
                }
            });
        }
        for (name, main) in unrecorded.into_iter().chain(marked.into_iter().map(|name| (name, None))) {
            // A record that cannot be read may say that these processes are as they should be.
            if main.is_none() && self.is_unread(&name) {
                continue;
            }
            self.step_agent(&name, &mut |agent, context| agent.found_running(main, context));
        }
        let names: Vec<Name> = self.agents.keys().cloned().collect();
        for name in names {
            if self.is_unread(&name) {
                continue;
            }
            self.restart_outdated(&name);
            self.step_agent(&name, &mut |agent, context| match agent.wanted() {
                Wanted::Up => agent.start_if_new(context),
                Wanted::Down => agent.request_stop(context),
            });
            if self.agents.get(&name).is_some_and(|agent| agent.definition.is_none()) {
                self.forget_undefined(&name);
            }
        }
    }
}
