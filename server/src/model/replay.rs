//! Whether a report is new, recorded, or from a second machine with the same identity.
//!
//! `seq` rises with each report of a state directory. The greatest one is kept for each of the last eight boots.

/// The boots of a host, the current one last, each with the greatest `seq` seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boots(pub Vec<(String, i64)>);

/// The boots kept.
const KEPT: usize = 8;

/// What a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Newer than all before it.
    New,
    /// The first one of a new boot.
    Rebooted,
    /// Not greater than one that was taken: recorded and sent again.
    Replay,
    /// A former boot goes on: two machines share one identity.
    Clone,
}

impl Boots {
    /// Judges a report, and remembers it unless it is a replay. Without `seq` a former boot that comes back still tells
    /// of a clone.
    pub fn judge(&mut self, boot: &str, seq: Option<i64>) -> Verdict {
        let number = seq.unwrap_or(0);
        let Some(place) = self.0.iter().position(|(known, _)| known == boot) else {
            let first = self.0.is_empty();
            self.0.push((boot.to_string(), number));
            if self.0.len() > KEPT {
                self.0.remove(0);
            }
            return if first { Verdict::New } else { Verdict::Rebooted };
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_reports_and_clones_are_told_apart() {
        let mut boots = Boots::default();
        for (boot, seq, verdict) in [
            ("a", 1, Verdict::New),
            ("a", 2, Verdict::New),
            ("a", 2, Verdict::Replay),
            ("a", 1, Verdict::Replay),
            ("b", 1, Verdict::Rebooted),
            ("a", 2, Verdict::Replay),
            ("a", 3, Verdict::Clone),
            ("b", 2, Verdict::Clone),
        ] {
            assert_eq!(boots.judge(boot, Some(seq)), verdict, "{boot} {seq}");
        }
    }

    #[test]
    fn without_seq_nobody_is_locked_out() {
        let mut boots = Boots::default();
        assert_eq!(boots.judge("a", None), Verdict::New);
        assert_eq!(boots.judge("a", None), Verdict::New);
        assert_eq!(boots.judge("b", None), Verdict::Rebooted);
        assert_eq!(boots.judge("a", None), Verdict::Clone);
    }

    #[test]
    fn eight_boots_are_kept() {
        let mut boots = Boots::default();
        for n in 0..20 {
            boots.judge(&n.to_string(), Some(n));
        }
        assert_eq!(boots.0.len(), KEPT);
    }
}
