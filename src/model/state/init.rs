//! How a state begins: by what the daemon was told at its start, and by what it found on the host.

use super::{Measuring, Options, Recovered, State};
use crate::kernel::{Level, Process, Time};
use crate::model::agent::Agent;
use crate::model::event::{log, Action, Definition, Now};
use crate::model::record::{RunRecord, Wanted};
use crate::model::schedule::ExchangeSchedule;
use crate::model::spec::Name;
use crate::sorted_map::SortedMap;

impl State {
    /// The state of a host at the daemon's start, and what to do first.
    pub fn new(options: Options, mut found: Recovered, now: Now, out: &mut Vec<Action>) -> State {
        let step = found.settings.step.unwrap_or(options.step);
        let mut servers = (options.servers.clone(), found.given);
        if options.closed.is_some() {
            servers = (Vec::new(), Vec::new());
        }
        let mut pace = ExchangeSchedule::new(servers.0, servers.1, step, options.splay, options.seed, now.time);
        pace.set_keyed(options.keyed);
        let mut state = State {
            options,
            identity: found.identity,
            settings: found.settings,
            began: now.time,
            schedule: pace,
            agents: SortedMap::new(),
            leaving: Vec::new(),
            released: Vec::new(),
            awaited: false,
            tasks: Vec::new(),
            ledger: SortedMap::new(),
            next_seq: 1,
            waiters: Vec::new(),
            reporting: Vec::new(),
            measuring: Measuring::default(),
            poll_at: None,
            incidents: Vec::new(),
            dropped_incidents: 0,
            sent_incidents: 0,
            sent_drops: 0,
            sent_results: Vec::new(),
            last_server: "".into(),
            said_problems: Vec::new(),
            clock: None,
            shutdown: None,
            unrecordable: false,
            interrupted: found.leftovers && found.reexec.is_none(),
            reexec: None,
            brought_by: None,
            trial: None,
            undone: found.undone,
            unread: found.unread,
        };
        state.watch_clock(now, out);
        if !state.schedule.has_servers() && state.options.closed.is_none() {
            log(out, Level::Info, format_args!("no svrlist, so nothing is reported and no job taken"));
        }
        for (name, sentence) in found.damage {
            log(out, Level::Error, format_args!("{sentence}"));
            state.incident(name, &sentence, now);
        }
        let signed = state.options.signed;
        for record in found.agents {
            state.agents.insert(record.name.clone(), Agent::new(record, None, found.leftovers, signed));
        }
        for definition in best(found.definitions) {
            let name = definition.spec.name.clone();
            state.agent(&name, found.leftovers).define(Some(definition));
        }
        state.keep_unread(out);
        state.hold_jobs(&mut found.jobs);
        state.load_jobs(found.jobs, found.damaged_jobs, now, out);
        state.resume_agents(found.runs, found.unrecorded, found.marked, found.reexec.is_some(), now, out);
        if let Some(carried) = found.reexec {
            state.continue_after_reexec(carried, now, out);
        }
        state.follow(now, out);
        state
    }

    /// Takes over running agents, and starts those that should run and do not.
    fn resume_agents(
        &mut self,
        runs: Vec<(RunRecord, bool)>,
        strays: Vec<(Name, Option<(Process, Time)>)>,
        marked: Vec<Name>,
        after_reexec: bool,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        // What runs and has no definition any more is an agent all the same, until it has been stopped.
        let running = runs.iter().filter(|(_, alive)| *alive).map(|(run, _)| &run.name);
        for name in running.chain(strays.iter().map(|(name, _)| name)).chain(&marked) {
            self.agent(name, true);
        }
        for (run, alive) in runs {
            // Of an agent that went while no daemon lived: what it did is nothing to one of its name that comes later.
            if !self.agents.contains_key(&run.name) {
                if !self.unread.all {
                    out.push(Action::RemoveAgent(run.name));
                }
                continue;
            }
            let more = strays.iter().any(|(name, _)| *name == run.name);
            self.step_agent(&run.name.clone(), now, out, &mut |agent, context| {
                agent.resume(&run, alive, more, context);
                if after_reexec && alive {
                    // It never was without its daemon: no news for the server.
                    context.reported.clear();
                }
            });
        }
        for (name, main) in strays.into_iter().chain(marked.into_iter().map(|name| (name, None))) {
            // They may be as they should be, and known to a record.
            if main.is_none() && self.is_unread(&name) {
                continue;
            }
            self.step_agent(&name, now, out, &mut |agent, context| agent.found_running(main, context));
        }
        let names: Vec<Name> = self.agents.keys().cloned().collect();
        for name in names {
            if self.is_unread(&name) {
                continue;
            }
            self.renew_outdated(&name, now, out);
            self.step_agent(&name, now, out, &mut |agent, context| match agent.wanted() {
                Wanted::Up => agent.start_if_new(context),
                Wanted::Down => agent.request_stop(context),
            });
            if self.agents.get(&name).is_some_and(|agent| agent.definition.is_none()) {
                self.forget_undefined(&name, now, out);
            }
        }
    }
}

/// Of several definitions for one agent the one that counts: a file before a job's before the package's own.
pub(super) fn best(mut definitions: Vec<Definition>) -> Vec<Definition> {
    definitions.sort_unstable_by(|a, b| (&a.spec.name, a.origin).cmp(&(&b.spec.name, b.origin)));
    let mut best: Vec<Definition> = Vec::new();
    for definition in definitions {
        if best.last().is_none_or(|first| first.spec.name != definition.spec.name) {
            best.push(definition);
        }
    }
    best
}
