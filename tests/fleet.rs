//! A whole fleet on one machine. First a simulation with the real `model::state` and its timing: what a hundred thousand
//! hosts do to their servers when nothing happens, when all reboot at once, when servers are gone, and when all get a job.
//! Then real daemons with the smallest server, killed at random; every job must get its result.
//!
//! `make fleet` runs it in full and updates docs/fleet.md; without `FLEET_HOSTS` and `FLEET_DAEMONS` there are fewer.
//! `FLEET_PAGE=docs/fleet.md` writes the numbers into that page and the plots beside it.

mod util;
#[path = "fleet/daemons.rs"]
mod daemons;
#[path = "fleet/plot.rs"]
mod plot;
#[path = "fleet/servers.rs"]
mod servers;
#[path = "fleet/simulation.rs"]
mod simulation;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use plot::{renew, renew_row, Plot};
use servers::{Mode, Server};
use simulation::{Fleet, Plan};

const HOUR: u64 = 3600;

/// Everything happens an hour after the first start.
const EVENT: u64 = HOUR;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn page() -> Option<PathBuf> {
    std::env::var_os("FLEET_PAGE").map(PathBuf::from)
}

fn plan() -> Plan {
    Plan { hosts: number("FLEET_HOSTS").unwrap_or(2000) as u32, step: 600, splay: 30 }
}

/// Three servers that can take everything.
fn wide() -> Vec<Server> {
    (0..3).map(|_| Server::new(1e6)).collect()
}

/// What `rate` may be exceeded by, per second over ten seconds, by chance alone: five standard deviations.
fn chance(rate: f64) -> f64 {
    5.0 * (rate * 10.0).sqrt() / 10.0
}

/// Asserts that a rate over ten seconds is no higher than `limit`, but for chance.
fn at_most(rate: f64, limit: f64, what: &str) {
    assert!(rate <= limit + chance(limit), "{what}: {rate:.1} per second, want {limit:.1} at most");
}

/// Writes a scenario's row and plot, where there is a page for them.
fn tell(mark: &str, title: &str, fleet: &Fleet, to: u64, levels: &[(&str, f64)], extra: &str) {
    let plan = plan();
    let requests = &fleet.requests;
    let (peak, wide) = (requests.peak(EVENT, to, 1), requests.peak(EVENT, to, 10));
    let settled = requests.settles(EVENT, to, 1.5 * plan.steady());
    let row = format!(
        "| {title} | {peak:.0} | {wide:.0} | {:.0} | {} | {extra} <!-- {mark} --> |",
        requests.mean(EVENT, to),
        if settled > to - EVENT - 61 { "-".to_string() } else { format!("{} min", settled.div_ceil(60)) },
    );
    println!("{row}");
    let Some(page) = page() else { return };
    renew_row(&page, mark, &row);
    let begin = EVENT - 600;
    let means = |series: &simulation::Series| -> Vec<(f64, f64)> {
        let minutes = |second: u64| (second as f64 - EVENT as f64 + 5.0) / 60.0;
        (begin..to - 10).step_by(10).map(|at| (minutes(at), series.mean(at, at + 10))).collect()
    };
    let lines = vec![("requests", means(requests)), ("answered well", means(&fleet.served))];
    let levels = levels.iter().map(|(name, level)| (name.to_string(), *level)).collect();
    let x = "minutes after the event";
    let plot = Plot { title, x, y: "per second, mean of 10 s", lines, levels };
    let file = page.with_file_name(format!("{mark}.svg"));
    std::fs::write(file, plot.svg()).expect("the directory of the page");
}

#[test]
fn a_quiet_fleet_is_even() {
    let plan = plan();
    let mut fleet = Fleet::new(plan, wide());
    let end = EVENT + 2 * HOUR;
    fleet.run(end);
    at_most(fleet.requests.peak(EVENT, end, 10), 1.3 * plan.steady(), "the peak");
    let mean = fleet.requests.mean(EVENT, end);
    assert!((mean / plan.steady() - 1.0).abs() < 0.01, "{mean} per second, want {}", plan.steady());
    tell("fleet-quiet", "Nothing happens", &fleet, end, &[("hosts / step", plan.steady())], "");
}

#[test]
fn a_common_reboot_is_spread_over_the_splay_and_does_not_echo_for_long() {
    let plan = plan();
    let mut fleet = Fleet::new(plan, wide());
    fleet.run(EVENT);
    fleet.listen();
    fleet.reboot();
    let end = EVENT + 5 * HOUR;
    fleet.run(end);
    let requests = &fleet.requests;
    at_most(requests.peak(EVENT, end, 10), plan.bound(), "the peak");
    let echo = |hours: f64| requests.peak(EVENT + (hours * HOUR as f64) as u64, end, 10);
    at_most(echo(0.1), plan.bound() / 2.0, "the first echo");
    at_most(echo(1.5), 3.0 * plan.steady(), "the peak from 90 minutes on");
    at_most(echo(4.0), 1.5 * plan.steady(), "the peak from 4 hours on");
    let all = fleet.heard_after(EVENT, 1.0).expect("all are heard");
    assert!(all <= plan.splay + 2, "the last host was heard after {all} s");
    let levels = [("hosts / splay + 3 hosts / step", plan.bound()), ("3 hosts / step", 3.0 * plan.steady())];
    tell("fleet-reboot", "All hosts reboot in one second", &fleet, end, &levels, &format!("all heard in {all} s"));
}

#[test]
fn a_common_reboot_with_a_splay_of_one_step_is_no_event() {
    let plan = Plan { splay: 600, ..plan() };
    let mut fleet = Fleet::new(plan, wide());
    fleet.run(EVENT);
    fleet.listen();
    fleet.reboot();
    let end = EVENT + 2 * HOUR;
    fleet.run(end);
    // Hosts that are late in one step meet those that are early in the next.
    at_most(fleet.requests.peak(EVENT, end, 10), 2.0 * plan.steady(), "the peak");
    let all = fleet.heard_after(EVENT, 1.0).expect("all are heard");
    let title = "The same, with a splay of 600 s";
    tell("fleet-splay", title, &fleet, end, &[("hosts / step", plan.steady())], &format!("all heard in {all} s"));
}

#[test]
fn servers_that_are_too_small_for_a_common_reboot_get_through_it() {
    let plan = plan();
    // Three times what is usual, for all three together.
    let mut fleet = Fleet::new(plan, (0..3).map(|_| Server::new(plan.steady())).collect());
    fleet.run(EVENT);
    fleet.listen();
    fleet.reboot();
    let end = EVENT + 5 * HOUR;
    fleet.run(end);
    // Each server is asked once in a round, and asks to be left alone for a minute.
    at_most(fleet.busiest(EVENT, end), plan.bound(), "the peak at one server");
    let all = fleet.heard_after(EVENT, 1.0).expect("all are heard");
    let most = fleet.heard_after(EVENT, 0.99).expect("most are heard");
    assert!(most <= 2 * plan.step, "99 of 100 hosts were heard after {most} s");
    let title = "Reboot, servers that can do 3 hosts / step in all";
    let levels = [("hosts / splay + 3 hosts / step", plan.bound()), ("what the servers can do", 3.0 * plan.steady())];
    tell("fleet-small", title, &fleet, end, &levels, &format!("99 % heard in {most} s, all in {all} s"));
}

/// An hour in which no server answers.
fn outage(mode: Mode, mark: &str, title: &str) {
    let plan = plan();
    let mut fleet = Fleet::new(plan, wide());
    fleet.run(EVENT);
    fleet.servers.iter_mut().for_each(|server| server.mode = mode);
    let back = EVENT + HOUR;
    fleet.run(back);
    fleet.listen();
    fleet.servers.iter_mut().for_each(|server| server.mode = Mode::Up);
    let end = back + 3 * HOUR;
    fleet.run(end);
    let peak = fleet.busiest(back, end);
    at_most(peak, 3.0 * plan.steady(), "the peak at one server when they are back");
    let all = fleet.heard_after(back, 1.0).expect("all are heard");
    // A round may have begun just before.
    assert!(all <= 2 * plan.step + 30, "the last host was heard after {all} s");
    let extra = format!("back: {peak:.0} at one server, all heard in {} min", all.div_ceil(60));
    tell(mark, title, &fleet, end, &[("3 hosts / step", 3.0 * plan.steady())], &extra);
}

#[test]
fn after_an_outage_there_is_no_wave() {
    outage(Mode::Refuses, "fleet-outage", "An hour without servers: connections are refused");
}

#[test]
fn after_an_outage_of_the_hosts_there_is_no_wave() {
    outage(Mode::Silent, "fleet-silent", "An hour without servers: connections hang");
}

#[test]
fn servers_that_tell_everybody_the_same_moment_are_not_met_by_all_at_it() {
    let title = "An hour of 503, Retry-After until its end";
    outage(Mode::Closed(EVENT + HOUR), "fleet-closed", title);
}

#[test]
fn one_dead_server_of_three_is_hardly_noticed() {
    let plan = plan();
    let mut fleet = Fleet::new(plan, wide());
    fleet.run(EVENT);
    fleet.listen();
    // The one that all of them talk to.
    fleet.servers[0].mode = Mode::Silent;
    fleet.run(EVENT + HOUR);
    fleet.servers[0].mode = Mode::Up;
    let end = EVENT + 2 * HOUR;
    fleet.run(end);
    at_most(fleet.busiest(EVENT, end), 1.3 * plan.steady(), "the peak at one server");
    at_most(fleet.requests.peak(EVENT, end, 10), 2.3 * plan.steady(), "the peak");
    let all = fleet.heard_after(EVENT, 1.0).expect("all are heard");
    assert!(all <= plan.step * 105 / 100 + 12, "the last host was heard after {all} s");
    let title = "The one of three servers that all talk to is dead for an hour";
    tell("fleet-dead", title, &fleet, end, &[("hosts / step", plan.steady())], &format!("all heard in {all} s"));
}

/// A job for every host; `window` in s.
fn job(window: u64, mark: &str, title: &str) {
    let plan = plan();
    let mut fleet = Fleet::new(plan, wide());
    fleet.run(EVENT);
    fleet.offer(window);
    let end = EVENT + 2 * HOUR;
    fleet.run(end);
    assert!(fleet.answered.iter().all(|answered| *answered), "a host has not answered its job");
    let longest = plan.step.max(window);
    let downloads = fleet.downloads.peak(EVENT, end, 10);
    at_most(downloads, 1.3 * f64::from(plan.hosts) / longest as f64, "downloads that begin");
    // The job itself, an extra status when its agent runs, and its result.
    at_most(fleet.requests.peak(EVENT, end, 10), 3.3 * plan.steady(), "the peak");
    let last = fleet.downloads.0.len() as u64 - EVENT;
    let extra = format!("{downloads:.0} downloads/s begin, the last after {} min", last.div_ceil(60));
    tell(mark, title, &fleet, end, &[("hosts / step", plan.steady())], &extra);
}

#[test]
fn a_job_for_all_comes_with_their_reports() {
    job(0, "fleet-job", "An install job for every host");
}

#[test]
fn a_job_for_all_with_a_window_rolls_through_it() {
    job(3600, "fleet-window", "The same with a window of 3600 s");
}

#[test]
fn real_daemons_that_are_killed_at_random_account_for_every_job() {
    let daemons = number("FLEET_DAEMONS").unwrap_or(6) as usize;
    let time = Duration::from_secs(number("FLEET_MINUTES").map_or(12, |minutes| minutes * 60));
    let Some(outcome) = daemons::live(daemons, time) else {
        util::skipped("the smallest server (cargo build --examples)");
        return;
    };
    let mut table = format!("{daemons} daemons with two agents each, {} minutes:\n\n", time.as_secs() as f64 / 60.0);
    let _ = writeln!(
        table,
        "| | |\n|---|---|\n| daemons killed (SIGKILL) | {} |\n| agents, exchanges, downloads killed | {} |\n\
         | server killed and started again | {} |\n| jobs | {} |",
        outcome.daemons_killed, outcome.others_killed, outcome.server_killed, outcome.jobs
    );
    for (code, count) in &outcome.codes {
        let _ = writeln!(table, "| answered with code {code} | {count} |");
    }
    let _ = writeln!(
        table,
        "| never answered, answered in two ways, agents lost or doubled | {} |\n| results sent again | {} |\n\
         | last answer after the last kill | {:.1} s |\n| private memory of a daemon, mean and largest | {:.0}, {} KiB |",
        outcome.failures.len(),
        outcome.repeated,
        outcome.settled,
        outcome.memory.0,
        outcome.memory.1
    );
    println!("{table}");
    assert!(outcome.failures.is_empty(), "{}", outcome.failures.join("\n"));
    if let Some(page) = page() {
        renew(&page, "fleet-daemons", &table);
    }
}
