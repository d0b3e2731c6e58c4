//! A number that stands for a whole definition, so that a later daemon can tell whether a running agent was started by
//! the one that counts now.
//!
//! Only what differs from the default goes into it, each value after a key of its own that never changes: so a version of
//! this program that knows more keys makes the same number of the same text, and an upgrade restarts no agent.

use std::time::Duration;

use super::{Account, Spec};

/// FNV-1a over keys, lengths and values: nobody gains by making two definitions alike.
struct Fingerprint(u64);

impl Fingerprint {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, key: u8, value: u64, usual: u64) {
        if value != usual {
            self.bytes(&[key]);
            self.bytes(&value.to_le_bytes());
        }
    }

    fn text(&mut self, key: u8, text: &str) {
        self.bytes(&[key]);
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn time(&mut self, key: u8, time: Option<Duration>, usual: Option<Duration>) {
        if let Some(time) = time.filter(|time| Some(*time) != usual) {
            self.bytes(&[key]);
            self.bytes(&(time.as_nanos() as u64).to_le_bytes());
        }
    }

    fn account(&mut self, key: u8, account: &Option<Account>) {
        match account {
            Some(Account::Name(name)) => self.text(key, name),
            Some(Account::Id(id)) => self.number(key + 1, u64::from(*id) + 1, 0),
            None => {}
        }
    }
}

impl Spec {
    /// The number of this definition: another one for any that differs in anything but the name.
    pub fn fingerprint(&self) -> u64 {
        let usual = Spec::new("", "", Vec::new());
        let mut mark = Fingerprint(0xcbf2_9ce4_8422_2325);
        mark.text(1, &self.version);
        self.exec.iter().for_each(|word| mark.text(2, word));
        mark.number(3, self.kind as u64, usual.kind as u64);
        self.pidfile.iter().for_each(|file| mark.text(4, file));
        mark.account(5, &self.user);
        mark.account(7, &self.group);
        mark.text(9, &self.directory);
        mark.number(10, self.umask.into(), usual.umask.into());
        for (name, value) in &self.envs {
            mark.text(11, name);
            mark.text(12, value);
        }
        self.limits.cpu.iter().for_each(|share| mark.number(13, (*share).into(), 0));
        self.limits.memory.iter().for_each(|bytes| mark.number(14, *bytes, u64::MAX));
        for (resource, value) in &self.limits.resources {
            mark.text(15, resource.key());
            mark.number(16, *value, u64::MAX);
        }
        mark.number(17, self.autostart.into(), usual.autostart.into());
        mark.number(18, self.autorestart as u64, usual.autorestart as u64);
        if self.exitcodes != usual.exitcodes {
            mark.bytes(&[19]);
            mark.bytes(&self.exitcodes);
        }
        mark.time(20, Some(self.startsecs), Some(usual.startsecs));
        mark.number(21, self.stopsignal.raw() as u64, usual.stopsignal.raw() as u64);
        mark.time(22, Some(self.stopsecs), Some(usual.stopsecs));
        mark.time(23, self.restartsecs, None);
        mark.time(24, self.windowsecs, None);
        self.retries.iter().for_each(|retries| mark.number(25, u64::from(*retries) + 1, 0));
        if let Some(check) = &self.check {
            check.exec.iter().for_each(|word| mark.text(26, word));
            mark.time(27, Some(check.interval), None);
            mark.time(28, Some(check.timeout), None);
            mark.number(29, check.retries.into(), 0);
        }
        mark.number(30, self.log_size, usual.log_size);
        mark.number(31, self.no_new_privs.into(), 0);
        self.capabilities.iter().for_each(|set| mark.number(32, *set, u64::MAX));
        mark.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Autorestart, Check, Kind};
    use super::*;
    use crate::kernel::{Resource, Sig};

    /// One change of one key.
    type Change = fn(&mut Spec);

    #[test]
    fn every_key_counts_and_the_name_does_not() {
        let check = |retries| {
            let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(2));
            Some(Box::new(Check { exec: vec!["/bin/ping".into()], interval, timeout, retries }))
        };
        let spec = Spec { check: check(1), ..Spec::new("web", "1", vec!["/bin/web".into(), "-f".into()]) };
        let changes: [Change; 30] = [
            |spec| spec.version = "2".into(),
            |spec| spec.exec = vec!["/bin/web-f".into()],
            |spec| spec.kind = Kind::Forking,
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
        ];
        let mut marks = vec![spec.fingerprint()];
        for change in changes {
            let mut changed = spec.clone();
            change(&mut changed);
            marks.push(changed.fingerprint());
        }
        let count = marks.len();
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), count, "two definitions are alike");
        assert_eq!(Spec { name: "other".into(), ..spec.clone() }.fingerprint(), spec.fingerprint());
    }

    #[test]
    fn an_upgrade_of_this_program_changes_no_mark() {
        // Written down for good: a run record of today is read by the daemons of tomorrow.
        let spec = Spec::new("web", "1", vec!["/bin/web".into()]);
        assert_eq!(spec.fingerprint(), 7_418_684_584_639_811_526);
    }
}
