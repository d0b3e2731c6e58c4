//! One job on one host: a state machine. `step(event, now)` is the only place where an execution changes.
//!
//! ```text
//! waiting --offer--> offered --seen in `open`--> received
//! offered | received --result 0--> done --version seen--> verified, --not within 3 x step--> mismatch
//!   --4--> retried (a new attempt follows), the third time failed    --5,6,7,8--> failed    --1,2,10--> refused
//!   --3--> drift    --9--> expired (offered again in the next maintenance window, where one closed)    --silent past the deadline, missing from `open` in 3 reports--> lost
//!   --24 h without a result from a host that reports--> stuck    --cancel--> withdrawn
//! ```
//! A late result puts `lost` and `stuck` right; it is only recorded where the execution was withdrawn. The first result
//! wins.

/// Where an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Offered,
    Received,
    Done,
    Verified,
    Mismatch,
    Retried,
    Failed,
    Refused,
    Drift,
    Expired,
    Lost,
    Stuck,
    Withdrawn,
}

const WORDS: [(State, &str); 14] = [
    (State::Waiting, "waiting"),
    (State::Offered, "offered"),
    (State::Received, "received"),
    (State::Done, "done"),
    (State::Verified, "verified"),
    (State::Mismatch, "mismatch"),
    (State::Retried, "retried"),
    (State::Failed, "failed"),
    (State::Refused, "refused"),
    (State::Drift, "drift"),
    (State::Expired, "expired"),
    (State::Lost, "lost"),
    (State::Stuck, "stuck"),
    (State::Withdrawn, "withdrawn"),
];

impl State {
    /// The word for it in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(state, _)| *state == self).map_or("waiting", |(_, word)| word)
    }

    /// The state of a word.
    pub fn parse(word: &str) -> Option<State> {
        WORDS.iter().find(|(_, known)| *known == word).map(|(state, _)| *state)
    }

    /// Whether something can come of it yet that a cancel keeps from happening: that it is offered, or tried once more.
    pub fn can_be_cancelled(self) -> bool {
        self.is_open() || matches!(self, State::Lost | State::Stuck)
    }

    /// Whether the host may still be given it.
    pub fn is_open(self) -> bool {
        matches!(self, State::Waiting | State::Offered | State::Received)
    }
}

/// One job on one host, one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Where it is.
    pub state: State,
    /// 1 for the first.
    pub attempt: i64,
    /// Not offered before then.
    pub not_before: i64,
    /// When it was first offered.
    pub offered: Option<i64>,
    /// When the host first said that it has it.
    pub received: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// What happens when it is over is in `reason`.
    pub deadline: Option<i64>,
    /// The host's result.
    pub errcode: Option<i64>,
    /// The host's sentence.
    pub message: String,
    /// Why it is where it is.
    pub reason: String,
    /// Reports in a row that did not have its id in `open`.
    pub missing: i64,
    /// The version that must be seen afterwards.
    pub version: Option<String>,
    /// The window and startsecs of the job, in seconds.
    pub slack: i64,
    /// The host's interval between reports.
    pub step: i64,
    /// Whether it waits for the maintenance window of the host's group.
    pub windowed: bool,
    /// When the window closes, or has closed, in which it was last offered.
    pub closes: Option<i64>,
}

/// What happens to an execution.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its job is in the reply that goes out.
    Offer {
        /// When the maintenance window closes.
        until: Option<i64>,
    },
    /// It would be offered, and the maintenance window is shut.
    Shut {
        /// When it opens, for people.
        text: String,
    },
    /// The host reported. `open`: whether the id was among its open jobs, `None` where it says none;
    /// `version`: that of the agent it reports.
    Report {
        /// Whether the host has the job open.
        open: Option<bool>,
        /// The agent's version there.
        version: Option<String>,
    },
    /// Its result.
    Result {
        /// As on the wire.
        errcode: i64,
        /// As on the wire.
        message: String,
    },
    /// Somebody cancelled the job.
    Cancel,
    /// Time passed; `silent`: the host has not reported for three steps.
    Tick {
        /// Whether the host is late.
        silent: bool,
    },
}

/// What else has to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the next attempt, under a new id, not to be offered before then.
    Retry {
        /// Seconds since the epoch.
        not_before: i64,
    },
    /// The window closed before the host began it: make it anew, under a new id, for the next one. It is no attempt.
    Again,
    /// Keep an event.
    Note(String),
}

/// Attempts at most where a download fails.
const ATTEMPTS: i64 = 3;
const DAY: i64 = 86_400;
const QUARTER: i64 = 900;
/// Reports without the id in `open` after which it counts as lost.
const MISSING_MAX: i64 = 3;

impl Execution {
    /// A first attempt, not offered yet.
    pub fn new(version: Option<String>, slack: i64, step: i64) -> Execution {
        Execution {
            state: State::Waiting,
            attempt: 1,
            not_before: 0,
            offered: None,
            received: None,
            ended: None,
            deadline: None,
            errcode: None,
            message: String::new(),
            reason: "waits for the host's next report".to_string(),
            missing: 0,
            version,
            slack,
            step,
            windowed: true,
            closes: None,
        }
    }

    /// Changes the execution as `event` asks for.
    pub fn step(&mut self, event: Event, now: i64) -> Option<Effect> {
        match event {
            Event::Offer { until } => self.offer(until, now),
            Event::Shut { text } => self.wait_for_window(text),
            Event::Report { open, version } => self.report(open, version.as_deref(), now),
            Event::Result { errcode, message } => return self.result(errcode, message, now),
            Event::Cancel => self.cancel(now),
            Event::Tick { silent } => self.tick(silent, now),
        }
        None
    }

    fn offer(&mut self, until: Option<i64>, now: i64) {
        if matches!(self.state, State::Waiting | State::Offered) {
            self.closes = until;
        }
        if self.state == State::Waiting {
            self.state = State::Offered;
            self.offered = Some(now);
            self.deadline = Some(now + (3 * self.step).max(self.slack + QUARTER));
            self.reason = "offered; the host has not answered yet".to_string();
        }
    }

    fn wait_for_window(&mut self, text: String) {
        if self.state == State::Waiting {
            self.reason = text;
        }
    }

    fn report(&mut self, open: Option<bool>, version: Option<&str>, now: i64) {
        match (self.state, open) {
            (State::Offered | State::Received, Some(true)) => {
                self.missing = 0;
                if self.state == State::Offered {
                    self.state = State::Received;
                    self.received = Some(now);
                    self.reason = "the host has it and works on it".to_string();
                }
                self.judge_stuck(now);
            }
            (State::Offered | State::Received, Some(false)) => {
                self.missing += 1;
                if self.missing >= MISSING_MAX {
                    self.end(State::Lost, "the host does not know the job: not in three of its reports", now);
                }
            }
            (State::Offered | State::Received, None) => self.judge_stuck(now),
            (State::Done, _) if self.version.is_some() && self.version.as_deref() == version => {
                self.state = State::Verified;
                self.deadline = None;
                self.reason = "the host reports the version".to_string();
            }
            (State::Done, _) => self.judge_mismatch(version, now),
            _ => (),
        }
    }

    fn judge_stuck(&mut self, now: i64) {
        let since = self.received.or(self.offered).unwrap_or(now);
        if now - since >= DAY {
            self.end(State::Stuck, "the host has had it for 24 h without a result", now);
        }
    }

    fn judge_mismatch(&mut self, version: Option<&str>, now: i64) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let wanted = self.version.clone().unwrap_or_default();
            let found = match version {
                Some(version) => format!("it reports \"{version}\""),
                None => "it has not reported it".to_string(),
            };
            self.state = State::Mismatch;
            self.deadline = None;
            self.reason = format!("the host said success, and version \"{wanted}\" was not seen since: {found}");
        }
    }

    fn result(&mut self, errcode: i64, message: String, now: i64) -> Option<Effect> {
        if let Some(first) = self.errcode {
            let same = first == errcode && self.message == message;
            let note = || Effect::Note(format!("a second, different result: {errcode} {message}"));
            return (!same).then(note);
        }
        self.errcode = Some(errcode);
        self.message = message;
        if self.state == State::Withdrawn {
            self.reason = "withdrawn; its result came all the same".to_string();
            return None;
        }
        match errcode {
            0 if self.version.is_some() => {
                self.end(State::Done, "done; waits for a report with the version", now);
                self.deadline = Some(now + 3 * self.step);
            }
            0 => self.end(State::Verified, "done", now),
            4 if self.attempt < ATTEMPTS => {
                let wait = self.step * 4_i64.pow(u32::try_from(self.attempt - 1).unwrap_or(0));
                self.end(State::Retried, "cannot download; another attempt follows", now);
                return Some(Effect::Retry { not_before: now + wait });
            }
            4 => self.end(State::Failed, "cannot download, in three attempts", now),
            1 | 2 | 10 => self.end(State::Refused, "the host refused it", now),
            3 => self.end(State::Drift, "there is no such agent on the host any more", now),
            9 if self.closes.is_some_and(|closes| now >= closes) => {
                let reason =
                    "its maintenance window closed before the host began it; it is offered again in the next one";
                self.end(State::Expired, reason, now);
                return Some(Effect::Again);
            }
            9 => self.end(State::Expired, "expired or cancelled on the host", now),
            _ => self.end(State::Failed, "it did not work on the host", now),
        }
        None
    }

    fn cancel(&mut self, now: i64) {
        match self.state {
            State::Waiting => self.end(State::Withdrawn, "cancelled before it was offered", now),
            State::Offered | State::Received => {
                self.end(State::Withdrawn, "cancelled; the host may have begun it", now);
            }
            _ => (),
        }
    }

    fn tick(&mut self, silent: bool, now: i64) {
        let over = self.deadline.is_some_and(|deadline| now >= deadline);
        match self.state {
            State::Offered | State::Received if over && silent => {
                self.end(State::Lost, "no result, and the host is silent", now);
            }
            State::Done if over => self.judge_mismatch(None, now),
            _ => (),
        }
    }

    fn end(&mut self, state: State, reason: &str, now: i64) {
        self.state = state;
        self.ended = Some(now);
        self.deadline = None;
        self.reason = reason.to_string();
    }
}

#[cfg(test)]
#[path = "execution_tests.rs"]
mod tests;
