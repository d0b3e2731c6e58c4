//! A host as the server sees it: identity and state, freshness, and what is told about it.

pub use super::gaps::Gaps;
use std::collections::BTreeMap;

/// Whether a host may have jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Seen, and nobody has decided yet.
    Pending,
    /// Gets jobs.
    Accepted,
    /// Was refused; it is remembered so that it is not asked about again.
    Rejected,
    /// Gone for good; comes back only by `accept`.
    Retired,
    /// Two machines speak as one: nobody gets jobs.
    Conflict,
}

impl State {
    /// The word for it in the database, filters and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Accepted => "accepted",
            State::Rejected => "rejected",
            State::Retired => "retired",
            State::Conflict => "conflict",
        }
    }

    /// The state of a word; what is not known is held back as `pending`.
    pub fn parse(word: &str) -> State {
        match word {
            "accepted" => State::Accepted,
            "rejected" => State::Rejected,
            "retired" => State::Retired,
            "conflict" => State::Conflict,
            _ => State::Pending,
        }
    }
}

/// How long a host has been silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Within three steps.
    OnTime,
    /// More than three steps.
    Late,
    /// Longer than its group allows.
    Lost,
    /// No report at all.
    #[default]
    Never,
}

impl Freshness {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Freshness::OnTime => "on-time",
            Freshness::Late => "late",
            Freshness::Lost => "lost",
            Freshness::Never => "never",
        }
    }

    /// The freshness of a word.
    pub fn parse(word: &str) -> Freshness {
        match word {
            "on-time" => Freshness::OnTime,
            "late" => Freshness::Late,
            "lost" => Freshness::Lost,
            _ => Freshness::Never,
        }
    }
}

/// Why a new host gets nothing yet; what to do follows it.
pub const UNDECIDED: &str = "new: waits for a decision, and gets no jobs until then";

/// Seconds from `since` to `now` in which the server could hear.
pub fn heard(since: i64, now: i64, gaps: &Gaps) -> i64 {
    let deaf: i64 = gaps.iter().map(|gap| (gap.to.min(now) - gap.from.max(since)).max(0)).sum();
    (now - since - deaf).max(0)
}

/// A span in one unit: `45 s`, `3 min`, `2 h`, `5 days`.
pub fn span(seconds: i64) -> String {
    let one = |count: i64, unit: &str| format!("{count} {unit}");
    match seconds.max(0) {
        s @ 0..=90 => one(s, "s"),
        s @ 91..=5_399 => one((s + 30) / 60, "min"),
        s @ 5_400..=172_799 => one((s + 1_800) / 3_600, "h"),
        s => one((s + 43_200) / 86_400, "days"),
    }
}

/// Judges the silence of a host. `lost_after` is its group's setting.
pub fn freshness(seen: Option<i64>, step: i64, lost_after: i64, now: i64, gaps: &Gaps) -> Freshness {
    let Some(seen) = seen else { return Freshness::Never };
    let silence = heard(seen, now, gaps);
    if silence > lost_after.max(3 * step) {
        Freshness::Lost
    } else if silence > 3 * step {
        Freshness::Late
    } else {
        Freshness::OnTime
    }
}

/// One agent in a view of a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentView {
    /// Its name.
    pub name: String,
    /// The version it reports.
    pub version: String,
    /// `stoped`, `running`, `fatal` or `killed`, as on the wire.
    pub status: String,
}

/// What filters look at and lists show.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The identity; a name never is.
    pub sn: String,
    /// The name it reports.
    pub name: String,
    /// The group it belongs to.
    pub group: String,
    /// `State` as a word.
    pub state: String,
    /// How long it has been silent.
    pub freshness: Freshness,
    /// `ID VERSION_ID`.
    pub os: String,
    /// From the version string.
    pub arch: String,
    /// Of bootagent itself.
    pub version: String,
    /// What the host claims, overlaid by what was set on the server.
    pub labels: BTreeMap<String, String>,
    /// The labels set on the server alone.
    pub own_labels: BTreeMap<String, String>,
    /// When the last report came.
    pub seen: Option<i64>,
    /// Its reported interval.
    pub step: i64,
    /// Where the last report came from.
    pub peer: String,
    /// Its agents.
    pub agents: Vec<AgentView>,
    /// Whether its clock is more than two minutes off.
    pub clock_wrong: bool,
    /// Why it is as it is, and what to do.
    pub reason: String,
    /// Why its versions are to stay as they are, where it is pinned; may be empty.
    pub pinned: Option<String>,
}

/// `1.1.0` and `x86_64` of `bootagent-1.1.0-x86_64`.
pub fn split_version(version: &str) -> (String, String) {
    let rest = version.strip_prefix("bootagent-").unwrap_or(version);
    match rest.rsplit_once('-') {
        Some((version, arch)) => (version.to_string(), arch.to_string()),
        None => (rest.to_string(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gaps::Gap;
    use super::*;

    #[test]
    fn silence_is_judged_by_steps() {
        let judge = |age| freshness(Some(0), 10, 1000, age, &[]);
        assert_eq!(judge(30), Freshness::OnTime);
        assert_eq!(judge(31), Freshness::Late);
        assert_eq!(judge(1000), Freshness::Late);
        assert_eq!(judge(1001), Freshness::Lost);
        assert_eq!(freshness(None, 10, 1000, 5, &[]), Freshness::Never);
    }

    #[test]
    fn nothing_ages_while_the_server_is_down() {
        let down = [Gap { from: 10, to: 90 }];
        assert_eq!(heard(0, 100, &down), 20);
        assert_eq!(heard(50, 100, &down), 10);
        assert_eq!(heard(95, 100, &down), 5);
    }

    #[test]
    fn the_version_names_the_arch() {
        assert_eq!(split_version("bootagent-1.1.0-rc1-armv7"), ("1.1.0-rc1".into(), "armv7".into()));
    }
}
