//! Servers of the host in memory: what they answer, as well as they can at the time, and the jobs that they offer.

use super::*;

impl Host<'_> {
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
}
