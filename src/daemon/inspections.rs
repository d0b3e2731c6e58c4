//! What only a helper may read of other processes: which agent the environments of orphans name, and how much memory the
//! processes of a tree share. A process can block whoever reads these (`work::inspect`).
//!
//! `host::tree` says what is to be read and takes the answers. Here helpers are started for it, one of each kind at a time,
//! and their answers become events. A measurement or a count that needs answers is reported when they are there. A process
//! that gives none in time is done without.

use std::time::Duration;

use super::conditions::Condition;
use super::helpers::{HelperTask, Inspection};
use super::identity::Runner;
use super::Daemon;
use crate::host::helper::{Binary, Helper, INSPECT_MAX};
use crate::host::proc;
use crate::kernel::{Pid, Process, Uid};
use crate::model::event::{Event, Usage};
use crate::model::measurement::{shared_memory, Parts};
use crate::sys::monotonic;
use crate::sys::poll::poll;
use crate::sys::setup_error::SetupErrorPipe;
use crate::work::inspect::{read_memory, ProcessTag};
use crate::work::{HelperRequest, HelperResponse};

/// How many environments one helper reads.
const ENVIRONMENTS: usize = 256;

/// How long the daemon's start waits for environments.
const START_MAX: Duration = Duration::from_secs(10);

/// The inspections that are under way.
#[derive(Default)]
pub(super) struct Inspections {
    environments: bool,
    measurement: Option<Measurement>,
    /// A process that could not be read, while it lives.
    blocking: Option<Process>,
}

/// A measurement that is complete but for what is still to be inspected.
struct Measurement {
    usages: Vec<Usage>,
    /// Trees by their index in `usages`, each with its processes and their parts of its memory, bytes.
    open: Vec<(usize, Parts)>,
}

impl Daemon {
    /// Measures what each running agent uses.
    pub(super) fn measure(&mut self) {
        let measured = self.state.agents().filter(|agent| !agent.is_down() || agent.spares());
        let mut measurement = Measurement { usages: Vec::new(), open: Vec::new() };
        for (name, spares) in measured.map(|agent| (agent.name().clone(), agent.spares())) {
            let (usage, parts) = self.trees.usage(&name, &self.limits);
            let cpu = usage.cpu.map(Duration::from_micros);
            if !parts.is_empty() {
                measurement.open.push((measurement.usages.len(), parts));
            }
            let spared = if spares { self.trees.count_spared(&name, &self.limits) } else { 0 };
            measurement.usages.push(Usage { name, cpu, memory: usage.memory, spared: spared as u32 });
        }
        self.inspections.measurement = Some(measurement);
        self.inspect_memory();
    }

    /// Has the memory inspected that a measurement still lacks; without any, it is complete.
    fn inspect_memory(&mut self) {
        let Some(measurement) = &self.inspections.measurement else { return };
        let parts = measurement.open.iter().flat_map(|(_, parts)| parts);
        let processes: Vec<Process> = parts.map(|(process, _)| *process).collect();
        // Where nothing can be inspected, shared pages count for each process.
        if processes.is_empty() || !self.start_inspection(Inspection::Memory(processes)) {
            let usages = self.inspections.measurement.take().map(|measurement| measurement.usages);
            self.queue.extend(usages.map(Event::Measured));
        }
    }

    /// Has the environments read that are asked for, unless some are being read.
    pub(super) fn inspect_environments(&mut self) {
        if self.inspections.environments {
            return;
        }
        let processes = self.trees.questions(ENVIRONMENTS);
        if processes.is_empty() {
            return;
        }
        self.inspections.environments = self.start_inspection(Inspection::Environments(processes.clone()));
        if !self.inspections.environments {
            // The next look at all processes asks again.
            processes.into_iter().for_each(|process| self.trees.answer(process, ProcessTag::Unknown));
        }
    }

    /// Starts a helper; false where that is not possible.
    fn start_inspection(&mut self, inspection: Inspection) -> bool {
        let (processes, mark) = match &inspection {
            Inspection::Environments(processes) => (processes, Some(self.mark.to_string())),
            Inspection::Memory(processes) => (processes, None),
        };
        let pids: Vec<Pid> = processes.iter().map(|process| process.pid).collect();
        let request = HelperRequest::Inspect { pids, mark };
        let started = self.start_helper(HelperTask::Inspect(inspection), &request, None, Runner::Daemon);
        self.set_condition(Condition::Inspections, started.as_ref().err().map(|why| &**why));
        started.is_ok()
    }

    /// Takes the answers of an inspection. `blocked`: there is none about the next process, as it cannot be read.
    pub(super) fn inspected(&mut self, inspection: Inspection, response: HelperResponse, blocked: bool) {
        let answers = match response {
            HelperResponse::Inspected(answers) => answers,
            _ => Vec::new(),
        };
        let (Inspection::Environments(processes) | Inspection::Memory(processes)) = &inspection;
        let blocking = processes.get(answers.len()).copied().filter(|_| blocked);
        if let Some(process) = blocking {
            let secs = INSPECT_MAX.as_secs();
            let text = format!(
                "process {} cannot be read: the kernel gives no answer within {secs} s, as its memory is locked",
                process.pid
            );
            self.inspections.blocking = Some(process);
            self.set_condition(Condition::BlockedProcess, Some(&text));
        }
        match inspection {
            Inspection::Environments(processes) => {
                self.inspections.environments = false;
                for (process, line) in processes.iter().zip(&answers) {
                    self.trees.answer(*process, ProcessTag::read(line));
                }
                match blocking {
                    Some(process) => self.trees.block(process),
                    // A helper that ended by itself may not have answered everything.
                    None => processes.iter().for_each(|process| self.trees.answer(*process, ProcessTag::Unknown)),
                }
                self.queue.push_back(Event::ProcessesChanged);
            }
            Inspection::Memory(_) => self.inspected_memory(&answers, blocking.is_some()),
        }
    }

    fn inspected_memory(&mut self, answers: &[String], blocked: bool) {
        let Some(measurement) = &mut self.inspections.measurement else { return };
        let mut answers = answers.iter();
        let mut open = std::mem::take(&mut measurement.open).into_iter();
        for (index, parts) in open.by_ref() {
            let usage = &mut measurement.usages[index];
            let lines: Vec<&String> = answers.by_ref().take(parts.len()).collect();
            if lines.len() < parts.len() {
                // Of this tree the sum remains, in which shared pages count for each process.
                if blocked {
                    self.trees.note_unreadable(&usage.name);
                }
                break;
            }
            usage.memory = Some(shared_memory(&parts, lines.into_iter().map(|line| read_memory(line))));
        }
        measurement.open = open.collect();
        self.inspect_memory();
    }

    /// Looks whether the process that could not be read is still there.
    pub(super) fn look_at_blocking(&mut self) {
        if self.inspections.blocking.is_some_and(|process| !proc::alive(process)) {
            self.inspections.blocking = None;
            self.set_condition(Condition::BlockedProcess, None);
        }
    }
}

/// Reads the environments of these processes, each given with its user, before there is a loop. It takes `START_MAX` at most,
/// and after a process that cannot be read, nothing of its user is read. The helpers are reaped by the loop.
pub(super) fn environments_at_start(
    binary: &Binary,
    failures: &SetupErrorPipe,
    mark: &str,
    processes: &[(Pid, Uid)],
) -> Vec<ProcessTag> {
    let mut tags = vec![ProcessTag::Unknown; processes.len()];
    let mut open: Vec<usize> = (0..processes.len()).collect();
    let until = monotonic() + START_MAX;
    while !open.is_empty() && monotonic() < until {
        let pids = open.iter().map(|index| processes[*index].0).collect();
        let request = HelperRequest::Inspect { pids, mark: Some(mark.to_string()) };
        let Ok(mut helper) = Helper::start(binary, &request, None, None, failures, monotonic()) else { break };
        while let Some(deadline) = helper.deadline().filter(|_| !helper.has_answered()) {
            let mut fds: Vec<_> = helper.fds().into_iter().flatten().collect();
            let _ = poll(&mut fds, Some(deadline.since(monotonic())));
            drop(fds);
            helper.ready();
            helper.look(monotonic());
        }
        let HelperResponse::Inspected(answers) = helper.outcome() else { break };
        for (index, line) in open.iter().zip(&answers) {
            tags[*index] = ProcessTag::read(line);
        }
        let Some(blocking) = open.get(answers.len()).copied() else { break };
        open.drain(..answers.len());
        open.retain(|index| processes[*index].1 != processes[blocking].1);
    }
    tags
}
