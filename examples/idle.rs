//! A host on which nothing happens, for so many hours: `idle AGENTS HOURS`. The model is driven as the daemon drives it: it is
//! woken at its deadlines, each check and each report is done, and no time is waited for. So that the price of idling can be
//! counted exactly: `valgrind --tool=callgrind`, with 0 hours and with 24, and the difference.

use std::collections::VecDeque;
use std::time::Duration;

use bootagent::kernel::{Pid, Process, Time};
use bootagent::model::enforcement::Enforcement;
use bootagent::model::event::{Action, Definition, Event, Message, Now, Origin, Reply, Usage};
use bootagent::model::restart::Policy;
use bootagent::model::schedule::parse_servers;
use bootagent::model::spec::Spec;
use bootagent::model::state::{Options, Recovered, State, Times};
use bootagent::wire::proto;

/// The time between two turns of the daemon in which it looks at what tells nothing by itself.
const CHECK: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options {
        hostname: "host".into(),
        version: "bootagent-1".into(),
        boot_id: "boot".into(),
        servers: parse_servers("127.0.0.1:1").expect("a server"),
        step: Duration::from_secs(600),
        splay: Duration::from_secs(30),
        policy: Policy { restartsecs: CHECK, windowsecs: CHECK, retries: 3 },
        checksecs: CHECK,
        times: Times::default(),
        packages: "/packages".into(),
        signed: false,
        keyed: false,
        closed: None,
        program: "/bootagent".into(),
        config: "/bootagent.json".into(),
        seed: 7,
    }
}

fn main() {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("want: idle AGENTS HOURS"));
    let (agents, hours) = (words.next().expect("AGENTS"), words.next().expect("HOURS"));
    let definition = |index| Definition {
        origin: Origin::File,
        spec: Box::new(Spec::new(&format!("a{index}"), "1", vec!["/bin/true".into()])),
    };
    let found = Recovered { definitions: (0..agents).map(definition).collect(), ..Recovered::default() };
    let mut time = Time::default() + CHECK;
    let end = time + Duration::from_secs(3600 * hours);
    let now = |time: Time| Now { time, wall: 1_700_000_000 + time.0 / 1_000_000_000 };
    let mut actions = Vec::new();
    let mut state = State::new(options(), found, now(time), &mut actions);
    let (mut queue, mut last_pid, mut turns, mut bytes) = (VecDeque::new(), 1000, 0u64, 0);
    let mut check_at = time + CHECK;
    loop {
        loop {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Start(name) => {
                        last_pid += 1;
                        let pid = Pid::new(last_pid).expect("above 1");
                        let process = Process { pid, ticks: 1 };
                        queue.push_back(Event::Started { name, process, enforcement: Enforcement::default() });
                    }
                    Action::Measure => {
                        let usage = |agent: &bootagent::model::agent::Agent| Usage {
                            name: agent.name().clone(),
                            cpu: Some(Duration::from_secs(1)),
                            memory: Some(1 << 20),
                            spared: 0,
                        };
                        queue.push_back(Event::Measured(state.agents().map(usage).collect()));
                    }
                    Action::Exchange(_, message) => {
                        bytes += match &message {
                            Message::Status(report) => proto::status_body(report).len(),
                            Message::Results(results) => proto::results_body(results).len(),
                        };
                        queue.push_back(Event::Replied(Reply::Jobs {
                            errcode: Some(0),
                            jobs: Vec::new(),
                            cancel: Vec::new(),
                        }));
                    }
                    _ => {}
                }
            }
            let Some(event) = queue.pop_front() else { break };
            state.step(event, now(time), &mut actions);
        }
        let next = state.deadline().map_or(check_at, |at| at.min(check_at));
        if next > end {
            break;
        }
        time = time.max(next);
        turns += 1;
        if check_at <= time {
            check_at = time + CHECK;
        }
        if state.deadline().is_some_and(|at| at <= time) {
            queue.push_back(Event::Tick);
        }
    }
    println!("{agents} agents, {hours} h: {turns} wake-ups, {bytes} bytes reported");
}
