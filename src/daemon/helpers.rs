//! The helpers that run: child processes that do what would block the daemon, such as an exchange or a download.
//!
//! A task comes in with a request; when its helper has ended, a `Finished` goes out that holds the task and what the helper
//! has sent. This file chooses the user a helper runs as, feeds and watches its pipes, and stops it when it is late. It does
//! not judge a result: that is for `act`.

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
use crate::sys::monotonic;
use crate::sys::poll::PollFd;
use crate::sys::setup_error::SetupError;
use crate::work::{HelperRequest, HelperResponse};

/// What a helper was started for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HelperTask {
    /// An exchange; whether it carries results, and the nonce it was signed with.
    Exchange { results: bool, nonce: Option<Box<str>> },
    /// A job's download; whether it begins with bytes of an earlier attempt.
    Fetch(JobId, bool),
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

/// A helper of which nothing more is to come.
pub(super) struct Finished {
    pub task: HelperTask,
    pub response: HelperResponse,
    /// The address that an exchange has reached, as a number, where the helper has said it.
    pub address: Option<u64>,
    /// Its process id, if it was reaped.
    pub reaped: Option<Pid>,
}

/// The running helpers, and what every new one needs.
pub(super) struct Helpers {
    running: Vec<(HelperTask, Helper)>,
    /// The binary of this process.
    pub binary: Binary,
    /// The users helpers run as.
    pub users: HelperUsers,
    /// Helpers that were killed, whose results are taken, and that have not ended: they may wait in the kernel for ever.
    stuck: Vec<Pid>,
}

/// With so many of them, nothing more is inspected.
const STUCK_MAX: usize = 4;

impl Helpers {
    /// None yet; they will execute `binary` as one of `users`.
    pub fn new(binary: Binary, users: HelperUsers) -> Helpers {
        Helpers { running: Vec::new(), binary, users, stuck: Vec::new() }
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

    /// The helpers of a job's download: the one that runs, and those that were stopped and have not ended yet.
    fn downloads<'a>(&'a mut self, job: &'a JobId) -> impl Iterator<Item = &'a mut Helper> {
        let is_download = move |task: &HelperTask| matches!(task, HelperTask::Fetch(fetched, _) if fetched == job);
        self.running.iter_mut().filter(move |(task, _)| is_download(task)).map(|(_, helper)| helper)
    }

    /// Bytes that a job's download has fetched, and how many there will be, where that is known.
    pub fn download_progress(&mut self, job: &JobId) -> Option<(u64, Option<u64>)> {
        let helper = self.downloads(job).next()?;
        Some((helper.progress()?, helper.announced()))
    }

    /// Stops the download of a job, if it runs.
    pub fn stop_download(&mut self, job: &JobId) {
        self.downloads(job).for_each(Helper::stop);
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

    /// Removes one helper of which nothing more is to come.
    pub fn take_finished(&mut self) -> Option<Finished> {
        let index = self.running.iter().position(|(_, helper)| helper.finished())?;
        let (task, helper) = self.running.swap_remove(index);
        let reaped = helper.reaped().then_some(helper.pid());
        if reaped.is_none() {
            self.stuck.push(helper.pid());
        }
        Some(Finished { task, address: helper.announced(), reaped, response: helper.outcome() })
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
        let Helpers { running, binary, users, stuck } = &mut self.helpers;
        if matches!(task, HelperTask::Inspect(_)) && stuck.len() >= STUCK_MAX {
            return Err(
                "no more processes are read, as helpers that read some wait for them and cannot be ended".into()
            );
        }
        let used: Vec<Uid> = running.iter().filter_map(|(_, helper)| helper.user()).collect();
        let user = users.choose(runner, &used)?;
        let helper = Helper::start(binary, request, file, user, &self.children.setup_errors, monotonic())
            .map_err(|error| format_error!("cannot start a helper: {}", reason(&error)))?;
        let pid = helper.pid();
        running.push((task, helper));
        self.track_child(pid, Owner::Helper);
        Ok(())
    }
}
