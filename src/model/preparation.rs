//! What is prepared on the host before a process of an agent is made.

use super::spec::{KillMode, Kind, Spec};

/// What is prepared for one process. A run has one, or two with a `prestart`, which comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// The socket by which it says that it is ready.
    pub notifications: bool,
    /// The place for the whole run, as it is the first process of it: its runtime directories are made, as a `prestart` finds
    /// them too and may put something in them, and the pid file of the last run is removed.
    pub place: bool,
    /// What is left of earlier runs is told from this one from now on, so that it is spared.
    pub spares: bool,
}

impl Preparation {
    /// For a start of the agent itself, or of its `prestart` alone.
    pub fn new(spec: &Spec, prestart: bool) -> Preparation {
        let first = prestart || spec.prestart.is_none();
        Preparation {
            notifications: spec.kind == Kind::Notify && !prestart,
            place: first,
            spares: first && spec.kill == KillMode::Main,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::spec::Program;

    #[test]
    fn the_first_process_of_a_run_finds_all_in_place() {
        let program = Program { exec: vec!["/bin/true".into()], timeout: Duration::from_secs(1) };
        for (kind, kill, has_prestart, is_prestart, want) in [
            (Kind::Simple, KillMode::Tree, false, false, "place"),
            (Kind::Simple, KillMode::Main, false, false, "place spares"),
            (Kind::Forking, KillMode::Mixed, false, false, "place"),
            (Kind::Notify, KillMode::Main, false, false, "notifications place spares"),
            (Kind::Notify, KillMode::Main, true, true, "place spares"),
            (Kind::Notify, KillMode::Main, true, false, "notifications"),
            (Kind::Simple, KillMode::Main, true, false, ""),
        ] {
            let mut spec = Spec::new("web", "1", vec!["/bin/agent".into()]);
            (spec.kind, spec.kill) = (kind, kill);
            spec.prestart = has_prestart.then(|| Box::new(program.clone()));
            let Preparation { notifications, place, spares } = Preparation::new(&spec, is_prestart);
            let got = [(notifications, "notifications"), (place, "place"), (spares, "spares")];
            let got: Vec<&str> = got.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
            assert_eq!(got.join(" "), want, "{kind:?} {kill:?} {has_prestart} {is_prestart}");
        }
    }
}
