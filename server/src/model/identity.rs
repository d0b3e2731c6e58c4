//! Who may speak for which host, and what a new host becomes.

use super::host::State;

/// A key that hosts sign with: all of a group, or one host only.
#[derive(Clone, Debug)]
pub struct Key {
    /// What `X-BootAgent-Key` says.
    pub id: String,
    /// The secret itself, as the line of the key file has it.
    pub secret: String,
    /// The group it leads to.
    pub group: String,
    /// The name of the host that it is for; `None`: any host may have it.
    pub host: Option<String>,
    /// The identity of the host that it is bound to: the first one of that name that signed with it.
    pub bound_sn: Option<String>,
    /// Whether new hosts that sign with it are accepted at once.
    pub auto_accept: bool,
    /// When it was made.
    pub created: i64,
    /// When it was revoked.
    pub revoked: Option<i64>,
}

/// A host that is known, as far as keys are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its group.
    pub group: &'a str,
    /// The key that it signed with last; `None`: it never signed.
    pub key: Option<&'a Key>,
}

/// Whether a key may speak for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// It may.
    May,
    /// It may, and the key is bound to this host from now on.
    Binds,
    /// It may not, and why.
    MayNot(String),
}

/// Judges whether a report that was signed with `key` may speak for the host with the identity `sn`, which calls itself
/// `name`. `key` is `None` for an unsigned report, `known` for a host that is new.
pub fn judge_key(known: Option<Known>, key: Option<&Key>, sn: &str, name: &str) -> Speech {
    let Some(key) = key else {
        return match known.and_then(|known| known.key) {
            None => Speech::May,
            Some(_) => Speech::MayNot(format!("{name}: unsigned, and it has a key")),
        };
    };
    if let Some(former) = known.and_then(|known| key_that_prevails(known, key)) {
        return Speech::MayNot(format!("{name} was taken with key {}, and this is key {}", former.id, key.id));
    }
    let Some(wanted) = &key.host else { return Speech::May };
    match &key.bound_sn {
        Some(bound) if bound == sn => Speech::May,
        Some(_) => Speech::MayNot(format!("key {} is bound to another machine", key.id)),
        None if known.is_some_and(|known| known.group != key.group) => {
            Speech::MayNot(format!("key {} is of another group", key.id))
        }
        None if wanted != name => Speech::MayNot(format!("key {} is for host \"{wanted}\"", key.id)),
        None => Speech::Binds,
    }
}

/// The former key of a host, where `key` may not take its place. A key of the same group may, as a group has two active keys
/// while its hosts change to the next one. So may a key of the group that somebody moved the host to. But where the former
/// key is for this host alone, a key that many hosts have may not.
fn key_that_prevails<'a>(known: Known<'a>, key: &Key) -> Option<&'a Key> {
    let former = known.key.filter(|former| former.id != key.id)?;
    let is_of_its_group = key.group == former.group || key.group == known.group;
    let may_follow = is_of_its_group && (former.host.is_none() || key.host.is_some());
    (!may_follow).then_some(former)
}

/// A new host, and an older one of the same name that has sent nothing since the new one came.
#[derive(Clone, Copy, Debug)]
pub struct Successor<'a> {
    /// The older one.
    pub old: Known<'a>,
    /// The new one.
    pub new: Known<'a>,
    /// The state of the new one.
    pub state: State,
    /// Whether the older one's group has hosts replaced by rule.
    pub by_rule: bool,
}

impl Successor<'_> {
    /// Whether the new host takes the old one's place by rule, and nobody is asked. Only within one group: a name is
    /// what a host says of itself, and whoever has the key of one group must not get into another by it. For the same
    /// reason its key must be one that may speak for the old host.
    pub fn replaces(&self) -> bool {
        let may_have_jobs = matches!(self.state, State::Accepted | State::Pending);
        let may_speak = match (self.old.key, self.new.key) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(key)) => key_that_prevails(self.old, key).is_none(),
        };
        self.by_rule && may_have_jobs && may_speak && self.old.group == self.new.group
    }
}

/// What becomes of a host that nobody knows yet; `None`: it is turned away. `auto_accept`: its key accepts hosts at once;
/// `room`: whether one more may wait for a decision.
pub fn enrol(auto_accept: bool, room: impl FnOnce() -> bool) -> Option<State> {
    match auto_accept {
        true => Some(State::Accepted),
        false => room().then_some(State::Pending),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, group: &str, host: Option<&str>, bound: Option<&str>) -> Key {
        let text = |word: &str| word.to_string();
        Key {
            id: text(id),
            secret: String::new(),
            group: text(group),
            host: host.map(text),
            bound_sn: bound.map(text),
            auto_accept: false,
            created: 0,
            revoked: None,
        }
    }

    #[test]
    fn who_may_speak_for_a_host() {
        let (one, two) = (key("one", "web", None, None), key("two", "web", None, None));
        let other = key("other", "db", None, None);
        let own = key("own", "web", Some("web-01"), None);
        let bound = key("bound", "web", Some("web-01"), Some("sn-1"));
        let away = key("away", "web", Some("web-01"), Some("sn-2"));
        let foreign = key("foreign", "db", Some("web-01"), None);
        let named = key("named", "web", Some("web-02"), None);
        let known = |key| Some(Known { group: "web", key });
        // (the host as it is known, the key that signed, what follows: m may, b binds, - may not)
        for (case, host, signer, wanted) in [
            ("a new host, unsigned", None, None, "m"),
            ("a new host, signed", None, Some(&one), "m"),
            ("one that never signed, unsigned", known(None), None, "m"),
            ("one that never signed, signed", known(None), Some(&one), "m"),
            ("one with a key, unsigned", known(Some(&one)), None, "-"),
            ("the same key", known(Some(&one)), Some(&one), "m"),
            ("the next key of its group", known(Some(&one)), Some(&two), "m"),
            ("a key of another group", known(Some(&one)), Some(&other), "-"),
            ("a key for it alone, the first time", None, Some(&own), "b"),
            ("the same on a host with the group's key", known(Some(&one)), Some(&own), "b"),
            ("a key that is bound to it", known(Some(&bound)), Some(&bound), "m"),
            ("a key that is bound to another", None, Some(&away), "-"),
            ("a key for it alone, of another group", known(None), Some(&foreign), "-"),
            ("a key for another name", None, Some(&named), "-"),
            ("the group's key on a host with its own", known(Some(&bound)), Some(&one), "-"),
            ("its next own key", known(Some(&bound)), Some(&own), "b"),
        ] {
            let found = match judge_key(host, signer, "sn-1", "web-01") {
                Speech::May => "m",
                Speech::Binds => "b",
                Speech::MayNot(_) => "-",
            };
            assert_eq!(found, wanted, "{case}");
        }
    }

    #[test]
    fn a_host_that_was_moved_may_take_a_key_of_its_new_group() {
        let (old, new, other) =
            (key("old", "db", None, None), key("new", "web", None, None), key("x", "app", None, None));
        let moved = Some(Known { group: "web", key: Some(&old) });
        assert_eq!(judge_key(moved, Some(&new), "sn-1", "web-01"), Speech::May);
        assert_eq!(judge_key(moved, Some(&old), "sn-1", "web-01"), Speech::May, "until it has the other one");
        assert!(matches!(judge_key(moved, Some(&other), "sn-1", "web-01"), Speech::MayNot(_)));
    }

    #[test]
    fn a_place_is_taken_by_rule_within_one_group_only() {
        let (web, next, db) =
            (key("web", "web", None, None), key("next", "web", None, None), key("db", "db", None, None));
        let own = key("own", "web", Some("web-01"), Some("sn-1"));
        let known = |group, key| Known { group, key };
        let old = known("web", Some(&web));
        for (case, old, new, state, by_rule, wanted) in [
            ("the same key", old, known("web", Some(&web)), State::Accepted, true, true),
            ("another key of the group", old, known("web", Some(&next)), State::Pending, true, true),
            ("no rule", old, known("web", Some(&web)), State::Accepted, false, false),
            ("a key of another group", old, known("db", Some(&db)), State::Accepted, true, false),
            ("of this group, with a key of another", old, known("web", Some(&db)), State::Accepted, true, false),
            ("moved away, with a key of this group", old, known("db", Some(&web)), State::Accepted, true, false),
            ("of another group, neither signs", known("web", None), known("db", None), State::Accepted, true, false),
            ("unsigned", old, known("web", None), State::Accepted, true, false),
            ("neither signs", known("web", None), known("web", None), State::Accepted, true, true),
            (
                "one with a key of its own",
                known("web", Some(&own)),
                known("web", Some(&web)),
                State::Accepted,
                true,
                false,
            ),
            ("a rejected one", old, known("web", Some(&web)), State::Rejected, true, false),
            ("two machines", old, known("web", Some(&web)), State::Conflict, true, false),
        ] {
            assert_eq!(Successor { old, new, state, by_rule }.replaces(), wanted, "{case}");
        }
    }

    #[test]
    fn a_new_host_waits_unless_its_key_accepts_it() {
        assert_eq!(enrol(true, || false), Some(State::Accepted));
        assert_eq!(enrol(false, || true), Some(State::Pending));
        assert_eq!(enrol(false, || false), None);
    }
}
