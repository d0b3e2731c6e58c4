//! What children do for a job: downloads and package tools, tried again, killed, waited for.

use std::time::Duration;

use super::task::{Doing, Purpose, Toolwork};
use crate::kernel::{Decimal, Exit, Level};
use crate::model::event::{log, Action, Fetched, Now};
use crate::model::job::{joined, sanitize, Code, Order, MESSAGE_MAX};
use crate::model::package::{is_locked, Digest, Tool, LOCK_WAIT};
use crate::model::record::Phase;
use crate::model::state::renewal::RENEWAL;
use crate::model::state::State;

/// Download attempts in a row that bring nothing before it is given up.
const FETCH_TRIES: u32 = 8;

/// The longest pause between two of them; the first is 1 s.
const FETCH_PAUSE: Duration = Duration::from_secs(60);

impl State {
    /// A download attempt ended.
    pub(in super::super) fn fetched(&mut self, id: &str, fetched: Fetched, now: Now, out: &mut Vec<Action>) {
        let Some(index) = self.index(id).filter(|index| matches!(self.tasks[*index].doing, Doing::Fetching)) else {
            return;
        };
        let task = &mut self.tasks[index];
        let Some(Order::Install(source) | Order::Upgrade(source)) = task.job.as_ref().map(|job| &job.order) else {
            return;
        };
        match judged(fetched, source.digest) {
            Fetched::Whole { digest, .. } if digest == source.digest => self.go(index, Phase::Verified, out),
            Fetched::Whole { doubtful: true, .. } if !task.refetched => {
                task.refetched = true;
                task.doing = Doing::WaitingForSlot;
                out.push(Action::DropDownload(id.into()));
                log(
                    out,
                    Level::Warn,
                    format_args!("job \"{id}\": the download does not fit, once more from the start"),
                );
            }
            Fetched::Whole { digest, .. } => {
                let text = format!("the package is not what was promised: want {}, got {digest}", source.digest);
                self.finish(index, Code::Checksum, format_args!("{text}"), out);
            }
            Fetched::Refused { reason } => {
                self.finish(index, Code::Download, format_args!("cannot download: {reason}"), out);
            }
            Fetched::Cut { reason, progress, retry_after } => {
                task.tries = if progress { 0 } else { task.tries + 1 };
                if task.tries >= FETCH_TRIES {
                    return self.finish(
                        index,
                        Code::Download,
                        format_args!("cannot download, tried {FETCH_TRIES} times: {reason}"),
                        out,
                    );
                }
                let mut pause = (self.options.times.fetch * (1 << task.tries.saturating_sub(1))).min(FETCH_PAUSE);
                if let Some(seconds) = retry_after {
                    pause = pause.max(self.pace.heeded(seconds));
                }
                let text = format!(
                    "job \"{id}\": download interrupted, tried again in {} s: {reason}",
                    Decimal::seconds(pause)
                );
                task.doing = Doing::FetchAgain(now.time + pause, reason);
                out.push(Action::Log(Level::Warn, text));
            }
        }
    }

    /// Runs package tools one after the other; `tools_done` goes on when the last one has ended well.
    pub(super) fn run_tools(
        &mut self,
        index: usize,
        purpose: Purpose,
        tools: Vec<Tool>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let task = &mut self.tasks[index];
        let Some(first) = tools.first().cloned() else { return };
        task.doing = Doing::Tool(Box::new(Toolwork {
            purpose,
            tools: tools.into(),
            deadline: now.time + first.timeout.min(self.options.times.tool),
            late: false,
            again: None,
            lock_until: now.time + LOCK_WAIT,
        }));
        out.push(Action::Tool(task.record.id.clone(), first));
    }

    /// A package tool ended.
    pub(in super::super) fn tool_done(&mut self, id: &str, exit: Exit, output: &str, now: Now, out: &mut Vec<Action>) {
        if id == RENEWAL {
            return self.renewal_tried(exit, output, now, out);
        }
        let Some(index) = self.index(id) else { return };
        let Doing::Tool(work) = &mut self.tasks[index].doing else { return };
        let program =
            work.tools.front().map(|tool| joined(&mut tool.argv.iter().map(|word| &**word), " ")).unwrap_or_default();
        let program = sanitize(&program, 100);
        let locked = exit != Exit::Code(0) && is_locked(output) && now.time < work.lock_until;
        // What comes before the last one only prepares.
        if exit == Exit::Code(0) || (work.tools.len() > 1 && !locked) {
            if exit != Exit::Code(0) {
                log(out, Level::Warn, format_args!("job \"{id}\": {program}: {exit}, going on without"));
            }
            work.late = false;
            work.tools.pop_front();
            if let Some(next) = work.tools.front().cloned() {
                work.deadline = now.time + next.timeout.min(self.options.times.tool);
                out.push(Action::Tool(id.into(), next));
                return;
            }
            let purpose = work.purpose;
            return self.tools_done(index, purpose, Ok(output), now, out);
        }
        if locked {
            work.again = Some(now.time + self.options.times.lock);
            log(out, Level::Info, format_args!("job \"{id}\": {program} waits for a lock"));
            return;
        }
        let (purpose, late) = (work.purpose, work.late);
        if late || matches!(exit, Exit::Signal(_)) {
            self.interrupted = true;
        }
        let how = if late { "took too long and was killed".to_string() } else { exit.to_string() };
        let text = sanitize(&format!("{program}: {how}: {output}"), MESSAGE_MAX);
        self.tools_done(index, purpose, Err(text.into()), now, out);
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
