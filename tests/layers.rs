//! Imports point one way: each part of the library names only those before it in `ORDER`; the pure parts touch nothing of
//! the host; unsafe code stays in `sys`.

use std::fs;
use std::path::{Path, PathBuf};

/// The parts in the order in which they may name each other, each only those before it.
const ORDER: [&str; 11] =
    ["sorted_map", "error", "text", "kernel", "sys", "model", "wire", "work", "host", "daemon", "cli"];

/// What the pure parts must not name: there, time comes in as `now`, and what is done goes out as an action.
const IMPURE: [&str; 8] =
    ["crate::sys", "std::fs", "std::net", "std::process", "std::env", "std::os", "Instant", "SystemTime"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Every source file with the part it belongs to and its text, tests and comments left out.
fn parts() -> Vec<(PathBuf, usize, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut parts = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("below src");
        let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let part = first.trim_end_matches(".rs");
        let Some(index) = ORDER.iter().position(|known| *known == part) else {
            assert!(["lib", "main"].contains(&part), "{part} is not in ORDER");
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        parts.push((file, index, lines.collect::<Vec<_>>().join("\n")));
    }
    assert!(parts.len() > 20, "only {} files found", parts.len());
    parts
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (file, index, code) in parts() {
        for later in &ORDER[index + 1..] {
            for name in [format!("crate::{later}::"), format!("crate::{later};")] {
                if code.contains(&name) {
                    wrong.push(format!("{}: {} names {name}", file.display(), ORDER[index]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pure_parts_touch_nothing() {
    let mut wrong = Vec::new();
    for (file, index, code) in parts() {
        if !["model", "wire"].contains(&ORDER[index]) {
            continue;
        }
        for name in IMPURE {
            if code.contains(name) {
                wrong.push(format!("{}: names {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernel_vocabulary_makes_no_calls() {
    for (file, index, code) in parts() {
        if ORDER[index] == "kernel" {
            let calls = code.lines().filter(|line| line.contains("libc::") && line.contains('('));
            let calls: Vec<&str> =
                calls.filter(|line| !line.trim_start().starts_with("(\"") && !line.contains("Sig(")).collect();
            assert!(calls.is_empty(), "{}: {calls:?}", file.display());
        }
    }
}

/// What `{:?}` prints is Rust's spelling, so no text for a person is made by it.
#[test]
fn nothing_is_said_by_debug() {
    for (file, _, code) in parts() {
        if !file.ends_with("daemon/fault_injection.rs") && !file.to_string_lossy().contains("tests") {
            assert!(!code.contains(":?}"), "{}", file.display());
        }
    }
}

#[test]
fn unsafe_code_stays_in_sys() {
    for (file, index, code) in parts() {
        if ORDER[index] != "sys" {
            let found = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
            assert!(!found, "{}", file.display());
        }
    }
}

/// These files can be read only under the lock of a process's memory, and a process can keep whoever reads them waiting.
#[test]
fn only_a_helper_reads_what_a_process_can_block() {
    let mut readers = Vec::new();
    for (file, _, code) in parts() {
        let names = ["environ\"", "cmdline\"", "smaps", "}/maps\"", "numa_maps", "}/mem\"", "pagemap", "auxv"];
        if names.iter().any(|name| code.contains(name)) && !file.ends_with("tests.rs") {
            readers.push(file);
        }
    }
    assert!(matches!(&readers[..], [file] if file.ends_with("src/work/inspect.rs")), "{readers:?}");
}

/// The files of the daemon that a file names, as in `use super::records::Records` and `use super::{records, Daemon}`.
fn siblings(code: &str, names: &[String]) -> Vec<String> {
    let mut siblings = Vec::new();
    for rest in code.split("super::").skip(1) {
        let path = rest.split([';', '(', ')']).next().unwrap_or_default();
        let words: Vec<&str> = path.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        // A group of modules, or the first part of a path.
        let count = if path.starts_with('{') { words.len() } else { 1 };
        siblings
            .extend(words.into_iter().take(count).filter(|word| names.iter().any(|name| name == word)).map(Into::into));
    }
    siblings
}

#[test]
fn the_files_of_the_daemon_name_each_other_in_no_circle() {
    let mut files: Vec<(String, String)> = Vec::new();
    for (file, _, code) in parts() {
        if file.parent().is_some_and(|dir| dir.ends_with("src/daemon")) {
            files.push((file.file_stem().expect("a name").to_string_lossy().into_owned(), code));
        }
    }
    assert!(files.len() > 10, "only {} files found", files.len());
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let mut open: Vec<(String, Vec<String>)> =
        files.iter().map(|(name, code)| (name.clone(), siblings(code, &names))).collect();
    assert!(open.iter().any(|(_, siblings)| !siblings.is_empty()), "no file names another");
    // Whatever names no file that is left cannot be part of a circle.
    loop {
        let left: Vec<String> = open.iter().map(|(name, _)| name.clone()).collect();
        open.retain(|(_, siblings)| siblings.iter().any(|sibling| left.contains(sibling)));
        if open.len() == left.len() {
            break;
        }
    }
    assert!(open.is_empty(), "a circle, or what leads to one: {open:?}");
}
