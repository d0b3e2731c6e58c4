//! What a life is made of: a seed, and from it the definitions, the policy and everything that happens from outside.

use std::time::Duration;

use bootagent::kernel::{Exit, Sig};
use bootagent::model::job::{Job, JobAction, Source};
use bootagent::model::package::{Digest, Format};
use bootagent::model::restart::Policy;
use bootagent::model::schedule::parse_servers;
use bootagent::model::spec::{Autorestart, Check, KillMode, Kind, Limits, Program, Spec};

use crate::random::Random;

/// How the servers answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Good,
    /// They take the connection and say nothing.
    Silent,
    Garbage,
    /// Statuses are taken, results are not.
    Refusing,
    /// They do what they are asked, and the answer is lost.
    Losing,
    /// They ask for a pause.
    Busy,
}

/// Something from outside.
#[derive(Clone, Debug)]
pub enum Outside {
    Offer(Box<Job>),
    /// A job that cannot be one, with this id.
    OfferBad(Box<str>),
    /// The server cancels a job, with every reply until it has a result.
    Cancel(Box<str>),
    Start(&'static str),
    Stop(&'static str),
    Restart(&'static str),
    Status,
    Report,
    /// The last client goes away.
    Gone,
    /// The daemon dies, after it has done so many more things.
    Crash(u32),
    Reboot,
    Shutdown,
    Leave,
    /// A definition is changed on disk, and all are read again.
    Change(Box<Spec>),
    /// A definition is removed from disk, and all are read again.
    Remove(&'static str),
    Kill(&'static str, Exit),
    /// An agent takes more memory than it may.
    Hog(&'static str),
    /// The wall clock is set.
    Clock(i64),
    Server(Mode),
    /// Records of jobs can be written, or not.
    Disk(bool),
}

/// A life to be lived.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub policy: Policy,
    pub step: Duration,
    /// Only signed packages may be installed.
    pub signed: bool,
    /// How likely it is that something on the host goes wrong, percent.
    pub wear: u64,
    pub files: Vec<Spec>,
    /// What happens when, ms after the beginning.
    pub script: Vec<(u64, Outside)>,
}

/// Agents with a file in `agents.d`, and agents that only jobs bring.
pub const FILES: [&str; 2] = ["a", "b"];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// How long things happen from outside; after that a life is left in peace to come to rest.
pub const EVENTFUL: u64 = 3600 * 1000;

/// How long a `prestart` may take.
pub const PRESTART: Duration = Duration::from_secs(15);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A definition, of any kind.
fn spec(random: &mut Random, name: &str) -> Spec {
    let mut spec = Spec::new(name, &format!("{}", random.below(9)), vec!["/bin/agent".into()]);
    spec.stopsecs = seconds(random.below(15));
    spec.startsecs = seconds(random.pick(&[0, 1, 10, 60]));
    spec.autostart = random.chance(80);
    spec.autorestart =
        random.pick(&[Autorestart::Always, Autorestart::Always, Autorestart::Unexpected, Autorestart::Never]);
    spec.kind = random.pick(&[Kind::Simple, Kind::Simple, Kind::Simple, Kind::Forking, Kind::Notify]);
    spec.kill = random.pick(&[KillMode::Tree, KillMode::Tree, KillMode::Tree, KillMode::Mixed, KillMode::Main]);
    if random.chance(20) {
        spec.prestart = Some(Box::new(Program { exec: vec!["/bin/prepare".into()], timeout: PRESTART }));
    }
    if random.chance(20) {
        spec.restartsecs = Some(seconds(random.pick(&[0, 5, 300])));
    }
    if random.chance(20) {
        spec.retries = Some(random.below(3) as u32);
    }
    if random.chance(20) {
        let check = Check { exec: vec!["/bin/ping".into()], interval: seconds(200), timeout: seconds(10), retries: 2 };
        spec.check = Some(Box::new(check));
    }
    if random.chance(50) {
        spec.limits.memory = Some(1 << 20);
    }
    spec
}

/// What a package brings, chosen by the first byte of its digest: nothing, or a definition of its own.
pub fn package_definition(number: u8, name: &str) -> Option<Box<Spec>> {
    let mut random = Random(u64::from(number));
    random.chance(70).then(|| Box::new(spec(&mut random, name)))
}

/// The definition whose text a job carries.
pub fn job_definition(text: &str) -> Option<Box<Spec>> {
    let (name, number) = text.split_once(' ')?;
    Some(Box::new(spec(&mut Random(number.parse().ok()?), name)))
}

fn job(random: &mut Random, id: Box<str>) -> Job {
    let name = random.pick(&NAMES);
    let order = match random.below(12) {
        0..=2 => JobAction::Install(source(random, name)),
        3..=4 => JobAction::Upgrade(source(random, name)),
        5 => JobAction::Uninstall,
        6 => JobAction::Start,
        7 => JobAction::Stop,
        8 => JobAction::Restart,
        9 if random.chance(50) => JobAction::Config { servers: None, step: Some(seconds(10 + random.below(1000))) },
        9 => JobAction::Config { servers: parse_servers("new:1,newer:2").ok(), step: None },
        _ => JobAction::Config { servers: None, step: None },
    };
    let of_daemon = matches!(&order, JobAction::Config { servers, step } if servers.is_some() || step.is_some());
    let mut job = Job::new(&id, if of_daemon { "" } else { name }, order);
    job.envs = random.chance(20).then(|| vec![("KEY".into(), random.pick(&["1", "2", "3"]).into())]);
    job.limits = random.chance(20).then(|| Limits { memory: Some(1 << 20), ..Limits::default() });
    job.version = random.chance(30).then(|| random.pick(&["1", "2", "current"]).into());
    job.startsecs = random.chance(30).then(|| seconds(random.below(30)));
    job.signature = random.chance(80).then(|| "signature".into());
    job.window = seconds(if random.chance(20) { random.below(900) } else { 0 });
    job.expires = random.chance(10).then(|| seconds(random.below(600)));
    if matches!(job.action, JobAction::Install(_) | JobAction::Upgrade(_)) && random.chance(60) {
        job.definition_text = format!("{name} {}", random.below(100)).into();
        job.definition = job_definition(&job.definition_text);
    }
    job
}

fn source(random: &mut Random, name: &str) -> Source {
    let format = random.pick(&[Format::Tar, Format::Deb]);
    let number = random.below(8) as u8 * 2 + u8::from(format == Format::Deb);
    Source { url: format!("http://p/{name}{}", format.ending()).into(), digest: Digest([number; 32]), format }
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut random = Random(seed);
        let policy = random.pick(&[(180, 900, 3), (180, 900, 3), (10, 60, 1), (30, 0, 2), (0, 20, 4)]);
        let policy = Policy { restartsecs: seconds(policy.0), windowsecs: seconds(policy.1), retries: policy.2 };
        let step = seconds(random.pick(&[300, 600, 86400]));
        let signed = random.chance(20);
        let wear = random.pick(&[0, 3, 10]);
        let files: Vec<Spec> = FILES.iter().map(|name| spec(&mut random, name)).collect();
        let mut script: Vec<(u64, Outside)> = Vec::new();
        let mut ids = Vec::new();
        for number in 0..5 + random.below(25) {
            let at = random.below(EVENTFUL);
            let name = random.pick(&NAMES);
            let outside = match random.below(43) {
                0..=14 => {
                    // Sometimes an id comes again, as another job even.
                    let id: Box<str> = format!("job-{number}").into();
                    ids.push(id);
                    let id = if random.chance(90) { ids[ids.len() - 1].clone() } else { random.pick(&ids) };
                    Outside::Offer(Box::new(job(&mut random, id)))
                }
                15 => Outside::OfferBad(format!("bad-{number}").into()),
                16..=17 => Outside::Start(name),
                18 => Outside::Stop(name),
                19 => Outside::Restart(name),
                20 => Outside::Status,
                21 => Outside::Report,
                22 => Outside::Gone,
                23..=26 => Outside::Crash(random.below(20) as u32),
                27 => Outside::Reboot,
                28 => Outside::Shutdown,
                29 => Outside::Leave,
                30 => Outside::Change(Box::new({
                    let name = random.pick(&FILES);
                    spec(&mut random, name)
                })),
                31 => Outside::Remove(random.pick(&FILES)),
                32..=33 => Outside::Kill(name, random.pick(&[Exit::Code(0), Exit::Code(1), Exit::Signal(Sig::KILL)])),
                34 => Outside::Hog(name),
                35 => Outside::Clock(random.below(200_000_000) as i64 - 100_000_000),
                36..=38 => {
                    let modes = [Mode::Good, Mode::Silent, Mode::Garbage, Mode::Refusing, Mode::Losing, Mode::Busy];
                    Outside::Server(random.pick(&modes))
                }
                39 => Outside::Disk(random.chance(50)),
                _ if ids.is_empty() => Outside::Status,
                _ => Outside::Cancel(random.pick(&ids)),
            };
            script.push((at, outside));
            // What comes at once is another matter than what comes apart.
            if random.chance(30) {
                let (first, outside) = (script[0].0, script[script.len() - 1].1.clone());
                script.pop();
                script.push((first, outside));
            }
        }
        script.sort_by_key(|(at, _)| *at);
        Plan { seed, policy, step, signed, wear, files, script }
    }
}
