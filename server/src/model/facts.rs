//! What a list of hosts is sorted and counted by. It is stored with the host when it changes, so that lists need no look at
//! whole reports.

use super::host::{Freshness, State};

/// What the last report says of a host, in short.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `ID VERSION_ID`.
    pub os: String,
    /// The architecture.
    pub arch: String,
    /// Of bootagent itself.
    pub version: String,
    /// How many of its agents are `fatal` or `killed`.
    pub down: i64,
    /// Whether its clock is more than [`SKEW_MAX`] off.
    pub clock_wrong: bool,
    /// How long it has been silent: set to on time by a report, and on by the server as time passes.
    pub fresh: Freshness,
}

/// Seconds by which a host's clock may be off.
pub const SKEW_MAX: i64 = 120;

impl Facts {
    /// The facts of a report that has just come. `version` is the whole `bootagent-VERSION-ARCH`.
    pub fn of<'a>(version: &str, os: &str, statuses: impl Iterator<Item = &'a str>, skew: i64) -> Facts {
        let (version, arch) = super::host::split_version(version);
        let down = statuses.filter(|status| is_down(status)).count();
        let down = i64::try_from(down).unwrap_or(i64::MAX);
        let clock_wrong = skew.saturating_abs() > SKEW_MAX;
        Facts { os: os.to_string(), arch, version, down, clock_wrong, fresh: Freshness::OnTime }
    }
}

/// Whether an agent in this status needs somebody: `stoped` is what somebody asked for.
pub fn is_down(status: &str) -> bool {
    matches!(status, "fatal" | "killed")
}

/// An agent as the hot row has it: a line of name, status and version.
pub fn agent_line(name: &str, status: &str, version: &str) -> String {
    let clean = |text: &str| text.replace(char::is_control, " ");
    format!("{}\t{status}\t{}\n", clean(name), clean(version))
}

/// Name, status and version of such a line. Rows of an earlier server have a blank in the place of tabs, and no version.
pub fn read_agent_line(line: &str) -> Option<(&str, &str, &str)> {
    let Some((name, rest)) = line.split_once('\t') else {
        return line.rsplit_once(' ').map(|(name, status)| (name, status, ""));
    };
    rest.split_once('\t').map(|(status, version)| (name, status, version))
}

/// How urgently a host needs somebody: lists show the highest first; 0 is fine, below are those that nobody waits for.
pub fn trouble(state: State, facts: &Facts, reason: &str) -> i64 {
    match (state, facts.fresh) {
        (State::Conflict, _) => 60,
        (State::Rejected | State::Retired, _) => -10,
        (State::Accepted, Freshness::Lost | Freshness::Never) => 50,
        (State::Accepted, _) if facts.down > 0 => 40,
        (State::Accepted, Freshness::Late) => 30,
        (State::Pending, _) => 20,
        _ if facts.clock_wrong || !reason.is_empty() => 10,
        (State::Accepted, Freshness::OnTime) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_comes_back_as_it_was() {
        let line = agent_line("a b\tc\n", "running", "1 2");
        assert_eq!(line.lines().count(), 1);
        assert_eq!(read_agent_line(line.trim_end_matches('\n')), Some(("a b c ", "running", "1 2")));
        assert_eq!(read_agent_line("web one fatal"), Some(("web one", "fatal", "")));
        assert_eq!(read_agent_line("x"), None);
    }

    #[test]
    fn the_worst_comes_first() {
        let fine = Facts::of("bootagent-1.1.0-x86_64", "debian 12", ["running", "stoped"].into_iter(), 120);
        assert_eq!(
            (fine.version.as_str(), fine.arch.as_str(), fine.down, fine.clock_wrong),
            ("1.1.0", "x86_64", 0, false)
        );
        let down = Facts { down: 1, ..fine.clone() };
        let late = Facts { fresh: Freshness::Late, ..down.clone() };
        let lost = Facts { fresh: Freshness::Lost, ..down.clone() };
        let clock = Facts { clock_wrong: true, ..fine.clone() };
        let order = [
            trouble(State::Conflict, &fine, "two machines"),
            trouble(State::Accepted, &lost, ""),
            trouble(State::Accepted, &late, ""),
            trouble(State::Accepted, &Facts { down: 0, ..late.clone() }, ""),
            trouble(State::Pending, &lost, ""),
            trouble(State::Accepted, &clock, ""),
            trouble(State::Accepted, &fine, ""),
            trouble(State::Retired, &lost, "replaced"),
        ];
        assert!(order.windows(2).all(|pair| pair[0] > pair[1]), "{order:?}");
        assert_eq!(trouble(State::Accepted, &fine, "a namesake"), trouble(State::Accepted, &clock, ""));
    }
}
