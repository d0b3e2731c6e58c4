//! The lines of the control socket: one JSON object from the client, one from the daemon, then the connection ends.
//!
//! `{"command":"start","name":"web"}` comes in, `{"code":0,"message":"...","body":{...}}` goes out. `body` is the document
//! of `status` or `jobs` and always the last key, so that both sides can pass it on as text. A line that is longer than the
//! lengths below is refused, whoever wrote it. Sockets and their permissions are the business of `daemon::control`.

use crate::error::Error;
use crate::model::command::{Answer, Command};
use crate::model::spec::is_name;
use crate::text::visible;
use crate::wire::json::{self, Number, Object, Value};

/// The socket's name in `run_dir`.
pub const SOCKET: &str = "bootagent.sock";

/// The longest command line, in bytes.
pub const MAX_COMMAND: usize = 4 << 10;

/// The longest answer line, in bytes. A full ledger with the longest messages is shorter.
pub const MAX_ANSWER: usize = 32 << 20;

/// The deepest nesting outside of a body, with room for later keys.
const MAX_DEPTH: usize = 8;

/// What separates the short keys of an answer from its body. It cannot occur inside a JSON string, where quotes are escaped.
const BODY: &str = ",\"body\":";

/// `command` as a line, with its newline.
pub fn write_command(command: &Command) -> String {
    let (word, name) = match command {
        Command::Status(name) => ("status", name.as_deref()),
        Command::Start(name) => ("start", Some(&**name)),
        Command::Stop(name) => ("stop", Some(&**name)),
        Command::Restart(name) => ("restart", Some(&**name)),
        Command::Report => ("report", None),
        Command::Jobs => ("jobs", None),
        Command::Reexec => ("reexec", None),
        Command::Reread => ("reload", None),
        Command::Reload(name) => ("reload", Some(&**name)),
    };
    match name {
        // A name holds only characters that need no escape.
        Some(name) => format!("{{\"command\":\"{word}\",\"name\":\"{name}\"}}\n"),
        None => format!("{{\"command\":\"{word}\"}}\n"),
    }
}

/// Reads a line of `write_command`, with or without its newline; unknown keys are ignored.
///
/// # Errors
/// What is wrong with the line, for the client.
pub fn read_command(line: &[u8]) -> Result<Command, Error> {
    let object = read_object(line)?;
    let name = match object.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if is_name(name) => Some(name.as_str().into()),
        Some(_) => return Err("name: want 1 to 50 of A-Z a-z 0-9 _ -".into()),
    };
    let Some(Value::String(word)) = object.get("command") else {
        return Err("command: want a string".into());
    };
    match (word.as_str(), name) {
        ("status", name) => Ok(Command::Status(name)),
        ("start", Some(name)) => Ok(Command::Start(name)),
        ("stop", Some(name)) => Ok(Command::Stop(name)),
        ("restart", Some(name)) => Ok(Command::Restart(name)),
        ("start" | "stop" | "restart", None) => Err(format_error!("{word}: want the name of an agent")),
        ("report", None) => Ok(Command::Report),
        ("jobs", None) => Ok(Command::Jobs),
        ("reexec", None) => Ok(Command::Reexec),
        ("reload", None) => Ok(Command::Reread),
        ("reload", Some(name)) => Ok(Command::Reload(name)),
        ("report" | "jobs" | "reexec", Some(_)) => Err(format_error!("{word}: takes no name")),
        _ => Err("command: not one that this daemon knows".into()),
    }
}

/// `answer` as a line, with its newline; line ends in the body become spaces, as JSON has them only between values.
pub fn write_answer(answer: &Answer) -> String {
    let message = json::write(&Value::String(visible(&answer.message)));
    let mut line = String::with_capacity(message.len() + answer.body.len() + 40);
    line.push_str("{\"code\":");
    line.push_str(&answer.code.to_string());
    line.push_str(",\"message\":");
    line.push_str(&message);
    if !answer.body.is_empty() {
        line.push_str(BODY);
        line.extend(answer.body.chars().map(|c| if c == '\n' { ' ' } else { c }));
    }
    line.push_str("}\n");
    line
}

/// Reads a line of `write_answer`, with or without its newline. The body is not parsed.
///
/// # Errors
/// What is wrong with the line.
pub fn read_answer(line: &[u8]) -> Result<Answer, Error> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_string())?.trim_end();
    let (head, body) = match text.split_once(BODY) {
        None => (text.to_string(), ""),
        Some((head, rest)) => {
            let body = rest.strip_suffix('}').ok_or("cut off")?;
            (format!("{head}}}"), body)
        }
    };
    let object = read_object(head.as_bytes())?;
    let code = match object.get("code") {
        Some(Value::Number(Number::U64(code @ 0..=255))) => *code as u8,
        _ => return Err("code: want 0..255".into()),
    };
    let Some(Value::String(message)) = object.get("message") else {
        return Err("message: want a string".into());
    };
    Ok(Answer { code, message: message.as_str().into(), body: body.into() })
}

fn read_object(line: &[u8]) -> Result<Object, Error> {
    match json::parse_bytes(line, MAX_DEPTH) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("want one JSON object".into()),
        Err(syntax) => Err(format_error!("want one JSON object: {syntax}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_the_line() {
        for command in [
            Command::Status(None),
            Command::Status(Some("web".into())),
            Command::Start("web".into()),
            Command::Stop("a-b_9".into()),
            Command::Restart("web".into()),
            Command::Report,
            Command::Jobs,
            Command::Reexec,
            Command::Reread,
            Command::Reload("web".into()),
        ] {
            let line = write_command(&command);
            assert!(line.ends_with("}\n") && line.len() <= MAX_COMMAND, "{line}");
            assert_eq!(read_command(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn bad_commands_say_what_is_wrong() {
        for (line, want) in [
            ("", "one JSON object"),
            ("[]", "one JSON object"),
            ("{\"command\":\"start\"", "one JSON object"),
            ("{\"command\":\"report\"} {}", "one JSON object"),
            ("{}", "command: want"),
            ("{\"command\":7}", "command: want"),
            ("{\"command\":\"dance\"}", "not one"),
            ("{\"command\":\"start\"}", "want the name"),
            ("{\"command\":\"start\",\"name\":null}", "want the name"),
            ("{\"command\":\"start\",\"name\":\"../x\"}", "name: want"),
            ("{\"command\":\"start\",\"name\":7}", "name: want"),
            ("{\"command\":\"jobs\",\"name\":\"web\"}", "takes no name"),
        ] {
            let got = read_command(line.as_bytes()).expect_err(line);
            assert!(got.contains(want), "{line}: {got}");
        }
        assert!(read_command(b"{\"command\":\"\xff\"}").is_err());
        assert_eq!(read_command(b"{\"command\":\"jobs\",\"later\":[1]}\n"), Ok(Command::Jobs));
    }

    #[test]
    fn answers_keep_message_and_body() {
        for (message, body) in [
            ("", ""),
            ("done", "{\"b\":1,\"a\":[{}]}"),
            ("a \"quoted\" one,\"body\":\\ ü\nand more", ""),
            ("a \"quoted\" one,\"body\":\\", "[]"),
            ("x", "{\"body\":{\"a\":1},\"body2\":\",\\\"body\\\":\"}"),
        ] {
            let answer = Answer { code: 1, message: message.into(), body: body.into() };
            let line = write_answer(&answer);
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(read_answer(line.as_bytes()), Ok(answer), "{line}");
        }
        let odd = Answer { message: "a\u{1b}[2Jb\u{202e}c\u{200b}d".into(), ..Answer::default() };
        assert_eq!(&*read_answer(write_answer(&odd).as_bytes()).unwrap().message, "a [2Jbcd");
        let pretty = Answer { body: "{\n}".into(), ..Answer::default() };
        assert_eq!(&*read_answer(write_answer(&pretty).as_bytes()).unwrap().body, "{ }");
    }

    #[test]
    fn bad_answers_are_refused() {
        for line in
            ["", "{}", "{\"code\":256,\"message\":\"\"}", "{\"code\":0}", "{\"code\":0,\"message\":\"\",\"body\":{"]
        {
            assert!(read_answer(line.as_bytes()).is_err(), "{line}");
        }
    }
}
