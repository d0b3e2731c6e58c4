//! What a daemon needs, over time: memory, descriptors, children.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::plot::{renew, Plot};
use crate::util::*;

/// One look.
struct Look {
    /// s
    at: f64,
    /// Anonymous memory, KiB.
    memory: f64,
    descriptors: f64,
    /// Agents that run.
    agents: f64,
    /// Jobs that were given.
    jobs: f64,
}

/// What the daemon keeps of a job that has ended and been answered, its id above all, KiB; it does so of 4096 of them.
const ENDED_JOB: f64 = 0.0625;

pub struct Record(Vec<Look>);

/// The middle of some numbers.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

impl Record {
    pub fn new() -> Record {
        Record(Vec::new())
    }

    pub fn look(&mut self, host: &Host, since: Duration, agents: usize, jobs: u64) {
        let pid = host.pid();
        // Not what smaps says is private: a child that has not executed its program yet shares all of it.
        let memory: f64 = proc_status(pid, "RssAnon").trim_end_matches(" kB").parse().unwrap_or(0.0);
        let descriptors = entries(Path::new(&format!("/proc/{pid}/fd"))).len() as f64;
        // A daemon that is just being replaced has nothing yet.
        if memory > 0.0 && descriptors > 0.0 {
            self.0.push(Look {
                at: since.as_secs_f64(),
                memory,
                descriptors,
                agents: agents as f64,
                jobs: jobs as f64,
            });
        }
    }

    /// The median of a part of the time in which one process ran.
    fn middle(&self, time: Duration, part: (f64, f64), what: fn(&Look) -> f64) -> f64 {
        let (from, to) = (part.0 * time.as_secs_f64(), part.1 * time.as_secs_f64());
        median(self.0.iter().filter(|look| look.at >= from && look.at < to).map(what).collect())
    }

    pub fn table(&self, done: &BTreeMap<&'static str, u64>, time: Duration) -> String {
        let mut text =
            "| time | anonymous memory, KiB | descriptors | agents running | jobs so far |\n|---|---|---|---|---|\n"
                .to_string();
        for tenth in 0..10 {
            let part = (f64::from(tenth) / 10.0, f64::from(tenth + 1) / 10.0);
            let _ = writeln!(
                text,
                "| {}-{} % | {} | {} | {} | {} |",
                tenth * 10,
                (tenth + 1) * 10,
                self.middle(time, part, |look| look.memory),
                self.middle(time, part, |look| look.descriptors),
                self.middle(time, part, |look| look.agents),
                self.middle(time, part, |look| look.jobs),
            );
        }
        let list: Vec<String> = done.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let _ = writeln!(text, "\n{:.1} minutes: {}.", time.as_secs_f64() / 60.0, list.join(", "));
        text
    }

    /// Writes the table into a page and the plots beside it.
    pub fn write(&self, page: &Path, table: &str) {
        let line = |what: fn(&Look) -> f64| self.0.iter().map(|look| (look.at / 60.0, what(look))).collect();
        let plots = [
            ("soak-memory.svg", "Anonymous memory of the daemon", "KiB", vec![("memory", line(|look| look.memory))]),
            (
                "soak-descriptors.svg",
                "Descriptors of the daemon, and agents that run",
                "number",
                vec![("descriptors", line(|look| look.descriptors)), ("agents", line(|look| look.agents))],
            ),
        ];
        for (file, title, y, lines) in plots {
            let svg = Plot { title, x: "minutes", y, lines, levels: Vec::new() }.svg();
            fs::write(page.with_file_name(file), svg).expect("the directory of the page");
        }
        renew(page, "soak", table);
    }

    /// The median of a part of the looks: by their number and not by time, as on a busy machine a short run has few.
    fn middle_of_looks(&self, part: (f64, f64), what: fn(&Look) -> f64) -> f64 {
        let count = self.0.len();
        let from = (part.0 * count as f64) as usize;
        let to = ((part.1 * count as f64).ceil() as usize).clamp(from, count);
        median(self.0[from..to].iter().map(what).collect())
    }

    /// The daemon may use in the last part of its time what it used in the first, apart from the jobs that it remembers. In a
    /// short run it is still growing to its size, so that only a loss with every event is seen.
    pub fn judge(&self, time: Duration) {
        let (more, few) = if time < Duration::from_secs(300) { (256.0, 16.0) } else { (32.0, 4.0) };
        let compare = |what: fn(&Look) -> f64| [(0.3, 0.45), (0.85, 1.0)].map(|part| self.middle_of_looks(part, what));
        let [before, after] = compare(|look| look.jobs.min(4096.0));
        let more = more + ENDED_JOB * (after - before);
        let [early, late] = compare(|look| look.memory);
        assert!(early > 0.0 && late <= early * 1.1 + more, "memory grew from {early} to {late} KiB");
        let [early, late] = compare(|look| look.descriptors);
        assert!(early > 0.0 && late <= early * 1.1 + few, "descriptors became more: from {early} to {late}");
    }
}
