//! Whether a report is new, recorded, or from a second machine with the same identity.
//!
//! `seq` rises with each report of a state directory. The greatest one is kept for each of the last eight boots. Agents
//! of 1.0.0 have none: of them the last nonces are kept.

use super::host::State;

/// The boots of a host, the current one last, each with the greatest `seq` seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boots(pub Vec<(String, i64)>);

/// The last nonces of a host whose reports have no `seq`, the newest last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nonces(pub Vec<String>);

/// The boots kept.
const BOOTS: usize = 8;
/// The nonces kept.
const NONCES: usize = 64;

/// What tells one report from another.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// `boot_id`; a basic agent has none.
    pub boot: Option<&'a str>,
    /// `seq`; agents of 1.0.0 have none.
    pub seq: Option<i64>,
    /// `X-BootAgent-Nonce`; empty where nothing is signed.
    pub nonce: &'a str,
}

/// What a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Newer than all before it.
    New,
    /// The first one of a new boot.
    Rebooted,
    /// Not greater than one that was taken: recorded and sent again.
    Replay,
    /// Without `seq`, and its nonce was seen: perhaps recorded. It is flagged, and nobody is locked out.
    Suspect,
    /// A former boot goes on: two machines share one identity.
    Clone,
}

/// Judges a report, and remembers it unless it is a replay.
pub fn judge(boots: &mut Boots, nonces: &mut Nonces, mark: &Mark) -> Verdict {
    if mark.seq.is_none() && !mark.nonce.is_empty() && !nonces.is_fresh(mark.nonce) {
        return Verdict::Suspect;
    }
    mark.boot.map_or(Verdict::New, |boot| boots.judge(boot, mark.seq))
}

/// The state of a host after a report that was judged; `None`: the report counts for nothing.
pub fn next_state(state: State, verdict: Verdict) -> Option<State> {
    match (verdict, state) {
        (Verdict::Replay, _) => None,
        (Verdict::Clone, State::Accepted | State::Pending | State::Conflict) => Some(State::Conflict),
        (Verdict::Clone, State::Rejected | State::Retired)
        | (Verdict::New | Verdict::Rebooted | Verdict::Suspect, _) => Some(state),
    }
}

impl Boots {
    /// Without `seq` a former boot that comes back still tells of a clone.
    fn judge(&mut self, boot: &str, seq: Option<i64>) -> Verdict {
        let Some(place) = self.0.iter().position(|(known, _)| known == boot) else {
            let first = self.0.is_empty();
            self.0.push((boot.to_string(), seq.unwrap_or(0)));
            if self.0.len() > BOOTS {
                self.0.remove(0);
            }
            return if first { Verdict::New } else { Verdict::Rebooted };
        };
        // An agent that was set back to 1.0.0 must not make its recorded reports good again.
        let number = seq.unwrap_or(self.0[place].1);
        if seq.is_some() && number <= self.0[place].1 {
            return Verdict::Replay;
        }
        self.0[place].1 = number;
        if place + 1 == self.0.len() {
            return Verdict::New;
        }
        let former = self.0.remove(place);
        self.0.push(former);
        Verdict::Clone
    }
}

impl Nonces {
    /// Whether a nonce is none of the last ones; then it is remembered.
    fn is_fresh(&mut self, nonce: &str) -> bool {
        if self.0.iter().any(|known| known == nonce) {
            return false;
        }
        self.0.push(nonce.to_string());
        let first = self.0.len().saturating_sub(NONCES);
        self.0.drain(..first);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges reports one after the other, each with a nonce of its own.
    fn judge_all(reports: &[(&str, Option<i64>, Verdict)]) -> Boots {
        let (mut boots, mut nonces) = (Boots::default(), Nonces::default());
        for (place, (boot, seq, verdict)) in reports.iter().enumerate() {
            let nonce = place.to_string();
            let mark = Mark { boot: Some(boot), seq: *seq, nonce: &nonce };
            assert_eq!(judge(&mut boots, &mut nonces, &mark), *verdict, "report {place}: {boot} {seq:?}");
        }
        boots
    }

    #[test]
    fn recorded_reports_and_clones_are_told_apart() {
        judge_all(&[
            ("a", Some(1), Verdict::New),
            ("a", Some(2), Verdict::New),
            ("a", Some(2), Verdict::Replay),
            ("a", Some(1), Verdict::Replay),
            ("b", Some(1), Verdict::Rebooted),
            ("a", Some(2), Verdict::Replay),
            ("a", Some(3), Verdict::Clone),
            ("b", Some(2), Verdict::Clone),
        ]);
    }

    #[test]
    fn without_seq_nobody_is_locked_out() {
        judge_all(&[
            ("a", None, Verdict::New),
            ("a", None, Verdict::New),
            ("b", None, Verdict::Rebooted),
            ("a", None, Verdict::Clone),
        ]);
    }

    #[test]
    fn an_older_agent_in_the_same_boot_does_not_open_the_way_to_replays() {
        judge_all(&[
            ("a", Some(9), Verdict::New),
            ("a", None, Verdict::New),
            ("a", Some(5), Verdict::Replay),
            ("a", Some(10), Verdict::New),
        ]);
    }

    #[test]
    fn eight_boots_are_kept() {
        let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let verdict = |place| if place == 0 { Verdict::New } else { Verdict::Rebooted };
        let reports: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), Some(1), verdict(n))).collect();
        assert_eq!(judge_all(&reports).0.len(), BOOTS);
    }

    #[test]
    fn a_nonce_is_known_for_64_reports() {
        let (mut boots, mut nonces) = (Boots::default(), Nonces::default());
        let mut say = |nonce: &str| {
            let mark = Mark { boot: Some("a"), seq: None, nonce };
            judge(&mut boots, &mut nonces, &mark)
        };
        for number in 0..=64 {
            assert_eq!(say(&number.to_string()), Verdict::New);
        }
        assert_eq!(say("1"), Verdict::Suspect, "the oldest of the last 64");
        assert_eq!(say("0"), Verdict::New, "the one before them");
    }

    #[test]
    fn a_recorded_report_of_a_former_boot_makes_no_conflict() {
        let (mut boots, mut nonces) = (Boots::default(), Nonces::default());
        let mut say = |boot, nonce| judge(&mut boots, &mut nonces, &Mark { boot: Some(boot), seq: None, nonce });
        assert_eq!(say("a", "1"), Verdict::New);
        assert_eq!(say("b", "2"), Verdict::Rebooted);
        assert_eq!(say("a", "1"), Verdict::Suspect);
        assert_eq!(say("b", "3"), Verdict::New);
    }

    #[test]
    fn only_a_clone_changes_the_state() {
        use State::{Accepted, Conflict, Pending, Rejected, Retired};
        for state in [Pending, Accepted, Rejected, Retired, Conflict] {
            assert_eq!(next_state(state, Verdict::Replay), None);
            for verdict in [Verdict::New, Verdict::Rebooted, Verdict::Suspect] {
                assert_eq!(next_state(state, verdict), Some(state));
            }
            let after_clone = if matches!(state, Rejected | Retired) { state } else { Conflict };
            assert_eq!(next_state(state, Verdict::Clone), Some(after_clone), "{state:?}");
        }
    }
}
