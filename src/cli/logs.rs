//! `bootagent logs`: the last lines of an agent's output or of the daemon's log, and what is added to them.
//!
//! The files are read as they are, so no daemon is needed, and the lines of an agent that runs while the daemon is away are
//! shown too. A rotation copies the end of the file to `.1` and empties the file. Following notices that by what stands before
//! the place up to which it has read, and finds that place again in `.1`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::cli::{complain, configuration, failed, list, print, Ended};
use crate::host::disk::reason;
use crate::text::visible;

/// How often `-f` looks for more.
const PAUSE: Duration = Duration::from_millis(250);

/// How much is read at a time, bytes.
const PIECE: usize = 64 << 10;

/// How much of what was read last is remembered, bytes: more than what two lines have in common.
const REMEMBERED: usize = 4 << 10;

/// How often the rotated file is looked at for what was read last, before lines count as lost.
const LOOKS: u32 = 4;

/// Prints the last `lines` lines of the output of agent `name`, of the daemon's log without a name; with `follow` also what is
/// added, until it is interrupted.
///
/// # Errors
/// The exit code, after printing why.
pub fn logs(config: &Path, name: Option<&str>, lines: usize, follow: bool) -> Ended {
    let loaded = configuration(config)?;
    list(&loaded.problems);
    let file = format!("{}.log", name.unwrap_or("bootagent"));
    let mut tail = Tail::new(Path::new(&*loaded.config.log_dir).join(file));
    tail.show_last(lines, follow)?;
    if follow {
        tail.follow()?;
    }
    Ok(())
}

/// Prints output of an agent without what could change the terminal. A program that does not append leaves a hole at the
/// beginning of a file that was rotated, which reads as zeros and is not shown.
fn show(text: &[u8]) -> Ended {
    let begin = text.iter().position(|byte| *byte != 0).unwrap_or(text.len());
    let text = &text[begin..];
    print(&visible(&String::from_utf8_lossy(text).replace('\t', "        ")))
}

/// An output file that grows, is emptied, or is replaced by a new one.
struct Tail {
    path: PathBuf,
    /// The file that a rotation copies to.
    older: PathBuf,
    file: Option<File>,
    /// Up to where `file` was read, bytes.
    position: u64,
    /// What stands there before `position`.
    before: Vec<u8>,
    /// How often `before` was not found in the rotated file.
    looks: u32,
}

impl Tail {
    fn new(path: PathBuf) -> Tail {
        let older = path.with_extension("log.1");
        Tail { path, older, file: None, position: 0, before: Vec::new(), looks: 0 }
    }

    /// Shows the last `lines` lines, those before the last rotation included. A last line that is not complete is left to
    /// `follow`.
    fn show_last(&mut self, mut lines: usize, follow: bool) -> Ended {
        let (file, older) = (self.open(&self.path)?, self.open(&self.older)?);
        if file.is_none() && older.is_none() && !follow {
            return Err(failed(&format_args!(
                "there is no output \"{}\": \"bootagent status\" names the agents, and an agent that has never been started \
                 has none",
                self.path.display()
            )));
        }
        let failed = |error| self.failed(&error);
        let start = file.as_ref().map_or(Ok(0), |file| start_of_last(file, &mut lines)).map_err(failed)?;
        if let Some(older) = older.filter(|_| lines > 0) {
            let mut at = start_of_last(&older, &mut lines).map_err(failed)?;
            loop {
                let piece = read_piece(&older, at).map_err(failed)?;
                if piece.is_empty() {
                    break;
                }
                at += piece.len() as u64;
                show(&piece)?;
            }
        }
        let Some(file) = file else { return Ok(()) };
        let end = file.metadata().map_err(failed)?.len();
        // What stands before is needed to notice a rotation.
        self.before = read_piece(&file, start.saturating_sub(REMEMBERED as u64)).map_err(failed)?;
        self.before.truncate(start.min(REMEMBERED as u64) as usize);
        (self.file, self.position) = (Some(file), start);
        while self.position < end {
            let text = self.more().map_err(|error| self.failed(&error))?;
            if text.is_empty() {
                break;
            }
            show(&text)?;
        }
        match &self.file {
            Some(file) if !follow => show(&read_piece(file, self.position).map_err(|error| self.failed(&error))?),
            _ => Ok(()),
        }
    }

    /// Shows what is added, until it is interrupted or nobody reads it.
    fn follow(&mut self) -> Ended {
        loop {
            let text = self.more().map_err(|error| self.failed(&error))?;
            if text.is_empty() {
                sleep(PAUSE);
            } else {
                show(&text)?;
            }
        }
    }

    /// Opens a file; `None` when it is not there.
    fn open(&self, path: &Path) -> Result<Option<File>, u8> {
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> u8 {
        failed(&format_args!("cannot read \"{}\": {}", self.path.display(), reason(error)))
    }

    /// The whole lines that have been added since the last call, at most one piece; empty when there are none.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = &self.file else {
            self.reopen()?;
            return Ok(Vec::new());
        };
        let mut text = read_piece(file, self.position - self.before.len() as u64)?;
        if !text.starts_with(&self.before) {
            return self.rest_of_rotated();
        }
        text.drain(..self.before.len());
        match text.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => text.truncate(end + 1),
            // A line that is longer than a piece is shown in parts.
            None if text.len() + self.before.len() < PIECE => text.clear(),
            None => {}
        }
        if text.is_empty() {
            self.reopen()?;
            return Ok(text);
        }
        self.position += text.len() as u64;
        self.before.extend_from_slice(&text);
        self.before.drain(..self.before.len().saturating_sub(REMEMBERED));
        Ok(text)
    }

    /// What was added before the rotation and is not shown yet; empty when the rotated file may not be there yet.
    fn rest_of_rotated(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::fs::read(&self.older).unwrap_or_default();
        let whole = rest.windows(self.before.len()).rposition(|part| part == self.before);
        // A rotation may have kept only the end of it.
        let ends = (0..self.before.len()).map(|from| &self.before[from..]);
        let found = whole.map(|at| at + self.before.len());
        match found.or(ends.map(|end| if rest.starts_with(end) { end.len() } else { 0 }).find(|length| *length > 0)) {
            Some(read) => drop(rest.drain(..read)),
            None if self.looks < LOOKS => {
                self.looks += 1;
                return Ok(Vec::new());
            }
            None => complain(&"some lines are lost: they were rotated away before they could be read"),
        }
        self.restart();
        Ok(rest)
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
            self.restart();
        }
        Ok(())
    }

    fn restart(&mut self) {
        (self.position, self.looks) = (0, 0);
        self.before.clear();
    }
}

/// Where the last `lines` lines of the file begin. What is left of `lines` is how many the file has too few.
fn start_of_last(file: &File, lines: &mut usize) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut is_last = true;
    while end > 0 && *lines > 0 {
        let start = end.saturating_sub(PIECE as u64);
        let mut piece = read_piece(file, start)?;
        piece.truncate((end - start) as usize);
        for (index, byte) in piece.iter().enumerate().rev() {
            // The line feed that ends the file begins no line.
            if *byte == b'\n' && !std::mem::take(&mut is_last) {
                *lines -= 1;
                if *lines == 0 {
                    return Ok(start + index as u64 + 1);
                }
            }
            is_last = false;
        }
        end = start;
        if end == 0 {
            *lines -= 1;
        }
    }
    Ok(end)
}

fn read_piece(file: &File, position: u64) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    let count = loop {
        match file.read_at(&mut piece, position) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    piece.truncate(count);
    Ok(piece)
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
            Tail::new(self.0.join("web.log"))
        }

        fn append(&self, text: &str) {
            let mut file = File::options().append(true).create(true).open(self.0.join("web.log")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// Keeps the last `size` bytes, as a rotation does.
        fn rotate(&self, size: usize) {
            let text = fs::read(self.0.join("web.log")).unwrap();
            fs::write(self.0.join("web.log.1"), &text[text.len().saturating_sub(size)..]).unwrap();
            fs::write(self.0.join("web.log"), "").unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn more(tail: &mut Tail) -> String {
        (0..3).map(|_| String::from_utf8(tail.more().unwrap()).unwrap()).collect()
    }

    #[test]
    fn the_last_lines_are_found() {
        let dir = Dir::new("last");
        let long = "x".repeat(3 * PIECE);
        for (text, lines, want, left) in [
            ("1\n2\n3\n4", 10, "1\n2\n3\n4", 6),
            ("1\n2\n3\n4", 4, "1\n2\n3\n4", 0),
            ("1\n2\n3\n4", 3, "2\n3\n4", 0),
            ("1\n2\n3\n4\n", 1, "4\n", 0),
            ("1\n2\n", 0, "", 0),
            ("\n\n\n", 2, "\n\n", 0),
            ("", 2, "", 2),
            (&format!("1\n{long}\n5\n"), 2, &format!("{long}\n5\n"), 0),
            (&format!("{long}\n"), 2, &format!("{long}\n"), 1),
        ] {
            fs::write(dir.0.join("web.log"), text).unwrap();
            let mut left_over = lines;
            let start = start_of_last(&File::open(dir.0.join("web.log")).unwrap(), &mut left_over).unwrap();
            assert_eq!((&text[start as usize..], left_over), (want, left), "{lines} of {} bytes", text.len());
        }
    }

    #[test]
    fn what_is_added_is_followed_over_rotations() {
        let dir = Dir::new("follow");
        let mut tail = dir.tail();
        assert_eq!(more(&mut tail), "");
        dir.append("1\n2");
        assert_eq!(more(&mut tail), "1\n");
        // Rotated with lines that were not read before, when it was longer than what is kept.
        dir.append("\n3\n");
        dir.rotate(5);
        assert_eq!(more(&mut tail), "2\n3\n");
        // Rotated, and longer again than before when it is looked at.
        dir.append("4\n5\n");
        assert_eq!(more(&mut tail), "4\n5\n");
        dir.append("6\n");
        dir.rotate(4);
        dir.append("7\n8\n9\n");
        assert_eq!(more(&mut tail), "6\n7\n8\n9\n");
        // Rotated twice between two looks: what is left is shown, after some looks.
        dir.rotate(2);
        dir.append("a\nb\nc\n");
        dir.rotate(4);
        dir.append("d\n");
        assert_eq!(more(&mut tail) + &more(&mut tail), "b\nc\nd\n");
        // Moved away and made anew.
        fs::rename(dir.0.join("web.log"), dir.0.join("moved")).unwrap();
        assert_eq!(more(&mut tail), "");
        dir.append("e\n");
        assert_eq!(more(&mut tail), "e\n");
    }

    #[test]
    fn a_rotation_is_noticed_before_anything_is_shown() {
        let dir = Dir::new("end");
        dir.append("1\n2\n3\n");
        let mut tail = dir.tail();
        tail.show_last(0, true).unwrap();
        dir.rotate(6);
        dir.append("4\n");
        assert_eq!(more(&mut tail), "4\n");
    }

    #[test]
    fn a_line_that_is_longer_than_a_piece_is_shown() {
        let dir = Dir::new("long");
        let mut tail = dir.tail();
        let line = "x".repeat(2 * PIECE) + "\n";
        dir.append(&line);
        let shown: String = (0..3).map(|_| more(&mut tail)).collect();
        assert_eq!(shown.len(), line.len());
    }
}
