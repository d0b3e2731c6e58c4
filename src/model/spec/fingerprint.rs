//! The fingerprint of a definition: a number in the run record by which a later daemon sees whether a running agent was
//! started with the current definition.
//!
//! Only values that differ from the default go into it, each after a number of its own that must never change: so a later
//! version that knows more keys makes the same fingerprint of the same definition, and its upgrade restarts no agent.

use std::time::Duration;

use super::{Account, Program, Reload, Spec};
use crate::kernel::nanos;

/// FNV-1a over keys, lengths and values. It need not resist attacks: nobody gains by two definitions with one fingerprint.
struct Fingerprint(u64);

impl Fingerprint {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, key: u8, value: u64, default: u64) {
        if value != default {
            self.bytes(&[key]);
            self.bytes(&value.to_le_bytes());
        }
    }

    fn text(&mut self, key: u8, text: &str) {
        self.bytes(&[key]);
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn time(&mut self, key: u8, time: Option<Duration>, default: Option<Duration>) {
        if let Some(time) = time.filter(|time| Some(*time) != default) {
            self.bytes(&[key]);
            self.bytes(&nanos(time).to_le_bytes());
        }
    }

    /// With two keys.
    fn program(&mut self, key: u8, program: &Program) {
        program.exec.iter().for_each(|word| self.text(key, word));
        self.time(key + 1, Some(program.timeout), None);
    }

    fn account(&mut self, key: u8, account: &Option<Account>) {
        match account {
            Some(Account::Name(name)) => self.text(key, name),
            Some(Account::Id(id)) => self.number(key + 1, u64::from(*id) + 1, 0),
            None => {}
        }
    }
}

/// The fingerprints of the definition that an agent was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    /// Of all of it. 1.0.0 knows only this one.
    pub whole: u64,
    /// Of what its processes depend on; `None` if 1.0.0 started it.
    pub process: Option<u64>,
}

impl Fingerprints {
    /// Whether this is the definition that the processes were started with, as far as they depend on it.
    pub fn fit(&self, spec: &Spec) -> bool {
        match self.process {
            Some(process) => process == spec.fingerprint(false),
            None => self.whole == spec.fingerprint(true),
        }
    }
}

impl Spec {
    /// Both fingerprints of this definition.
    pub fn fingerprints(&self) -> Fingerprints {
        Fingerprints { whole: self.fingerprint(true), process: Some(self.fingerprint(false)) }
    }

    /// The fingerprint of this definition. Definitions that differ in anything but the name have different ones. Without the
    /// `whole` of it: of what its processes depend on, which is all but the health check and the size of the output.
    fn fingerprint(&self, whole: bool) -> u64 {
        let default = Spec::new("", "", Vec::new());
        let mut hash = Fingerprint(0xcbf2_9ce4_8422_2325);
        hash.text(1, &self.version);
        self.exec.iter().for_each(|word| hash.text(2, word));
        hash.number(3, self.kind as u64, default.kind as u64);
        self.pidfile.iter().for_each(|file| hash.text(4, file));
        hash.account(5, &self.user);
        hash.account(7, &self.group);
        hash.text(9, &self.directory);
        hash.number(10, self.umask.into(), default.umask.into());
        for (name, value) in &self.envs {
            hash.text(11, name);
            hash.text(12, value);
        }
        self.limits.cpu.iter().for_each(|share| hash.number(13, (*share).into(), 0));
        self.limits.memory.iter().for_each(|bytes| hash.number(14, *bytes, u64::MAX));
        self.limits.tasks.iter().for_each(|tasks| hash.number(38, *tasks, 0));
        for (resource, value) in &self.limits.resources {
            hash.text(15, resource.key());
            hash.number(16, *value, u64::MAX);
        }
        hash.number(17, self.autostart.into(), default.autostart.into());
        hash.number(18, self.autorestart as u64, default.autorestart as u64);
        if self.exitcodes != default.exitcodes {
            hash.bytes(&[19]);
            hash.bytes(&self.exitcodes);
        }
        hash.time(20, Some(self.startsecs), Some(default.startsecs));
        hash.number(21, self.stopsignal.raw() as u64, default.stopsignal.raw() as u64);
        hash.time(22, Some(self.stopsecs), Some(default.stopsecs));
        hash.time(23, self.restartsecs, None);
        hash.time(24, self.windowsecs, None);
        self.retries.iter().for_each(|retries| hash.number(25, u64::from(*retries) + 1, 0));
        if let Some(check) = self.check.as_ref().filter(|_| whole) {
            check.exec.iter().for_each(|word| hash.text(26, word));
            hash.time(27, Some(check.interval), None);
            hash.time(28, Some(check.timeout), None);
            hash.number(29, check.retries.into(), 0);
        }
        if whole {
            hash.number(30, self.log_size, default.log_size);
        }
        hash.number(31, self.no_new_privs.into(), 0);
        self.capabilities.iter().for_each(|set| hash.number(32, *set, u64::MAX));
        hash.number(33, self.nice as u64, 0);
        hash.number(34, self.oom_score_adj as u64, 0);
        self.env_file.iter().for_each(|file| hash.text(35, file));
        hash.number(36, self.kill as u64, 0);
        self.runtime_directory.iter().for_each(|name| hash.text(37, name));
        match &self.reload {
            Some(Reload::Signal(sig)) => hash.number(39, sig.raw() as u64, 0),
            Some(Reload::Exec(program)) => hash.program(40, program),
            None => {}
        }
        hash.number(44, self.ambient_capabilities, 0);
        self.prestart.iter().for_each(|program| hash.program(42, program));
        hash.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Autorestart, Check, KillMode, Kind};
    use super::*;
    use crate::kernel::{Resource, Sig};

    /// A change of one key.
    type Change = fn(&mut Spec);

    #[test]
    fn every_key_but_the_name_changes_the_fingerprint() {
        let check = |retries| {
            let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(2));
            Some(Box::new(Check { exec: vec!["/bin/ping".into()], interval, timeout, retries }))
        };
        let spec = Spec { check: check(1), ..Spec::new("web", "1", vec!["/bin/web".into(), "-f".into()]) };
        let changes: [Change; 42] = [
            |spec| spec.version = "2".into(),
            |spec| spec.exec = vec!["/bin/web-f".into()],
            |spec| spec.kind = Kind::Forking,
            |spec| spec.kind = Kind::Notify,
            |spec| spec.pidfile = Some("/run/web.pid".into()),
            |spec| spec.user = Some(Account::Name("web".into())),
            |spec| spec.user = Some(Account::Id(0)),
            |spec| spec.group = Some(Account::Name("web".into())),
            |spec| spec.group = Some(Account::Id(1)),
            |spec| spec.directory = "/tmp".into(),
            |spec| spec.umask = 0,
            |spec| spec.envs = vec![("A".into(), "b".into())],
            |spec| spec.envs = vec![("A".into(), "".into()), ("b".into(), "".into())],
            |spec| spec.limits.cpu = Some(1000),
            |spec| spec.limits.memory = Some(1000),
            |spec| spec.limits.tasks = Some(1000),
            |spec| spec.limits.resources = vec![(Resource::Nofile, 1)],
            |spec| spec.limits.resources = vec![(Resource::Core, 1)],
            |spec| spec.autostart = false,
            |spec| spec.autorestart = Autorestart::Never,
            |spec| spec.exitcodes = vec![0, 1],
            |spec| spec.startsecs = Duration::ZERO,
            |spec| spec.stopsignal = Sig::KILL,
            |spec| spec.stopsecs = Duration::from_millis(10_001),
            |spec| spec.restartsecs = Some(Duration::from_secs(180)),
            |spec| spec.windowsecs = Some(Duration::from_secs(180)),
            |spec| spec.retries = Some(0),
            |spec| spec.check = None,
            |spec| spec.check.as_mut().expect("it is there").retries = 2,
            |spec| spec.log_size = 0,
            |spec| spec.no_new_privs = true,
            |spec| spec.capabilities = Some(0),
            |spec| spec.ambient_capabilities = 1,
            |spec| spec.nice = -1,
            |spec| spec.kill = KillMode::Mixed,
            |spec| spec.kill = KillMode::Main,
            |spec| spec.env_file = Some("/etc/default/web".into()),
            |spec| spec.oom_score_adj = -1,
            |spec| spec.reload = Some(Reload::Signal(Sig::HUP)),
            |spec| {
                let program = Program { exec: vec!["/bin/kill".into()], timeout: Duration::from_secs(1) };
                spec.prestart = Some(Box::new(program));
            },
            |spec| {
                let program = Program { exec: vec!["/bin/kill".into()], timeout: Duration::from_secs(1) };
                spec.reload = Some(Reload::Exec(Box::new(program)));
            },
            |spec| spec.runtime_directory = vec!["web".into()],
        ];
        let mut fingerprints = vec![spec.fingerprint(true)];
        for change in changes {
            let mut changed = spec.clone();
            change(&mut changed);
            fingerprints.push(changed.fingerprint(true));
        }
        let count = fingerprints.len();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        assert_eq!(fingerprints.len(), count, "two definitions have one fingerprint");
        assert_eq!(Spec { name: "other".into(), ..spec.clone() }.fingerprint(true), spec.fingerprint(true));
    }

    #[test]
    fn what_processes_do_not_depend_on_fits() {
        let spec = Spec::new("web", "1", vec!["/bin/web".into()]);
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(2));
        let check = Check { exec: vec!["/bin/ping".into()], interval, timeout, retries: 1 };
        let beside = Spec { log_size: 1, check: Some(Box::new(check)), ..spec.clone() };
        let other = Spec { nice: 1, ..beside.clone() };
        let by_1_0 = Fingerprints { process: None, ..spec.fingerprints() };
        for (started_with, now, fits) in [
            (spec.fingerprints(), &spec, true),
            (spec.fingerprints(), &beside, true),
            (beside.fingerprints(), &spec, true),
            (beside.fingerprints(), &other, false),
            (by_1_0, &spec, true),
            (by_1_0, &beside, false),
        ] {
            assert_eq!(started_with.fit(now), fits, "{now:?}");
        }
    }

    #[test]
    fn an_upgrade_of_the_daemon_changes_no_fingerprint() {
        // This number must never change: later versions read the run records of this one.
        let spec = Spec::new("web", "1", vec!["/bin/web".into()]);
        let number = 7_418_684_584_639_811_526;
        assert_eq!(spec.fingerprints(), Fingerprints { whole: number, process: Some(number) });
    }
}
