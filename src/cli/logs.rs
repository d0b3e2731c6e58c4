//! `bootagent logs`: the last lines of an agent's output or of the daemon's log, and what is added to them.
//!
//! The files are read as they are, so that no daemon is needed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::cli::{complain, configuration, list, print};
use crate::host::disk::reason;
use crate::text::visible;

/// How often `-f` looks for more.
const PAUSE: Duration = Duration::from_millis(250);

/// How much is read at a time, bytes.
const PIECE: usize = 64 << 10;

/// Prints the last `lines` lines of the output of agent `name`, of the daemon's log without a name; with `follow` also what is
/// added, until it is interrupted. Returns the exit code.
pub fn logs(config: &Path, name: Option<&str>, lines: usize, follow: bool) -> u8 {
    let Some(loaded) = configuration(config) else { return 1 };
    list(&loaded.problems);
    let dir = PathBuf::from(&*loaded.config.log_dir);
    let path = dir.join(format!("{}.log", name.unwrap_or("bootagent")));
    let mut tail = Tail { path, file: None, position: 0 };
    match tail.last(lines) {
        Ok(text) => {
            let code = show(&text);
            if code != 0 || !follow {
                return code;
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !follow => {
            complain(&format_args!(
                "there is no output \"{}\": \"bootagent status\" names the agents, and an agent that has never been started \
                 has none",
                tail.path.display()
            ));
            return 1;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return unreadable(&tail.path, &error),
    }
    loop {
        match tail.more() {
            Ok(text) if text.is_empty() => sleep(PAUSE),
            Ok(text) => {
                let code = show(&text);
                if code != 0 {
                    return code;
                }
            }
            Err(error) => return unreadable(&tail.path, &error),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> u8 {
    complain(&format_args!("cannot read \"{}\": {}", path.display(), reason(error)));
    1
}

/// Prints output of an agent without what could change the terminal. Where standard output is closed there is no more to do.
fn show(text: &[u8]) -> u8 {
    print(&visible(&String::from_utf8_lossy(text).replace('\t', "        ")))
}

/// An output file that grows, is emptied, or is replaced by a new one.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// Up to where `file` was read, bytes.
    position: u64,
}

impl Tail {
    /// The last `lines` lines, those of the file before the last rotation included.
    fn last(&mut self, lines: usize) -> io::Result<Vec<u8>> {
        let mut last = VecDeque::new();
        let rotated = File::open(self.rotated());
        let file = match File::open(&self.path) {
            Ok(file) => file,
            // It was moved away, and its successor is not there yet.
            Err(error) if error.kind() == ErrorKind::NotFound && rotated.is_ok() => return self.only_rotated(lines),
            Err(error) => return Err(error),
        };
        if let Ok(mut rotated) = rotated {
            keep_last(&mut rotated, lines, &mut last)?;
        }
        self.position = self.take_last(file, lines, &mut last)?;
        Ok(last.into_iter().flatten().collect())
    }

    fn only_rotated(&mut self, lines: usize) -> io::Result<Vec<u8>> {
        let mut last = VecDeque::new();
        keep_last(&mut File::open(self.rotated())?, lines, &mut last)?;
        Ok(last.into_iter().flatten().collect())
    }

    fn take_last(&mut self, mut file: File, lines: usize, last: &mut VecDeque<Vec<u8>>) -> io::Result<u64> {
        let read = keep_last(&mut file, lines, last)?;
        self.file = Some(file);
        Ok(read)
    }

    /// The name of the file that a rotation copies to.
    fn rotated(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    /// What has been added since the last call, at most one piece; empty when there is nothing.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = &self.file else {
            self.reopen()?;
            return Ok(Vec::new());
        };
        let length = file.metadata()?.len();
        if length < self.position {
            // It was copied to the rotated file and emptied.
            let rest = File::open(self.rotated()).and_then(|mut rotated| read_from(&mut rotated, self.position));
            self.position = 0;
            return Ok(rest.unwrap_or_default());
        }
        let text = read_piece(file, self.position)?;
        self.position += text.len() as u64;
        if text.is_empty() {
            self.reopen()?;
        }
        Ok(text)
    }

    /// Opens the file that has the name now, if that is another one.
    fn reopen(&mut self) -> io::Result<()> {
        let found = match File::open(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
        if self.file.as_ref().and_then(identity) != identity(&found) {
            self.file = Some(found);
            self.position = 0;
        }
        Ok(())
    }
}

/// Adds the lines of the file to `last`, which keeps the last `lines`; returns how much was read, bytes.
fn keep_last(file: &mut File, lines: usize, last: &mut VecDeque<Vec<u8>>) -> io::Result<u64> {
    let mut read = 0;
    let mut is_whole = true;
    loop {
        let piece = read_piece(file, read)?;
        if piece.is_empty() {
            return Ok(read);
        }
        read += piece.len() as u64;
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            match last.back_mut().filter(|_| !is_whole) {
                Some(begun) => begun.extend_from_slice(line),
                None => last.push_back(line.to_vec()),
            }
            is_whole = line.ends_with(b"\n");
            while last.len() > lines {
                last.pop_front();
            }
        }
    }
}

fn read_piece(mut file: &File, position: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(position))?;
    let mut piece = vec![0; PIECE];
    let count = loop {
        match file.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    piece.truncate(count);
    Ok(piece)
}

fn read_from(file: &mut File, position: u64) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(position))?;
    file.read_to_end(&mut rest)?;
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("bootagent-logs-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }

        fn tail(&self) -> Tail {
            Tail { path: self.0.join("web.log"), file: None, position: 0 }
        }

        fn append(&self, text: &str) {
            let mut file = File::options().append(true).create(true).open(self.0.join("web.log")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn text(bytes: io::Result<Vec<u8>>) -> String {
        String::from_utf8(bytes.unwrap()).unwrap()
    }

    #[test]
    fn the_last_lines_go_over_a_rotation() {
        let dir = Dir::new("last");
        assert_eq!(dir.tail().last(3).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(dir.0.join("web.log.1"), "1\n2\n").unwrap();
        assert_eq!(text(dir.tail().last(3)), "1\n2\n");
        dir.append("3\n4");
        for (lines, want) in [(10, "1\n2\n3\n4"), (3, "2\n3\n4"), (1, "4"), (0, "")] {
            assert_eq!(text(dir.tail().last(lines)), want, "{lines}");
        }
        // A line that is longer than what is read at a time is one line.
        dir.append(&format!("{}\n5\n", "x".repeat(3 * PIECE)));
        assert_eq!(text(dir.tail().last(2)).len(), "4".len() + 3 * PIECE + "\n5\n".len());
    }

    #[test]
    fn what_is_added_is_followed_over_rotations() {
        let dir = Dir::new("follow");
        let mut tail = dir.tail();
        assert_eq!(text(tail.more()), "");
        dir.append("1\n");
        assert_eq!(text(tail.more()) + &text(tail.more()), "1\n");
        // Copied and emptied, with a line that was not read before.
        dir.append("2\n");
        fs::copy(dir.0.join("web.log"), dir.0.join("web.log.1")).unwrap();
        fs::write(dir.0.join("web.log"), "").unwrap();
        assert_eq!(text(tail.more()), "2\n");
        dir.append("3\n");
        assert_eq!(text(tail.more()), "3\n");
        // Moved away, with a line that was not read before, and made anew.
        dir.append("4\n");
        fs::rename(dir.0.join("web.log"), dir.0.join("moved")).unwrap();
        dir.append("5\n");
        let mut seen = String::new();
        for _ in 0..4 {
            seen += &text(tail.more());
        }
        assert_eq!(seen, "4\n5\n");
    }
}
