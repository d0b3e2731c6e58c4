//! Whole lives of a host, each from a seed: `model::state` is driven by a host in memory on which everything goes wrong that
//! can, and is held to its promises after every step: one live copy of an agent at most, no restart before its time, a count
//! of failures as the policy says, every accepted job answered once and never run again, no wake-up lost and none for
//! nothing, and a stop that ends.
//!
//! `SIM_LIVES=1000000` runs for a night, `SIM_SEED=7` runs one life. A seed that breaks a promise prints its shortest
//! history; with `SIM_COUNT=1` every such seed is reported in one line instead.

#[path = "simulate/host.rs"]
mod host;
#[path = "simulate/policy.rs"]
mod policy;
#[path = "util/random.rs"]
mod random;
#[path = "simulate/script.rs"]
mod script;

use host::Host;
use script::Plan;

/// Lives without being asked for more.
const LIVES: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The same plan with as little happening as still breaks a promise.
fn shrink(mut plan: Plan) -> Plan {
    let mut chunk = plan.script.len().max(1);
    loop {
        let mut index = 0;
        while index < plan.script.len() {
            let mut less = plan.clone();
            less.script.drain(index..(index + chunk).min(less.script.len()));
            if Host::new(&less, false).live().is_err() {
                plan = less;
            } else {
                index += chunk;
            }
        }
        if chunk == 1 {
            return plan;
        }
        chunk = chunk.div_ceil(2);
    }
}

#[test]
fn lives() {
    let one = number("SIM_SEED");
    let seeds = one.map_or(0..number("SIM_LIVES").unwrap_or(LIVES), |seed| seed..seed + 1);
    let mut steps = 0;
    let mut broken = 0;
    for seed in seeds {
        let plan = Plan::new(seed);
        let mut host = Host::new(&plan, false);
        let result = host.live();
        steps += host.steps;
        let Err(why) = result else { continue };
        broken += 1;
        if number("SIM_COUNT").is_some() {
            println!("seed {seed}: {why}");
            continue;
        }
        let plan = shrink(plan);
        let mut host = Host::new(&plan, true);
        let why = host.live().err().unwrap_or(why);
        panic!("seed {seed}: {why}\n{:?}\n{}", plan.files, host.history.join("\n"));
    }
    println!("{steps} steps");
    assert_eq!(broken, 0, "lives that broke a promise");
}
