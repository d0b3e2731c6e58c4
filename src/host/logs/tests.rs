use std::os::unix::fs::symlink;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::work::rotate;

/// A directory for one test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bootagent-logs-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Place(path)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    fn mode(&self, file: &str) -> u32 {
        fs::metadata(self.0.join(file)).expect("it is there").mode() & 0o7777
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Rotates as the daemon and its helper do.
fn rotate(outputs: &mut Outputs, name: &str, size: u64) -> Result<(), Error> {
    let Some(log) = outputs.full(name, size)? else { return Ok(()) };
    let older = outputs.path(name).with_extension("log.1");
    let result = rotate::rotate(&log, &older, size, Path::new(""));
    let rotated = outputs.rotated(name, size);
    result.map_err(|error| outputs.not_rotated(name, &reason(&error))).and(rotated)
}

#[test]
fn dates() {
    for (seconds, want) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (2_147_483_648, "2038-01-19T03:14:08Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (4_294_967_296, "2106-02-07T06:28:16Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(timestamp(seconds), want);
    }
}

#[test]
fn a_text_is_one_line_if_its_level_is_logged() {
    let place = Place::new();
    let mut log = Log::new(&place.0.join("new/dir"), Level::Info, false);
    log.write(Level::Info, &"agent \"a\" started");
    log.write(Level::Debug, &"below the level");
    log.write(Level::Error, &"two\nlines \u{1b}[2J");
    let text = place.read("new/dir/bootagent.log");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].ends_with("Z info  agent \"a\" started"), "{text}");
    assert!(lines[1].ends_with("Z error two | lines [2J"), "{text}");
    assert_eq!(lines[0].split(' ').next().map(str::len), Some(20));
    assert_eq!(place.mode("new/dir/bootagent.log"), 0o600);
}

#[test]
fn a_log_that_was_removed_or_renamed_is_made_again() {
    let place = Place::new();
    let mut log = Log::new(&place.0, Level::Info, false);
    log.write(Level::Info, &"one");
    fs::rename(place.0.join("bootagent.log"), place.0.join("old")).unwrap();
    log.write(Level::Info, &"two");
    fs::remove_file(place.0.join("bootagent.log")).unwrap();
    log.write(Level::Info, &"three");
    assert!(place.read("old").ends_with(" one\n"));
    assert!(place.read("bootagent.log").ends_with(" three\n") && !place.read("bootagent.log").contains("two"));
    fs::remove_dir_all(&place.0).unwrap();
    log.write(Level::Info, &"four");
    assert!(place.read("bootagent.log").ends_with(" four\n"));
}

#[test]
fn the_own_log_is_limited_and_never_follows_a_link() {
    let place = Place::new();
    let mut log = Log::new(&place.0, Level::Info, false);
    let long = "x".repeat(LINE_MAX * 2);
    for _ in 0..LOG_MAX as usize / LINE_MAX * 3 {
        log.write(Level::Info, &long);
    }
    for file in ["bootagent.log", "bootagent.log.1"] {
        let size = place.read(file).len() as u64;
        assert!(size <= LOG_MAX && size > 0, "{file}: {size}");
        assert_eq!(place.mode(file), 0o600);
        assert!(place.read(file).lines().all(|line| line.len() < LINE_MAX && line.ends_with('x')));
    }
    fs::write(place.0.join("victim"), "precious").unwrap();
    fs::remove_file(place.0.join("bootagent.log")).unwrap();
    symlink(place.0.join("victim"), place.0.join("bootagent.log")).unwrap();
    // In the foreground, so that the line goes to stderr and not to the kernel's log of this host.
    log.foreground = true;
    log.write(Level::Error, &"a line that cannot go to its file");
    assert_eq!(place.read("victim"), "precious");
}

#[test]
fn output_is_appended_and_its_directory_made_again() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0.join("logs"));
    for text in ["one\n", "two\n"] {
        let mut file = File::from(outputs.open("web").unwrap());
        file.write_all(text.as_bytes()).unwrap();
    }
    assert_eq!(place.read("logs/web.log"), "one\ntwo\n");
    assert_eq!(place.mode("logs/web.log"), 0o640);
    fs::remove_dir_all(place.0.join("logs")).unwrap();
    assert!(outputs.open("web").is_ok());
}

#[test]
fn output_that_cannot_be_opened_is_reported() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    symlink("/dev/null", outputs.path("link")).unwrap();
    fs::create_dir(outputs.path("dir")).unwrap();
    assert!(Command::new("mkfifo").arg(outputs.path("pipe")).status().is_ok_and(|status| status.success()));
    for (name, want) in [("link", "symbolic links"), ("dir", "not a regular file"), ("pipe", "not a regular file")] {
        let message = outputs.open(name).map(drop).unwrap_err();
        assert!(message.starts_with(&format!("agent \"{name}\": cannot open")), "{message}");
        assert!(message.contains(want) && message.ends_with("its output is dropped"), "{message}");
        assert_eq!(rotate(&mut outputs, name, 0), Ok(()));
        assert_eq!(outputs.tail(name, 100), "");
    }
    fs::write(place.0.join("file"), "").unwrap();
    assert!(Outputs::new(&place.0.join("file")).open("web").is_err());
}

#[test]
fn output_is_rotated_while_its_writer_has_it_open() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    assert_eq!(rotate(&mut outputs, "web", 10), Ok(()));
    let mut writer = File::from(outputs.open("web").unwrap());
    writer.write_all(b"0123456789").unwrap();
    assert_eq!(rotate(&mut outputs, "web", 10), Ok(()));
    assert_eq!(place.read("web.log").len(), 10);
    writer.write_all(b"abcdef").unwrap();
    assert_eq!(rotate(&mut outputs, "web", 10), Ok(()));
    assert_eq!((place.read("web.log.1"), place.read("web.log")), ("6789abcdef".into(), "".into()));
    assert_eq!(place.mode("web.log.1"), 0o640);
    writer.write_all(b"next").unwrap();
    assert_eq!(place.read("web.log"), "next");
    assert!(!place.0.join("web.log.1.tmp").exists());

    // Where the copy cannot be kept, the file is truncated all the same.
    fs::remove_file(place.0.join("web.log.1")).unwrap();
    fs::create_dir_all(place.0.join("web.log.1/full")).unwrap();
    writer.write_all(b"0123456789").unwrap();
    let message = rotate(&mut outputs, "web", 10).unwrap_err();
    assert!(message.starts_with("agent \"web\": cannot rotate"), "{message}");
    assert_eq!(place.read("web.log"), "");
    assert!(!place.0.join("web.log.1.tmp").exists());
}

#[test]
fn a_hole_in_an_output_is_not_copied() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    let mut writer = File::from(outputs.open("web").unwrap());
    writer.write_all(b"before").unwrap();
    // Larger than any disk.
    writer.set_len(1 << 43).unwrap();
    writer.write_all(b"after").unwrap();
    assert_eq!(rotate(&mut outputs, "web", 1 << 20), Ok(()));
    let copy = place.read("web.log.1");
    assert!(copy.trim_matches('\0') == "after" && copy.len() <= 65 << 10, "{} bytes", copy.len());
    assert_eq!(place.read("web.log"), "");
}

#[test]
fn an_output_is_rotated_although_it_got_a_second_name_later() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    let mut writer = File::from(outputs.open("web").unwrap());
    writer.write_all(b"0123456789abc").unwrap();
    for name in ["one", "two"] {
        fs::hard_link(outputs.path("web"), place.0.join(name)).unwrap();
    }
    let mut other = Outputs::new(&place.0);
    assert!(rotate(&mut other, "web", 10).unwrap_err().contains("hard link"), "another daemon does not know the file");
    assert_eq!(place.read("web.log").len(), 13);
    assert_eq!(rotate(&mut outputs, "web", 10), Ok(()));
    assert_eq!(
        (place.read("web.log.1"), place.read("web.log"), place.read("one")),
        ("3456789abc".into(), "".into(), "".into())
    );
}

#[test]
fn tails_are_whole_lines() {
    let place = Place::new();
    let outputs = Outputs::new(&place.0);
    assert_eq!(outputs.tail("web", 10), "");
    for (text, max, want) in [
        ("one\ntwo\nthree\n", 100, "one\ntwo\nthree\n"),
        ("one\ntwo\nthree\n", 9, "three\n"),
        ("one\ntwo\nthree\n", 6, "three\n"),
        ("abcdefgh", 3, "fgh"),
        ("abcdefg\n", 3, "fg\n"),
        ("", 3, ""),
        ("one\n\u{e4}x", 2, "\u{fffd}x"),
    ] {
        fs::write(outputs.path("web"), text).unwrap();
        assert_eq!(outputs.tail("web", max), want, "{text} {max}");
    }
}

#[test]
fn tails_begin_with_the_last_start() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    fs::write(outputs.path("web"), "of a run before\n").unwrap();
    let mut file = File::from(outputs.open("web").unwrap());
    assert_eq!(outputs.tail("web", 100), "");
    file.write_all(b"one\ntwo\n").unwrap();
    assert_eq!((outputs.tail("web", 100), outputs.tail("web", 6)), ("one\ntwo\n".into(), "two\n".into()));
    rotate(&mut outputs, "web", 10).unwrap();
    file.write_all(b"three\n").unwrap();
    assert_eq!(outputs.tail("web", 100), "three\n");
    drop(outputs.open("web").unwrap());
    fs::write(outputs.path("web"), "x\n").unwrap();
    assert_eq!(outputs.tail("web", 100), "x\n", "it was truncated from outside");
}

#[test]
fn what_is_kept_and_what_goes_on_are_whole_lines() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    let mut writer = File::from(outputs.open("web").unwrap());
    for (text, size, kept) in [
        ("first\nsecond\nthird\n", 12, "third\n"),
        ("first\nsecond\nthird\n", 13, "second\nthird\n"),
        ("a line longer than that\n", 8, "an that\n"),
        ("no end of a line", 8, " a line"),
    ] {
        writer.write_all(text.as_bytes()).unwrap();
        assert_eq!(rotate(&mut outputs, "web", size), Ok(()));
        assert!(place.read("web.log.1").ends_with(kept), "{text}: {:?}", place.read("web.log.1"));
        assert!(place.read("web.log.1").len() as u64 <= size && place.read("web.log").is_empty(), "{text}");
    }
}

#[test]
fn writers_that_do_not_freeze_in_time_lose_nothing() {
    let place = Place::new();
    let outputs = Outputs::new(&place.0);
    let freezer = place.0.join("cgroup.freeze");
    let rotate = |frozen: &str, text: &str| {
        fs::write(place.0.join("cgroup.events"), frozen).unwrap();
        fs::write(outputs.path("web"), text).unwrap();
        let log = outputs.full("web", 10).unwrap().expect("it is full");
        rotate::rotate(&log, &place.0.join("web.log.1"), 10, &freezer).unwrap();
        assert_eq!(place.read("cgroup.freeze"), "0", "it is thawed");
        assert!(!place.0.join("web.log.1.tmp").exists());
        (place.read("web.log.1"), place.read("web.log"))
    };
    let text = "first\nsecond\nthi";
    assert_eq!(rotate("populated 1\nfrozen 0\n", text), ("".into(), text.into()));
    assert_eq!(rotate("populated 1\nfrozen 1\n", text), ("second\n".into(), "thi".into()));
    // One that grows and grows is rotated all the same.
    let text = text.repeat(10);
    assert_eq!(rotate("populated 1\nfrozen 0\n", &text), ("second\nthi".into(), "".into()));
}

#[test]
fn a_removed_or_moved_output_is_known_by_its_writer() {
    let place = Place::new();
    let mut outputs = Outputs::new(&place.0);
    let mut writer = File::from(outputs.open("web").unwrap());
    let link = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer)));
    let adopted = Outputs::new(&place.0);
    let own = Some(crate::sys::account::own_uid());
    writer.write_all(b"0123456789").unwrap();
    let fate = |outputs: &Outputs| outputs.fate("web", &link);
    assert_eq!((fate(&outputs), fate(&adopted)), (None, None));
    let moved = place.0.join("web.log.2");
    fs::rename(outputs.path("web"), &moved).unwrap();
    for outputs in [&outputs, &adopted] {
        assert_eq!(fate(outputs), Some(Fate::Moved(moved.clone())));
        assert!(outputs.nameless("web", &link, 5, own).is_none(), "it has a name");
    }
    fs::remove_file(&moved).unwrap();
    for outputs in [&outputs, &adopted] {
        assert_eq!(fate(outputs), Some(Fate::Removed));
        assert!(outputs.nameless("web", &link, 10, own).is_none() && outputs.nameless("web", &link, 5, own).is_some());
    }
    assert!(adopted.nameless("web", &link, 5, Some(Uid(4711))).is_none(), "it may be another file");

    // What an agent has opened itself is its own affair.
    let other = File::create(place.0.join("other")).unwrap();
    let link = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&other)));
    drop(outputs.open("web").unwrap());
    assert_eq!((outputs.fate("web", &link), outputs.fate("web", Path::new("/proc/self/fd/0"))), (None, None));
    assert_eq!(adopted.fate("web", &link), None);
}

#[test]
fn a_log_that_cannot_be_written_is_a_problem_until_it_can() {
    let place = Place::new();
    fs::create_dir(place.0.join("bootagent.log")).unwrap();
    // In the foreground, so that the line goes to stderr and not to the kernel's log of this host.
    let mut log = Log::new(&place.0, Level::Info, true);
    log.write(Level::Info, &"one");
    assert!(log.problem().is_some_and(|problem| problem.contains("bootagent.log\": not a regular file")));
    fs::remove_dir(place.0.join("bootagent.log")).unwrap();
    log.write(Level::Info, &"two");
    assert_eq!(log.problem(), None);
}
