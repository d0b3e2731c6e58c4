//! What the servers are to hear beside the state of agents: one sentence for each incident.
//!
//! Incidents wait here until a server has taken a report with them. There is room for so many; beyond that the oldest
//! are dropped, and the next report says how many.

use super::State;
use crate::kernel::Level;
use crate::model::event::{log, Now};
use crate::model::report::Incident;
use crate::model::spec::Name;
use crate::text::count;
use crate::text::{sanitize, MESSAGE_MAX};

/// Incidents kept for the next report; older ones are dropped and counted.
pub(super) const INCIDENTS: usize = 128;

/// The incidents that no server has taken yet, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Incidents {
    list: Vec<Incident>,
    dropped: u64,
    /// How many of `list` are in the report that is under way.
    sent: usize,
    /// How many of `dropped` that report speaks of.
    sent_dropped: u64,
}

impl Incidents {
    /// All that are kept.
    pub fn list(&self) -> &[Incident] {
        &self.list
    }

    /// How many were dropped before them.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Keeps one more.
    pub fn add(&mut self, incident: Incident) {
        if self.list.len() >= INCIDENTS {
            self.list.remove(0);
            self.dropped += 1;
            self.sent = self.sent.saturating_sub(1);
        }
        self.list.push(incident);
    }

    /// The list for a report that is about to be sent; what is taken later refers to this one.
    pub fn send(&mut self, now: Now) -> Vec<Incident> {
        (self.sent, self.sent_dropped) = (self.list.len(), self.dropped);
        let mut list = self.list.clone();
        if self.dropped > 0 {
            let message = format!("{} dropped", count(self.dropped, "earlier event")).into();
            let timestamp = list.first().map_or(now.wall, |first| first.timestamp);
            list.insert(0, Incident { timestamp, name: "bootagent".into(), message });
        }
        list
    }

    /// A server has taken the report that is under way.
    pub fn taken(&mut self) {
        self.list.drain(..self.sent.min(self.list.len()));
        self.dropped -= self.sent_dropped.min(self.dropped);
        self.sent = 0;
    }

    /// Takes over what an earlier daemon kept: it happened before what this one has.
    pub fn prepend(&mut self, earlier: Vec<Incident>, dropped: u64) {
        let later = std::mem::replace(&mut self.list, earlier);
        self.list.extend(later);
        self.dropped = dropped;
    }
}

impl State {
    /// Logs a sentence, and keeps it for the next report.
    pub(super) fn log_and_report(&mut self, level: Level, name: Name, text: &str) {
        log(&mut self.out, level, format_args!("{text}"));
        self.incident(name, text);
    }

    /// Keeps a sentence for the next report.
    pub(super) fn incident(&mut self, name: Name, message: &str) {
        let message = sanitize(message, MESSAGE_MAX).into();
        self.incidents.add(Incident { timestamp: self.now.wall, name, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Time;

    fn number(number: usize) -> Incident {
        Incident { timestamp: 1, name: "web".into(), message: number.to_string().into() }
    }

    #[test]
    fn what_comes_while_a_report_is_under_way_is_not_taken_with_it() {
        let now = Now { time: Time::default(), wall: 1 };
        let mut incidents = Incidents::default();
        (0..INCIDENTS).for_each(|n| incidents.add(number(n)));
        assert_eq!(incidents.send(now).len(), INCIDENTS);
        // Two of those that are sent make room for two new ones.
        (0..2).for_each(|n| incidents.add(number(1000 + n)));
        incidents.taken();
        let kept: Vec<&str> = incidents.list().iter().map(|incident| &*incident.message).collect();
        assert_eq!((kept, incidents.dropped()), (vec!["1000", "1001"], 2));
        let report = incidents.send(now);
        assert_eq!(&*report[0].message, "2 earlier events dropped");
        incidents.taken();
        assert!(incidents.list().is_empty() && incidents.dropped() == 0);
    }
}
