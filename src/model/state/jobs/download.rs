//! Downloads: one at a time, tried again, given up.

use std::time::Duration;

use super::open_job::Activity;
use super::run::{Run, StepResult};
use crate::kernel::{Decimal, Level, Time};
use crate::model::event::{log, Action, Fetched, Now};
use crate::model::job::Code;
use crate::model::package::Digest;
use crate::model::state::State;

/// How long a download keeps others waiting: it goes on after them, where it was.
const FETCH_TURN: Duration = Duration::from_secs(600);

/// Download attempts in a row that bring nothing before it is given up.
const FETCH_TRIES: u32 = 8;

/// The longest pause between two of them; the first is 1 s.
const FETCH_PAUSE: Duration = Duration::from_secs(60);

impl State {
    /// Begins the download at `index` if it is the next one.
    pub(super) fn follow_slot(&mut self, index: usize, now: Now, out: &mut Vec<Action>) {
        if self.is_leaving() || !self.is_next_to_fetch(index) {
            return;
        }
        let job = &mut self.tasks[index];
        (job.activity, job.context) = (Activity::Fetching, now.time);
        out.push(Action::Fetch(job.record.id.clone()));
    }

    /// Whether nothing is fetched, and nobody has waited for longer.
    fn is_next_to_fetch(&self, index: usize) -> bool {
        let context = self.tasks[index].context;
        self.tasks.iter().all(|job| match job.activity {
            Activity::Fetching => false,
            Activity::WaitingForSlot => job.context >= context,
            _ => true,
        })
    }

    /// The download that others wait for, and when it is their turn.
    pub(super) fn fetch_turn(&self) -> Option<(usize, Time)> {
        self.tasks.iter().find(|job| matches!(job.activity, Activity::WaitingForSlot))?;
        let index = self.tasks.iter().position(|job| matches!(job.activity, Activity::Fetching))?;
        Some((index, self.tasks[index].context + FETCH_TURN))
    }

    /// Cuts the download that has had its turn.
    pub(super) fn fetch_turn_due(&mut self, now: Now, out: &mut Vec<Action>) {
        if let Some((index, _)) = self.fetch_turn().filter(|(_, until)| *until <= now.time) {
            let job = &mut self.tasks[index];
            job.context = now.time;
            out.push(Action::StopFetch(job.record.id.clone()));
        }
    }
}

impl Run<'_> {
    /// A download attempt ended.
    pub fn fetched(&mut self, fetched: Fetched) -> StepResult {
        let Some(want) = self.job.source().map(|source| source.digest) else { return self.misfit() };
        match judged(fetched, want) {
            Fetched::Whole { digest, .. } if digest == want => StepResult::Done,
            Fetched::Whole { doubtful: true, .. } if !self.job.refetched => {
                let id = self.id();
                let text = format_args!("job \"{id}\": the download does not fit, once more from the start");
                log(self.out, Level::Warn, text);
                self.out.push(Action::RemoveDownload(id));
                self.job.refetched = true;
                self.wait_for(Activity::WaitingForSlot)
            }
            Fetched::Whole { digest, .. } => StepResult::End(
                Code::Checksum,
                format!("the package is not what was promised: want {want}, got {digest}"),
            ),
            Fetched::Refused { reason } => StepResult::End(Code::Download, format!("cannot download: {reason}")),
            Fetched::Cut { reason, progress, retry_after } => self.cut(reason, progress, retry_after),
        }
    }

    fn cut(&mut self, reason: Box<str>, progress: bool, retry_after: Option<u64>) -> StepResult {
        self.job.tries = if progress { 0 } else { self.job.tries + 1 };
        if self.job.tries >= FETCH_TRIES {
            return StepResult::End(Code::Download, format!("cannot download, tried {FETCH_TRIES} times: {reason}"));
        }
        let doubled = self.state.options.times.fetch * (1 << self.job.tries.saturating_sub(1));
        let mut pause = doubled.min(FETCH_PAUSE);
        if let Some(seconds) = retry_after {
            // Where exchanges are signed, what is not may ask for no more than we would wait of ourselves.
            let most = if self.state.options.keyed { FETCH_PAUSE } else { Duration::MAX };
            pause = pause.max(self.state.schedule.heeded(seconds).min(most));
        }
        let (id, wait) = (self.id(), Decimal::seconds(pause));
        let text = format_args!("job \"{id}\": download interrupted, tried again in {wait} s: {reason}");
        log(self.out, Level::Warn, text);
        self.wait_for(Activity::FetchAgain(self.now.time + pause, reason))
    }
}

/// What may have been cut short, and does not fit, was: the next attempt goes on behind it.
fn judged(fetched: Fetched, want: Digest) -> Fetched {
    match fetched {
        Fetched::Whole { digest, cut: true, .. } if digest != want => {
            let reason = "the connection ended, and what has come does not fit".into();
            Fetched::Cut { reason, progress: false, retry_after: None }
        }
        other => other,
    }
}
