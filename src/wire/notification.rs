//! What an agent says about itself on its notification socket, as sd_notify(3) has it: lines of `KEY=VALUE`.
//!
//! `READY=1`, `MAINPID=` and `STATUS=` count. Everything else is ignored without a word, as programs send it unasked:
//! `RELOADING=1`, `STOPPING=1`, `WATCHDOG=1`, `EXTEND_TIMEOUT_USEC=` and whatever comes later.

use crate::kernel::Pid;

/// What one message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// The agent is ready.
    pub ready: bool,
    /// The id of its main process.
    pub main: Option<Pid>,
    /// What it is doing, a text for people that nobody has looked at yet.
    pub status: Option<String>,
}

/// Reads a message. Of one that was `truncated` the last line is not used, as nobody knows what else it had.
pub fn parse(bytes: &[u8], truncated: bool) -> Notification {
    let mut said = Notification::default();
    let text = String::from_utf8_lossy(bytes);
    let whole = if truncated { text.rsplit_once('\n').map_or("", |(whole, _)| whole) } else { &text };
    for (key, value) in whole.split('\n').filter_map(|line| line.split_once('=')) {
        match key {
            "READY" => said.ready |= value == "1",
            "MAINPID" => said.main = value.parse().ok().and_then(Pid::new).or(said.main),
            "STATUS" => said.status = Some(value.to_string()),
            _ => {}
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_count_are_read() {
        let said = |ready, main: Option<i32>, status: Option<&str>| Notification {
            ready,
            main: main.and_then(Pid::new),
            status: status.map(String::from),
        };
        for (text, truncated, want) in [
            ("READY=1", false, said(true, None, None)),
            (
                "READY=1\nSTATUS=ready: all = well\nMAINPID=4711\n",
                false,
                said(true, Some(4711), Some("ready: all = well")),
            ),
            ("STATUS=one\nSTATUS=two", false, said(false, None, Some("two"))),
            ("STATUS=", false, said(false, None, Some(""))),
            ("STATUS=one\nREADY=1\nSTATUS=tw", true, said(true, None, Some("one"))),
            ("STATUS=tw", true, said(false, None, None)),
            ("MAINPID=4711\nMAINPID=0", false, said(false, Some(4711), None)),
            ("MAINPID=1", false, said(false, None, None)),
            ("MAINPID=-7", false, said(false, None, None)),
            ("READY=0", false, said(false, None, None)),
            ("ready=1", false, said(false, None, None)),
            (" READY=1", false, said(false, None, None)),
            ("RELOADING=1\nSTOPPING=1\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=9\nBARRIER=1", false, said(false, None, None)),
            ("", false, said(false, None, None)),
        ] {
            assert_eq!(parse(text.as_bytes(), truncated), want, "{text:?}");
        }
        assert_eq!(parse(b"STATUS=\xff\xfe\nREADY=1\0", false), said(false, None, Some("\u{fffd}\u{fffd}")));
    }
}
