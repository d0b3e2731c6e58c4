//! Imports point one way, the pure parts touch nothing of the host, and files and functions stay short.

use std::fs;
use std::path::{Path, PathBuf};

/// Each part names only those before it.
const ORDER: [&str; 6] = ["model", "wire", "store", "pages", "serve", "cli"];
const PURE: [&str; 3] = ["model", "wire", "pages"];
/// What the pure parts must not name: there, time comes in as `now`.
const IMPURE: [&str; 9] =
    ["std::fs", "std::net", "std::process", "std::env", "std::os", "Instant", "SystemTime", "tokio", "rusqlite"];
const LINES_MAX: usize = 400;
const FUNCTION_MAX: usize = 70;

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

/// (path below src, part, text)
fn parts() -> Vec<(PathBuf, usize, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let part = |file: PathBuf| {
        let inside = file.strip_prefix(&root).expect("below src").to_path_buf();
        let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let place = ORDER.iter().position(|known| *known == first)?;
        Some((inside, place, fs::read_to_string(&file).expect("a source file")))
    };
    let found: Vec<_> = files.into_iter().filter_map(part).collect();
    assert!(found.len() > 20, "only {} files found", found.len());
    found
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (file, place, text) in parts() {
        for later in &ORDER[place + 1..] {
            if text.contains(&format!("crate::{later}::")) {
                wrong.push(format!("{}: {} names {later}", file.display(), ORDER[place]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pure_parts_touch_nothing() {
    let mut wrong = Vec::new();
    for (file, _, text) in parts().into_iter().filter(|(_, place, _)| PURE.contains(&ORDER[*place])) {
        for name in IMPURE.iter().filter(|name| text.contains(*name)) {
            wrong.push(format!("{}: names {name}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for (file, _, text) in parts() {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > LINES_MAX {
            wrong.push(format!("{}: {} lines", file.display(), lines.len()));
        }
        let mut begun = None;
        for (place, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let word = line.trim_start();
            if word.starts_with("fn ")
                || word.starts_with("pub fn ")
                || word.starts_with("async fn ")
                || word.starts_with("pub async fn ")
            {
                begun = Some((place, indent));
            }
            if let Some((first, depth)) = begun.filter(|(_, depth)| *depth == indent && word == "}") {
                if place - first > FUNCTION_MAX && depth == indent {
                    wrong.push(format!("{}:{}: {} lines", file.display(), first + 1, place - first));
                }
                begun = None;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
