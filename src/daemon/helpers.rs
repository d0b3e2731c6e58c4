//! The helpers that run: child processes that do what would block the daemon, such as an exchange or a download.
//!
//! A task comes in with a request; when its helper has ended, a `Finished` goes out that holds the result of exactly that
//! task. This file chooses the user a helper runs as, feeds and watches its pipes, and stops it when it is late. It does not
//! judge a result: that is for `act`.

use std::fs::File;
use std::path::PathBuf;

use super::identity::{HelperUsers, Runner};
use super::{Daemon, Owner};
use crate::error::Error;
use crate::host::disk::reason;
use crate::host::helper::{Binary, Helper};
use crate::kernel::{Exit, Pid, Process, Time, Uid};
use crate::model::job::JobId;
use crate::model::spec::Name;
use crate::sorted_map::SortedSet;
use crate::sys::monotonic;
use crate::sys::poll::PollFd;
use crate::sys::setup_error::{SetupError, SetupErrorPipe};
use crate::work::{FailureKind, HelperRequest, HelperResponse};

/// What a helper was started for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HelperTask {
    /// An exchange; whether it carries results, and the nonce it was signed with.
    Exchange { results: bool, nonce: Option<Box<str>> },
    /// A job's download.
    Fetch(JobId),
    /// The verification of a job's package.
    Verify(JobId),
    /// A job's unpacking, into this directory.
    Unpack(JobId, PathBuf),
    /// Reading what other processes can block.
    Inspect(Inspection),
    /// The rotation of an agent's output.
    Rotate(Name),
}

/// What an inspection is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Inspection {
    /// The environments of these orphans.
    Environments(Vec<Process>),
    /// The memory of the trees of the measurement that is under way.
    Memory(Vec<Process>),
}

/// Why a task was not done.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: FailureKind,
    pub reason: Box<str>,
    /// Bytes by which a download grew.
    pub progressed: u64,
    /// When the server wants to be asked again, s.
    pub retry_after: Option<u64>,
}

/// A server's reply.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub signature: Option<String>,
    pub body: Vec<u8>,
}

/// A complete download.
#[derive(Debug)]
pub(super) struct Downloaded {
    /// SHA-256.
    pub digest: [u8; 32],
    /// Whether its source said how long it is.
    pub counted: bool,
    /// Whether it began with bytes of an earlier attempt.
    pub resumed: bool,
}

/// A task whose helper has ended, with the result of that task.
#[derive(Debug)]
pub(super) enum Finished {
    Exchange {
        results: bool,
        nonce: Option<Box<str>>,
        /// The address that was reached, as a number, where the helper has said it.
        address: Option<u64>,
        result: Result<Exchanged, Failure>,
    },
    Fetch(JobId, Result<Downloaded, Failure>),
    /// With the SHA-256 of the package.
    Verify(JobId, Result<[u8; 32], Failure>),
    /// With the single top directory of the archive, empty when there is none.
    Unpack(JobId, PathBuf, Result<String, Failure>),
    /// With the answers there are.
    Inspect(Inspection, Vec<String>),
    /// With what failed.
    Rotate(Name, Result<(), Failure>),
}

impl Finished {
    /// The result of `task` from what its helper has sent.
    fn new(task: HelperTask, response: HelperResponse, resumed: bool) -> Finished {
        match (task, response) {
            (
                HelperTask::Exchange { results, nonce },
                HelperResponse::Exchanged { status, retry_after, signature, body },
            ) => {
                let result = Ok(Exchanged { status, retry_after, signature, body });
                Finished::Exchange { results, nonce, address: None, result }
            }
            (HelperTask::Fetch(job), HelperResponse::Fetched { digest, counted, .. }) => {
                Finished::Fetch(job, Ok(Downloaded { digest, counted, resumed }))
            }
            (HelperTask::Verify(job), HelperResponse::Verified { digest }) => Finished::Verify(job, Ok(digest)),
            (HelperTask::Unpack(job, dir), HelperResponse::Unpacked { top, .. }) => Finished::Unpack(job, dir, Ok(top)),
            (HelperTask::Inspect(inspection), HelperResponse::Inspected(answers)) => {
                Finished::Inspect(inspection, answers)
            }
            (HelperTask::Rotate(name), HelperResponse::Rotated) => Finished::Rotate(name, Ok(())),
            (task, HelperResponse::Failed { kind, reason, progressed, retry_after }) => {
                Finished::failed(task, Failure { kind, reason: reason.into(), progressed, retry_after })
            }
            (task, _) => {
                let reason = "the helper's result is not that of its task".into();
                Finished::failed(task, Failure { kind: FailureKind::Final, reason, progressed: 0, retry_after: None })
            }
        }
    }

    fn failed(task: HelperTask, failure: Failure) -> Finished {
        match task {
            HelperTask::Exchange { results, nonce } => {
                Finished::Exchange { results, nonce, address: None, result: Err(failure) }
            }
            HelperTask::Fetch(job) => Finished::Fetch(job, Err(failure)),
            HelperTask::Verify(job) => Finished::Verify(job, Err(failure)),
            HelperTask::Unpack(job, dir) => Finished::Unpack(job, dir, Err(failure)),
            HelperTask::Inspect(inspection) => Finished::Inspect(inspection, Vec::new()),
            HelperTask::Rotate(name) => Finished::Rotate(name, Err(failure)),
        }
    }
}

/// The running helpers, and what every new one needs.
pub(super) struct Helpers {
    running: Vec<(HelperTask, Helper)>,
    binary: Binary,
    users: HelperUsers,
    /// Downloads that began with bytes of an earlier attempt.
    resumed: SortedSet<JobId>,
    /// Helpers that were killed, whose results are taken, and that have not ended: they may wait in the kernel for ever.
    stuck: Vec<Pid>,
}

/// With so many of them, nothing more is inspected.
const STUCK_MAX: usize = 4;

impl Helpers {
    /// None yet; they will execute `binary` as one of `users`.
    pub fn new(binary: Binary, users: HelperUsers) -> Helpers {
        Helpers { running: Vec::new(), binary, users, resumed: SortedSet::new(), stuck: Vec::new() }
    }

    /// The binary of this process.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// The users helpers run as.
    pub fn users(&self) -> &HelperUsers {
        &self.users
    }

    /// The same, to be changed.
    pub fn users_mut(&mut self) -> &mut HelperUsers {
        &mut self.users
    }

    /// Notes that a download begins with bytes of an earlier attempt.
    pub fn note_resumed(&mut self, job: JobId) {
        self.resumed.insert(job);
    }

    /// When `end_late` is to be called, if nothing else happens.
    pub fn deadline(&self) -> Option<Time> {
        self.running.iter().filter_map(|(_, helper)| helper.deadline()).min()
    }

    /// What to poll, each with the index of its helper.
    pub fn poll_fds(&self) -> impl Iterator<Item = (usize, PollFd<'_>)> {
        let helpers = self.running.iter().enumerate();
        helpers.flat_map(|(index, (_, helper))| helper.fds().into_iter().flatten().map(move |fd| (index, fd)))
    }

    /// Reads from a helper, or writes to it; the index is one of `poll_fds`.
    pub fn serve(&mut self, index: usize) {
        if let Some((_, helper)) = self.running.get_mut(index) {
            helper.ready();
        }
    }

    /// Notes that the process of a helper was reaped; true if nothing more is to come of it.
    pub fn exited(&mut self, pid: Pid, exit: Exit, failure: Option<SetupError>) -> bool {
        if let Some((_, helper)) = self.running.iter_mut().find(|(_, helper)| helper.pid() == pid) {
            helper.exited(exit, failure);
        }
        let stuck = self.stuck.len();
        self.stuck.retain(|known| *known != pid);
        self.stuck.len() < stuck
    }

    /// Bytes that a job's download has fetched, and how many there will be, where that is known.
    pub fn download_progress(&self, job: &JobId) -> Option<(u64, Option<u64>)> {
        let is_download = |task: &HelperTask| matches!(task, HelperTask::Fetch(fetched) if fetched == job);
        let (_, helper) = self.running.iter().find(|(task, _)| is_download(task))?;
        Some((helper.progress()?, helper.announced()))
    }

    /// Stops the helper of a job's download, if one runs.
    pub fn stop_download(&mut self, job: &JobId) {
        for (task, helper) in &mut self.running {
            if matches!(task, HelperTask::Fetch(fetched) if fetched == job) {
                helper.stop();
            }
        }
    }

    /// Stops all helpers but those that rotate, which end soon by themselves and may have frozen an agent.
    pub fn stop_all(&mut self) {
        for (task, helper) in &mut self.running {
            if !matches!(task, HelperTask::Rotate(_)) {
                helper.stop();
            }
        }
    }

    /// Whether the output of an agent is being rotated.
    pub fn is_rotating(&self, name: &str) -> bool {
        self.running.iter().any(|(task, _)| matches!(task, HelperTask::Rotate(known) if **known == *name))
    }

    /// How many outputs are being rotated.
    pub fn rotations(&self) -> usize {
        self.running.iter().filter(|(task, _)| matches!(task, HelperTask::Rotate(_))).count()
    }

    /// Ends helpers that are late or do nothing.
    pub fn end_late(&mut self, now: Time) {
        for (_, helper) in &mut self.running {
            helper.look(now);
        }
    }

    /// Removes one helper that has finished: its process id, if it was reaped, and its task's result.
    pub fn take_finished(&mut self) -> Option<(Option<Pid>, Finished)> {
        let index = self.running.iter().position(|(_, helper)| helper.finished())?;
        let (task, helper) = self.running.swap_remove(index);
        let resumed = matches!(&task, HelperTask::Fetch(job) if self.resumed.remove(job));
        let reaped = helper.reaped().then_some(helper.pid());
        if reaped.is_none() {
            self.stuck.push(helper.pid());
        }
        let announced = helper.announced();
        let mut finished = Finished::new(task, helper.outcome(), resumed);
        if let Finished::Exchange { address, .. } = &mut finished {
            *address = announced;
        }
        Some((reaped, finished))
    }

    /// Starts a helper; returns its process id.
    ///
    /// # Errors
    /// When there is no user for it, or no child can be made.
    fn start(
        &mut self,
        task: HelperTask,
        request: &HelperRequest,
        file: Option<File>,
        runner: Runner,
        setup_errors: &SetupErrorPipe,
    ) -> Result<Pid, Error> {
        if matches!(task, HelperTask::Inspect(_)) && self.stuck.len() >= STUCK_MAX {
            return Err(
                "no more processes are read, as helpers that read some wait for them and cannot be ended".into()
            );
        }
        let used: Vec<Uid> = self.running.iter().filter_map(|(_, helper)| helper.user()).collect();
        let user = self.users.choose(runner, &used)?;
        let helper = Helper::start(&self.binary, request, file, user, setup_errors, monotonic())
            .map_err(|error| format_error!("cannot start a helper: {}", reason(&error)))?;
        let pid = helper.pid();
        self.running.push((task, helper));
        Ok(pid)
    }
}

impl Daemon {
    /// Starts a helper for `task`.
    ///
    /// # Errors
    /// When there is no user for it, or no child can be made.
    pub(super) fn start_helper(
        &mut self,
        task: HelperTask,
        request: &HelperRequest,
        file: Option<File>,
        runner: Runner,
    ) -> Result<(), Error> {
        let pid = self.helpers.start(task, request, file, runner, self.children.setup_errors())?;
        self.track_child(pid, Owner::Helper);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_of_another_task_is_a_failure_that_is_final() {
        let response = || HelperResponse::Unpacked { entries: 1, bytes: 1, top: String::new() };
        for task in [
            HelperTask::Exchange { results: true, nonce: None },
            HelperTask::Fetch("1".into()),
            HelperTask::Verify("1".into()),
        ] {
            let failure = match Finished::new(task, response(), false) {
                Finished::Exchange { results: true, nonce: None, address: None, result: Err(failure) } => failure,
                Finished::Fetch(job, Err(failure)) | Finished::Verify(job, Err(failure)) if *job == *"1" => failure,
                other => panic!("{other:?}"),
            };
            assert_eq!(failure.kind, FailureKind::Final);
        }
        let unpacked = Finished::new(HelperTask::Unpack("1".into(), "/d".into()), response(), false);
        assert!(matches!(unpacked, Finished::Unpack(_, _, Ok(top)) if top.is_empty()));
    }

    #[test]
    fn a_failure_keeps_its_task_and_its_cause() {
        let response = HelperResponse::Failed {
            kind: FailureKind::Temporary,
            reason: "no connection".to_string(),
            progressed: 5,
            retry_after: Some(7),
        };
        let Finished::Fetch(job, Err(failure)) = Finished::new(HelperTask::Fetch("1".into()), response, true) else {
            panic!("it is a failed download");
        };
        assert_eq!((&*job, failure.kind, &*failure.reason), ("1", FailureKind::Temporary, "no connection"));
        assert_eq!((failure.progressed, failure.retry_after), (5, Some(7)));
    }
}
