//! What a report does to the jobs of its host: which ones go into the reply, which ones are cancelled, and how each
//! execution goes on. This is the only place where that is decided.

use super::execution::{Event, Execution, State};
use super::window::Gate;

/// One execution that is not over, as the report meets it.
pub struct Live<'a> {
    /// The job's id on this host.
    pub id: &'a str,
    /// The agent that is acted on.
    pub agent: &'a str,
    /// How far it is.
    pub execution: &'a mut Execution,
}

/// What a report says about jobs.
pub struct Seen<'a> {
    /// The ids that the host has open; `None`: it does not say, and does not understand `cancel`.
    pub open: Option<&'a [String]>,
    /// The version that it reports of an agent.
    pub version: &'a dyn Fn(&str) -> Option<String>,
    /// Seconds between its reports.
    pub step: i64,
}

/// What goes into the reply for an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// The job. `until`: when the maintenance window closes in which it is offered.
    Offer {
        /// Seconds since the epoch.
        until: Option<i64>,
    },
    /// Its id, to be cancelled.
    Cancel,
    /// Nothing, and the host need not be told of its end any more.
    Settle,
}

/// Jobs in one reply at most; the agent holds 256 open.
const OFFERS_MAX: usize = 64;

/// Takes a report to the live executions of its host, oldest first, and tells what to say of each. `accepted`: whether the
/// host may have jobs at all; `gate`: the maintenance window of its group.
pub fn exchange(live: &mut [Live], seen: &Seen, accepted: bool, gate: &Gate, now: i64) -> Vec<Said> {
    let mut offers = 0;
    let mut said = Vec::with_capacity(live.len());
    for one in live {
        let open = seen.open.map(|ids| ids.iter().any(|id| id == one.id));
        let may_offer = accepted && offers < OFFERS_MAX;
        let answer = match one.execution.state {
            State::Withdrawn => tell_the_end(one.execution, open, seen.step, now),
            _ => go_on(one, open, seen, may_offer, gate, now),
        };
        offers += usize::from(matches!(answer, Said::Offer { .. }));
        said.push(answer);
    }
    said
}

/// A withdrawn one is cancelled while the host has it open. When the host had a report to show it in and did not, or cannot
/// understand `cancel`, there is nothing more to tell; a result that comes is recorded all the same.
fn tell_the_end(execution: &Execution, open: Option<bool>, step: i64, now: i64) -> Said {
    match open {
        Some(true) => Said::Cancel,
        Some(false) if execution.ended.is_some_and(|ended| now <= ended + 3 * step) => Said::Nothing,
        Some(false) | None => Said::Settle,
    }
}

fn go_on(one: &mut Live, open: Option<bool>, seen: &Seen, may_offer: bool, gate: &Gate, now: i64) -> Said {
    let version = (seen.version)(one.agent);
    one.execution.step(Event::Report { open, version }, now);
    let due = one.execution.state.is_open() && now >= one.execution.not_before;
    if !due || !may_offer {
        return Said::Nothing;
    }
    let until = match gate {
        _ if !one.execution.windowed => None,
        Gate::Always => None,
        Gate::Open { until } => Some(*until),
        Gate::Shut { text, .. } => {
            one.execution.step(Event::Shut { text: text.clone() }, now);
            return Said::Nothing;
        }
    };
    one.execution.step(Event::Offer { until }, now);
    match open {
        // One that the host says it has need not be said again.
        Some(true) => Said::Nothing,
        Some(false) | None => Said::Offer { until },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 100_000;
    const STEP: i64 = 600;

    fn new() -> Execution {
        Execution::new(None, 0, STEP)
    }

    fn offered() -> Execution {
        let mut execution = new();
        execution.step(Event::Offer { until: None }, NOW - STEP);
        execution
    }

    fn withdrawn(ago: i64) -> Execution {
        let mut execution = offered();
        execution.step(Event::Cancel, NOW - ago);
        execution
    }

    fn shut() -> Gate {
        Gate::Shut { opens: NOW + 3600, text: "waits for the window".to_string() }
    }

    /// What one report does to one execution: what is said, and its state afterwards.
    fn meet(mut execution: Execution, open: Option<bool>, accepted: bool, gate: &Gate) -> (Said, State) {
        let ids = open.map(|has| if has { vec!["x".to_string()] } else { Vec::new() });
        let seen = Seen { open: ids.as_deref(), version: &|_| None, step: STEP };
        let mut live = [Live { id: "x", agent: "web", execution: &mut execution }];
        let said = exchange(&mut live, &seen, accepted, gate, NOW);
        (said[0], execution.state)
    }

    #[test]
    fn what_is_said_of_an_execution() {
        let offer = Said::Offer { until: None };
        let later = Execution { not_before: NOW + 1, ..new() };
        let unbound = Execution { windowed: false, ..new() };
        let until = Some(NOW + 900);
        let open_until = Gate::Open { until: NOW + 900 };
        for (case, execution, open, accepted, gate, wanted) in [
            ("a new one", new(), Some(false), true, Gate::Always, (offer, State::Offered)),
            ("a new one, to a basic agent", new(), None, true, Gate::Always, (offer, State::Offered)),
            (
                "a host that waits for a decision",
                new(),
                Some(false),
                false,
                Gate::Always,
                (Said::Nothing, State::Waiting),
            ),
            ("not yet", later, Some(false), true, Gate::Always, (Said::Nothing, State::Waiting)),
            ("offered, not there", offered(), Some(false), true, Gate::Always, (offer, State::Offered)),
            ("offered, nothing said", offered(), None, true, Gate::Always, (offer, State::Offered)),
            ("offered, there", offered(), Some(true), true, Gate::Always, (Said::Nothing, State::Received)),
            ("the window is shut", new(), Some(false), true, shut(), (Said::Nothing, State::Waiting)),
            ("the window is open", new(), Some(false), true, open_until, (Said::Offer { until }, State::Offered)),
            ("bound to no window", unbound, Some(false), true, shut(), (offer, State::Offered)),
            ("withdrawn, there", withdrawn(10), Some(true), true, Gate::Always, (Said::Cancel, State::Withdrawn)),
            ("withdrawn, in conflict", withdrawn(10), Some(true), false, shut(), (Said::Cancel, State::Withdrawn)),
            ("withdrawn just now", withdrawn(10), Some(false), true, Gate::Always, (Said::Nothing, State::Withdrawn)),
            (
                "withdrawn long ago",
                withdrawn(3 * STEP + 1),
                Some(false),
                true,
                Gate::Always,
                (Said::Settle, State::Withdrawn),
            ),
            ("withdrawn, no cancel there", withdrawn(10), None, true, Gate::Always, (Said::Settle, State::Withdrawn)),
        ] {
            assert_eq!(meet(execution, open, accepted, &gate), wanted, "{case}");
        }
    }

    #[test]
    fn what_a_host_lost_is_offered_twice_more_and_no_more() {
        let mut execution = offered();
        let mut said = Vec::new();
        for report in 0..4 {
            let ids = [];
            let seen = Seen { open: Some(&ids), version: &|_| None, step: STEP };
            let mut live = [Live { id: "x", agent: "web", execution: &mut execution }];
            said.push(exchange(&mut live, &seen, true, &Gate::Always, NOW + report)[0]);
        }
        let offer = Said::Offer { until: None };
        assert_eq!(said, [offer, offer, Said::Nothing, Said::Nothing]);
        assert_eq!(execution.state, State::Lost);
    }

    #[test]
    fn a_reply_has_64_jobs_at_most() {
        let mut all: Vec<Execution> = (0..100).map(|_| new()).collect();
        let mut live: Vec<Live> = all.iter_mut().map(|execution| Live { id: "x", agent: "web", execution }).collect();
        let seen = Seen { open: None, version: &|_| None, step: STEP };
        let said = exchange(&mut live, &seen, true, &Gate::Always, NOW);
        assert_eq!(said.iter().filter(|said| **said != Said::Nothing).count(), OFFERS_MAX);
        assert_eq!(said[OFFERS_MAX], Said::Nothing, "the oldest go first");
        assert_eq!(all[OFFERS_MAX].state, State::Waiting);
    }

    #[test]
    fn the_version_is_that_of_the_jobs_agent() {
        let mut execution = Execution::new(Some("2".into()), 0, STEP);
        execution.step(Event::Offer { until: None }, NOW - 10);
        execution.step(Event::Result { errcode: 0, message: String::new() }, NOW - 5);
        let versions = |agent: &str| Some(if agent == "web" { "2" } else { "1" }.to_string());
        let seen = Seen { open: None, version: &versions, step: STEP };
        let mut live = [Live { id: "x", agent: "web", execution: &mut execution }];
        assert_eq!(exchange(&mut live, &seen, true, &Gate::Always, NOW), [Said::Nothing]);
        assert_eq!(execution.state, State::Verified);
    }
}
