//! Downloads: one at a time, tried again after pauses, and given up after several attempts without progress.
//!
//! A helper fetches; this file judges what it reports, and shares the one slot: a slow download makes way for others,
//! and continues after them where it was.

use std::time::Duration;

use super::open_job::Activity;
use super::run::{Run, StepResult};
use crate::kernel::{Decimal, Level, Time};
use crate::model::event::{Action, Fetched};
use crate::model::job::Code;
use crate::model::state::State;

/// How long a download may keep others waiting.
const FETCH_TURN: Duration = Duration::from_secs(600);

/// Download attempts in a row without progress after which the job fails.
const FETCH_TRIES: u32 = 8;

/// The longest pause between two attempts. The first is `Times::fetch`, and each is twice the one before.
const FETCH_PAUSE: Duration = Duration::from_secs(60);

impl State {
    /// How many attempts in a row at the download of this job have failed without progress.
    pub fn fetch_tries(&self, id: &str) -> u32 {
        self.jobs.index(id).map_or(0, |index| self.jobs.open[index].tries)
    }

    /// Begins the download at `index` if it is the next one.
    pub(super) fn follow_slot(&mut self, index: usize) {
        if self.is_leaving() || !self.is_next_to_fetch(index) {
            return;
        }
        let job = &mut self.jobs.open[index];
        (job.activity, job.last_fetch) = (Activity::Fetching, self.now.time);
        self.out.push(Action::Fetch(job.record.id.clone()));
    }

    /// Whether no download is at work, and no other has waited for longer.
    fn is_next_to_fetch(&self, index: usize) -> bool {
        let last = self.jobs.open[index].last_fetch;
        self.jobs.open.iter().all(|job| match job.activity {
            Activity::Fetching => false,
            Activity::WaitingForSlot => job.last_fetch >= last,
            _ => true,
        })
    }

    /// The download that others wait for, and when it must make way.
    pub(super) fn fetch_turn(&self) -> Option<(usize, Time)> {
        self.jobs.open.iter().find(|job| matches!(job.activity, Activity::WaitingForSlot))?;
        let index = self.jobs.open.iter().position(|job| matches!(job.activity, Activity::Fetching))?;
        Some((index, self.jobs.open[index].last_fetch + FETCH_TURN))
    }

    /// Cuts off the download that must make way.
    pub(super) fn fetch_turn_due(&mut self) {
        if let Some((index, _)) = self.fetch_turn().filter(|(_, until)| *until <= self.now.time) {
            let job = &mut self.jobs.open[index];
            job.last_fetch = self.now.time;
            self.out.push(Action::StopFetch(job.record.id.clone()));
        }
    }
}

impl Run<'_> {
    /// A download attempt ended.
    pub fn fetched(&mut self, fetched: Fetched) -> StepResult {
        let Some(want) = self.job.source().map(|source| source.digest) else { return self.misfit() };
        match fetched {
            Fetched::Whole { digest, .. } if digest == want => StepResult::Done,
            Fetched::Whole { doubtful: true, .. } if !self.job.refetched => {
                let text = format_args!("the digest of the download is wrong, fetched again from the start");
                self.log(Level::Warn, text);
                self.state.out.push(Action::RemoveDownload(self.id()));
                self.job.refetched = true;
                self.wait_for(Activity::WaitingForSlot)
            }
            Fetched::Whole { digest, .. } => StepResult::End(
                Code::Checksum,
                format!("the package is not what was promised: want {want}, got {digest}"),
            ),
            Fetched::Refused { reason } => {
                StepResult::End(Code::Download, format!("cannot download {}: {reason}", self.job.shown_url()))
            }
            Fetched::Cut { reason, progress, retry_after } => self.cut(reason, progress, retry_after),
        }
    }

    fn cut(&mut self, reason: Box<str>, progress: bool, retry_after: Option<u64>) -> StepResult {
        self.job.tries = if progress { 0 } else { self.job.tries + 1 };
        if self.job.tries >= FETCH_TRIES {
            let from = self.job.shown_url();
            return StepResult::End(
                Code::Download,
                format!("cannot download {from}, tried {FETCH_TRIES} times: {reason}"),
            );
        }
        let doubled = self.state.options.times.fetch * (1 << self.job.tries.saturating_sub(1));
        let mut pause = doubled.min(FETCH_PAUSE);
        if let Some(seconds) = retry_after {
            // Where exchanges are signed, an unsigned header may ask for no longer a pause than the daemon makes by itself.
            let most = if self.state.options.keyed { FETCH_PAUSE } else { Duration::MAX };
            pause = pause.max(self.state.exchanges.schedule.package_pause(seconds).min(most));
        }
        let (from, wait) = (self.job.shown_url(), Decimal::seconds(pause));
        self.log(Level::Warn, format_args!("download of {from} interrupted, tried again in {wait} s: {reason}"));
        self.wait_for(Activity::FetchAgain(self.state.now.time + pause, reason))
    }
}
