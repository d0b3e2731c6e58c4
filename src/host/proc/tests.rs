#![allow(clippy::unwrap_used)]

use super::*;

const LINE: &str =
    "4711 (web) S 1 4711 4711 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 7 0 123456 1000 200 18446744073709551615";

fn line(name: &str) -> String {
    LINE.replace("(web)", &format!("({name})"))
}

#[test]
fn the_time_since_boot_is_seconds_and_hundredths() {
    for (text, want) in [
        ("12345.67 45678.90\n", Some(12_345_670)),
        ("0.05 0.00\n", Some(50)),
        ("7 1\n", None),
        ("7.\n", None),
        ("-1.00 2.00", None),
        ("", None),
    ] {
        assert_eq!(parse_uptime(text), want.map(Duration::from_millis), "{text}");
    }
    let ourselves = read_stat(Pid::new(std::process::id() as i32).unwrap()).unwrap().unwrap().process;
    assert!(ourselves.age(uptime().unwrap()) < Duration::from_secs(86_400));
}

#[test]
fn the_offset_of_a_time_namespace() {
    for (text, want) in [
        ("monotonic           0         0\nboottime            0         0\n", Some(0)),
        ("monotonic          -5         0\nboottime       100000         0\n", Some(10_000_000)),
        ("boottime -7 990000000\n", Some(-601)),
        ("monotonic 1 0\n", None),
        ("boottime 9223372036854775807 0\n", None),
        ("boottime\n", None),
        ("", None),
    ] {
        assert_eq!(parse_offset(text), want, "{text}");
    }
}

#[test]
fn a_stat_line() {
    let stat = parse_stat(LINE.as_bytes()).unwrap();
    assert_eq!(stat.process, Process { pid: Pid::new(4711).unwrap(), ticks: 123_456 });
    assert_eq!((stat.parent, stat.session, stat.state), (1, 4711, b'S'));
    assert_eq!((stat.threads, stat.used, stat.kernel), (7, 100, false));
    assert!(stat.alive() && !stat.stopped());
}

#[test]
fn a_program_name_may_contain_anything() {
    let want = parse_stat(LINE.as_bytes()).unwrap();
    for name in ["", "a b", ")", "((", "a) S 1 2 3", ") R 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 (", "x\ny", "\u{fc}"]
    {
        assert_eq!(parse_stat(line(name).as_bytes()), Some(want), "{name:?}");
    }
    let mut raw = LINE.as_bytes().to_vec();
    raw[6] = 0xff;
    assert_eq!(parse_stat(&raw), Some(want), "a name that is not UTF-8");
}

#[test]
fn zombies_stopped_processes_and_kernel_threads() {
    for (state, threads, alive) in [("Z", 1, false), ("X", 0, false), ("Z", 3, true), ("T", 1, true), ("D", 1, true)] {
        let text = LINE.replace(") S ", &format!(") {state} ")).replace(" 0 7 0 ", &format!(" 0 {threads} 0 "));
        assert_eq!(parse_stat(text.as_bytes()).unwrap().alive(), alive, "{state} {threads}");
    }
    assert!(parse_stat(LINE.replace(") S ", ") t ").as_bytes()).unwrap().stopped());
    assert!(parse_stat(LINE.replace("4194560", "69238880").as_bytes()).unwrap().kernel);
    let negative = LINE.replace("30 40 20", "-30 40 20");
    assert_eq!(parse_stat(negative.as_bytes()).unwrap().used, 70);
}

#[test]
fn a_mangled_stat_line_is_no_process() {
    for text in ["", "4711", "4711 (web", "(web) S 1", "1 (init) S 0 1 1", "-5 (x) S 1 1 1", "99999999999 (x) S 1 1 1"]
    {
        assert_eq!(parse_stat(text.as_bytes()), None, "{text:?}");
    }
    let end = LINE.find(" 123456").unwrap() + 1;
    for length in 0..end {
        assert_eq!(parse_stat(&LINE.as_bytes()[..length]), None, "cut at {length}");
    }
    for index in 0..LINE.len() {
        for bit in 0..8 {
            let mut bytes = LINE.as_bytes().to_vec();
            bytes[index] ^= 1 << bit;
            let _ = parse_stat(&bytes);
        }
    }
}

#[test]
fn users_of_a_process() {
    let ids = |ids: [u32; 3]| Some(ids.map(Uid));
    assert_eq!(parse_users(b"Name:\tUid: 5\nUid:\t1\t0\t2\t3\nGid:\t7\t7\t7\t7\n"), ids([1, 0, 2]));
    assert_eq!(parse_users(b"Uid:\t4294967294\t1\t1\t1\n"), ids([u32::MAX - 1, 1, 1]));
    for text in ["", "Uid:\t1\t2\n", "Uid:\t-1\t2\t3\n", "Uid:\t4294967296\t2\t3\n", "Name:\tUid:\t1\t2\t3\n"] {
        assert_eq!(parse_users(text.as_bytes()), None, "{text:?}");
    }
    let own = Pid::new(std::process::id() as i32).unwrap();
    assert_eq!(users(own), Some([crate::sys::account::own_uid(); 3]));
}

#[test]
fn memory_files() {
    assert_eq!(
        parse_status(b"VmRSS:\t 90 kB\nRssAnon:\t 30 kB\nRssFile:\t 50 kB\nRssShmem:\t 10 kB\nVmSwap:\t 2 kB\n"),
        Some(42 << 10)
    );
    assert_eq!(parse_status(b"Name:\tx\nVmRSS:\t 90 kB\nVmSwap:\t 1 kB\n"), Some(91 << 10));
    assert_eq!(parse_status(b"Name:\tkthreadd\nState:\tS\n"), None);
}

#[test]
fn a_snapshot_has_every_process_but_init_and_the_kernels_threads() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::new(child.id() as i32).unwrap();
    let kernel = |pid: &Pid| stat(*pid).is_some_and(|stat| stat.kernel);
    let found = |pid: Pid, snapshot: &Snapshot| snapshot.find(pid).is_some();
    let names = || fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| parse_pid(entry.file_name().to_str()?));
    let before: Vec<Pid> = names().filter(|pid| pid.raw() > 1).collect();
    let all = Snapshot::take();
    // A process that was there before and still is was there during the pass too.
    for pid in before.into_iter().filter(|pid| stat(*pid).is_some()) {
        assert_eq!(found(pid, &all), !kernel(&pid), "{pid}");
    }
    assert!(found(pid, &all));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_snapshot_knows_a_child_of_ours() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::new(child.id() as i32).unwrap();
    let own = Pid::new(std::process::id() as i32).unwrap();
    let all = Snapshot::take();
    assert_eq!(all.fault(), None);
    let found = *all.find(pid).unwrap();
    assert_eq!(found.parent, own.raw());
    assert!(alive(found.process) && memory(pid).unwrap() > 0);
    assert!(all.stats().windows(2).all(|pair| pair[0].process.pid < pair[1].process.pid));
    let below = Snapshot::below(&[own]);
    assert!(below.get(found.process).is_some() && below.find(own).is_some());
    let other = Process { pid, ticks: found.process.ticks + 1 };
    assert!(!alive(other) && all.get(other).is_none(), "the same id with another start time is another process");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!alive(found.process));
}

#[test]
fn the_status_of_a_zombie_can_be_read_until_it_is_taken() {
    let mut command = std::process::Command::new("/bin/sh");
    let mut child = command.args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = Pid::new(child.id() as i32).unwrap();
    let process = stat(pid).unwrap().process;
    assert_eq!(exit_of_zombie(process), None);
    drop(child.stdin.take());
    while stat(pid).is_some_and(|stat| stat.alive()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(exit_of_zombie(Process { ticks: process.ticks + 1, ..process }), None);
    assert_eq!(exit_of_zombie(process), Some(Exit::Code(7)));
    child.wait().unwrap();
    assert_eq!(exit_of_zombie(process), None);
}
