//! Agents of every kind of trouble, and how many of each live.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use miniserde::json::Value;

use crate::util::*;

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It stays.
    Steady,
    /// It ends after some seconds, with a status or by a signal.
    Dies,
    /// It ignores SIGTERM, and its health check fails at times.
    Hangs,
    /// It takes memory until it is over its limit.
    Leaks,
    /// It leaves processes behind in sessions of their own, and ends at times.
    Forks,
    /// It goes into the background.
    Daemon,
    /// It writes until its output is rotated.
    Talks,
    /// It ends at once and is given up, until a job or a person starts it again.
    Broken,
}

impl Kind {
    pub const ALL: [Kind; 8] =
        [Kind::Steady, Kind::Dies, Kind::Hangs, Kind::Leaks, Kind::Forks, Kind::Daemon, Kind::Talks, Kind::Broken];
}

pub struct Crowd(Vec<(String, Kind)>);

impl Crowd {
    /// Defines so many agents, of every kind in turn.
    pub fn new(host: &Host, count: usize) -> Crowd {
        let all = (0..count).map(|index| {
            let kind = Kind::ALL[index % Kind::ALL.len()];
            (format!("{kind:?}-{index:03}").to_lowercase(), kind)
        });
        let crowd = Crowd(all.collect());
        (0..count).for_each(|index| crowd.define(host, index, "{}"));
        crowd
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn pick(&self, random: &mut Random) -> String {
        self.0[random.below(self.0.len() as u64) as usize].0.clone()
    }

    /// Writes an agent's definition. The main process is one whose arguments say `main-NAME`.
    pub fn define(&self, host: &Host, index: usize, envs: &str) {
        let (name, kind) = &self.0[index];
        // Each agent does so at a moment of its own.
        let after = 3 + index % 17;
        let pidfile = host.path(&format!("{name}.pid")).display().to_string();
        let script = match kind {
            Kind::Steady => "while :; do sleep 100; done".to_string(),
            Kind::Dies if index % 3 == 0 => format!("sleep {after}; kill -SEGV $$"),
            Kind::Dies => format!("sleep {after}; exit {}", index % 4),
            Kind::Hangs => "trap '' TERM; while :; do sleep 100; done".to_string(),
            Kind::Leaks => {
                "x=$(head -c 2000000 /dev/zero | tr '\\0' x); y=; while :; do y=$y$x; sleep 0.5; done".to_string()
            }
            Kind::Forks => format!(
                "for i in 1 2 3; do setsid sleep {} & done; sleep {after}; setsid sleep 1000 & exit 1",
                after * 3
            ),
            Kind::Daemon => format!("setsid sh -c 'while :; do sleep 100; done' main-{name} & echo $! >{pidfile}"),
            Kind::Talks => "while :; do head -c 3000 /dev/zero | tr '\\0' x; echo; sleep 0.5; done".to_string(),
            Kind::Broken => "exit 7".to_string(),
        };
        let main = if *kind == Kind::Daemon { "starter" } else { "main" };
        let exec = format!("[\"/bin/sh\", \"-c\", {}, \"{main}-{name}\"]", miniserde::json::to_string(&script));
        let pidfile = miniserde::json::to_string(&pidfile);
        let mut keys = vec![("exec", &*exec), ("envs", envs), ("stopsecs", "0.5")];
        match kind {
            Kind::Hangs => keys.push((
                "check",
                "{ \"exec\": [\"/bin/sh\", \"-c\", \"test $(($(date +%s) / 20 % 4)) -gt 0\"], \"interval\": 5, \"timeout\": 4, \"retries\": 2 }",
            )),
            Kind::Leaks => keys.push(("limits", "{ \"memory\": \"20M\" }")),
            Kind::Daemon => keys.extend([("type", "\"forking\""), ("pidfile", &*pidfile)]),
            Kind::Talks => keys.push(("log_size", "\"20K\"")),
            Kind::Broken => keys.push(("retries", "2")),
            Kind::Steady | Kind::Dies | Kind::Forks => {}
        }
        host.agent(name, "", &keys);
    }

    /// How many main processes each agent has, of those that have any: those that say so and whose parent does not (a shell
    /// on its way to become another program still has its parent's arguments).
    pub fn alive(&self, host: &Host) -> BTreeMap<String, usize> {
        let state = format!("BOOTAGENT_STATE_DIR={}", host.path("state").display()).into_bytes();
        let mut mains: BTreeMap<i32, String> = BTreeMap::new();
        let mut parents = BTreeMap::new();
        for path in entries(Path::new("/proc")) {
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
            let environ = fs::read(path.join("environ")).unwrap_or_default();
            if !environ.split(|byte| *byte == 0).any(|entry| *entry == *state) || !alive(pid) {
                continue;
            }
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let name = line.split(|byte| *byte == 0).find_map(|argument| argument.strip_prefix(b"main-"));
            let Some(name) = name else { continue };
            mains.insert(pid, String::from_utf8_lossy(name).into_owned());
            parents.insert(pid, proc_status(pid, "PPid").parse::<i32>().unwrap_or(0));
        }
        let mut count = BTreeMap::new();
        for (pid, name) in &mains {
            if mains.get(&parents[pid]) != Some(name) {
                *count.entry(name.clone()).or_default() += 1;
            }
        }
        count
    }

    /// Agents that are not reported, or not as they are.
    pub fn lost(&self, status: &Value, alive: &BTreeMap<String, usize>) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, kind) in &self.0 {
            let count = alive.get(name).copied().unwrap_or(0);
            let Some(agent) = seen(status, name) else {
                lost.push(format!("{name} is not told of"));
                continue;
            };
            let stopped = agent.status == "stoped" && agent.detail == "stopped";
            let good = match kind {
                Kind::Steady | Kind::Daemon | Kind::Talks | Kind::Hangs => {
                    agent.runs() && count == 1 || stopped && count == 0
                }
                // What comes and goes is between two lives at times.
                Kind::Dies | Kind::Leaks | Kind::Forks => agent.status != "fatal" && !(stopped && count > 0),
                Kind::Broken => !(stopped && count > 0),
            };
            if !good {
                lost.push(format!("{name}: {count} main processes, {agent:?}"));
            }
        }
        lost
    }
}
