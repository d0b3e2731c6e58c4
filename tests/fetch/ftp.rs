//! Downloads over FTP: from servers made of a script, and from a real one where the host has it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bootagent::work::{Failure, FailureKind, HelperRequest, HelperResponse};

use crate::odd::stalled;
use crate::{content, failed, fetch, fetched, have, keeps, needs_short_times, perform, performed, Scratch};

/// A server that has one file, and answers as usual except where told otherwise.
struct Ftp {
    url: String,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Ftp {
    /// `odd` maps a command (or `GREETING`, `END`) to its answer; `None` closes the connection.
    fn new(bytes: &[u8], odd: &[(&'static str, Option<&'static str>)]) -> Ftp {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("ftp://{}", listener.local_addr().expect("bound"));
        let commands = Arc::new(Mutex::new(Vec::new()));
        let (bytes, seen) = (bytes.to_vec(), commands.clone());
        let odd: HashMap<_, _> = odd.iter().copied().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(stream.expect("a connection"), &bytes, &odd, &seen);
            }
        });
        Ftp { url, commands }
    }

    fn commands(&self) -> Vec<String> {
        self.commands.lock().expect("not poisoned").clone()
    }
}

/// One control connection, until either side closes it.
fn serve(
    mut control: TcpStream,
    bytes: &[u8],
    odd: &HashMap<&str, Option<&str>>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(control.try_clone()?).lines();
    let mut passive: Option<TcpListener> = None;
    let mut from = 0;
    let mut extended = false;
    let mut line = "GREETING".to_string();
    loop {
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        extended |= verb == "EPSV";
        extended &= verb != "PASV";
        let answer = match odd.get(verb) {
            // Nothing is answered.
            Some(Some("")) => String::new(),
            Some(Some(answer)) => answer.to_string(),
            Some(None) => return Ok(()),
            None if verb == "RETR" && extended && odd.contains_key("BARRED") => "425 no way to you".to_string(),
            None => match verb {
                "GREETING" => "220-Welcome\r\n220-to this\r\n220 server".to_string(),
                "USER" => "331 and?".to_string(),
                "PASS" => "230 in".to_string(),
                "SIZE" => format!("213 {}", bytes.len()),
                "REST" => {
                    from = argument.parse().expect("a number");
                    "350 from there".to_string()
                }
                "EPSV" => {
                    let listener = passive.insert(TcpListener::bind((control.local_addr()?.ip(), 0))?);
                    format!("229 Entering Extended Passive Mode (|||{}|)", port(listener)?)
                }
                "PASV" => {
                    let port = port(passive.insert(TcpListener::bind("127.0.0.1:0")?))?;
                    // An address that must not be used.
                    format!("227 Entering Passive Mode (192,0,2,1,{},{})", port >> 8, port & 255)
                }
                "RETR" => {
                    control.write_all(b"150 coming\r\n")?;
                    let (mut data, _) = passive.take().expect("passive before RETR").accept()?;
                    // CUT says how many bytes are sent.
                    let end =
                        odd.get("CUT").copied().flatten().map_or(bytes.len(), |end| end.parse().expect("a number"));
                    data.write_all(&bytes[from..end])?;
                    drop(data);
                    match odd.get("END") {
                        Some(Some(answer)) => answer.to_string(),
                        Some(None) => return Ok(()),
                        None => "226 done".to_string(),
                    }
                }
                _ => "200 fine".to_string(),
            },
        };
        if !answer.is_empty() {
            control.write_all(format!("{answer}\r\n").as_bytes())?;
        }
        match lines.next() {
            Some(next) => line = next?,
            None => return Ok(()),
        }
        seen.lock().expect("not poisoned").push(line.clone());
    }
}

#[test]
fn a_file_is_fetched_from_where_the_url_says() {
    let scratch = Scratch::new("ftp");
    let bytes = content(300_000);
    let server = Ftp::new(&bytes, &[]);
    assert_eq!(fetch(&format!("{}/pub/a%20b/x.rpm", server.url), &scratch.file("a", b"")), fetched(&bytes));
    let want = "USER anonymous,PASS bootagent@,TYPE I,CWD pub,CWD a b,SIZE x.rpm,EPSV,RETR x.rpm";
    assert_eq!(server.commands().join(","), want);
    let server = Ftp::new(&bytes, &[]);
    let url = server.url.replace("ftp://", "ftp://me:p%40ss@");
    assert_eq!(fetch(&format!("{url}/%2Fx.rpm"), &scratch.file("b", b"")), fetched(&bytes));
    assert!(server.commands().join(",").starts_with("USER me,PASS p@ss,TYPE I,SIZE /x.rpm,"));
}

#[test]
fn a_cut_is_temporary_and_the_next_attempt_goes_on() {
    let scratch = Scratch::new("ftp-cut");
    let bytes = content(300_000);
    let file = scratch.file("a", b"");
    for end in [None, Some("226 done"), Some("426 cut")] {
        let server = Ftp::new(&bytes, &[("CUT", Some("200000")), ("END", end)]);
        let gained = if end.is_none() { 200_000 } else { 0 };
        failed(fetch(&format!("{}/x", server.url), &file), FailureKind::Temporary, gained, "");
    }
    let server = Ftp::new(&bytes, &[]);
    assert_eq!(fetch(&format!("{}/x", server.url), &file), fetched(&bytes));
    assert!(server.commands().contains(&"REST 200000".to_string()));
    // All of it is there: nothing is transferred.
    let server = Ftp::new(&bytes, &[("RETR", None)]);
    assert_eq!(fetch(&format!("{}/x", server.url), &file), fetched(&bytes));
}

#[test]
fn servers_that_lack_something_still_serve() {
    let scratch = Scratch::new("ftp-lacks");
    let bytes = content(5000);
    for odd in [
        &[("EPSV", Some("500 what?"))][..],
        &[("EPSV", Some("229 (|||1|)"))],
        &[("EPSV", Some("229 no port"))],
        &[("EPSV", Some("200 fine"))],
        &[("EPSV", Some("425 cannot"))],
        &[("EPSV", Some("421 cannot"))],
        &[("EPSV", Some("what?"))],
        &[("EPSV", None)],
        &[("BARRED", None)],
        &[("SIZE", Some("500 what?"))],
        &[("SIZE", Some("550 not in ASCII mode"))],
        &[("REST", Some("502 no"))],
        &[("END", None)],
        &[("END", Some("250 done"))],
        &[("USER", Some("230 in already"))],
        &[("GREETING", Some("120 wait\r\n220-a\r\n 220 b\r\n220 c"))],
    ] {
        let server = Ftp::new(&bytes, odd);
        let file = scratch.file("a", &bytes[..1000]);
        assert_eq!(fetch(&format!("{}/x", server.url), &file), fetched(&bytes), "{odd:?}");
        let refused = server.commands().iter().any(|command| command.starts_with("PASS")) && odd[0].0 == "USER";
        assert!(!refused, "a password nobody asked for");
    }
}

/// Some firewalls let nothing through that they do not know, and nothing behind it.
#[test]
fn a_server_that_says_nothing_to_epsv_is_asked_otherwise() {
    if needs_short_times() {
        return;
    }
    let scratch = Scratch::new("ftp-mute");
    let bytes = content(5000);
    let server = Ftp::new(&bytes, &[("EPSV", Some(""))]);
    let url = format!("{}/pub/x", server.url);
    let order =
        HelperRequest::Fetch { url, max_bytes: 1 << 20, rate: None, route: Default::default(), digest: [0; 32] };
    let output = performed(&order, &scratch.file("a", b""), "", &[("BOOTAGENT_STALL_SECS", "4")]);
    assert_eq!(crate::outcome(&output), fetched(&bytes));
    assert!(server.commands().join(",").ends_with("CWD pub,PASV,RETR x"), "{:?}", server.commands());
}

#[test]
fn what_is_there_goes_only_when_the_server_cannot_go_on_from_it() {
    let scratch = Scratch::new("ftp-part");
    let bytes = content(5000);
    let file = scratch.file("a", &bytes[..1000]);
    // Another time it may.
    for odd in
        [("REST", Some("421 going down")), ("REST", Some("450 busy")), ("RETR", Some("425 no data")), ("SIZE", None)]
    {
        let server = Ftp::new(&bytes, &[odd]);
        failed(fetch(&format!("{}/x", server.url), &file), FailureKind::Temporary, 0, "");
        assert_eq!(std::fs::read(&file).expect("there"), bytes[..1000], "{odd:?}");
    }
    // The place may be behind the end, where nobody tells the size; from the start it is known whether the file is there.
    let server = Ftp::new(&bytes, &[("SIZE", Some("500 what?")), ("RETR", Some("554 not from there"))]);
    failed(fetch(&format!("{}/x", server.url), &file), FailureKind::Temporary, 0, "554");
    assert_eq!(std::fs::read(&file).expect("there").len(), 0);
    failed(fetch(&format!("{}/x", server.url), &file), FailureKind::Final, 0, "554");
    // It has become shorter.
    let server = Ftp::new(&bytes[..700], &[]);
    assert_eq!(fetch(&format!("{}/x", server.url), &scratch.file("b", &bytes[..1000])), fetched(&bytes[..700]));
}

#[test]
fn a_rate_is_kept() {
    let scratch = Scratch::new("ftp-rate");
    let bytes = content(600_000);
    let server = Ftp::new(&bytes, &[]);
    let order = HelperRequest::Fetch {
        url: format!("{}/x", server.url),
        max_bytes: 1 << 20,
        rate: Some(200_000),
        route: Default::default(),
        digest: [0; 32],
    };
    keeps(Duration::from_secs(3), || assert_eq!(perform(&order, &scratch.file("a", b"")), fetched(&bytes)));
}

#[test]
fn a_stall_ends_an_attempt_though_the_server_goes_on_talking() {
    if needs_short_times() {
        return;
    }
    let scratch = Scratch::new("ftp-stall");
    for greeting in ["", "220-a\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("ftp://{}/x", listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            // No reply is ever whole.
            while stream.write_all(greeting.as_bytes()).is_ok() && stream.peer_addr().is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let order =
            HelperRequest::Fetch { url, max_bytes: 1 << 20, rate: None, route: Default::default(), digest: [0; 32] };
        let output = performed(&order, &scratch.file("a", b""), "", &[("BOOTAGENT_STALL_SECS", "2")]);
        assert!(stalled(&output), "{output:?}");
    }
}

#[test]
fn a_server_may_have_an_ipv6_address() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        have("IPv6", false);
        return;
    };
    let scratch = Scratch::new("ftp-v6");
    let url = format!("ftp://{}/x", listener.local_addr().expect("bound"));
    let (bytes, seen) = (content(5000), Arc::new(Mutex::new(Vec::new())));
    let (served, commands) = (bytes.clone(), seen.clone());
    std::thread::spawn(move || serve(listener.accept().expect("a connection").0, &served, &HashMap::new(), &commands));
    assert_eq!(fetch(&url, &scratch.file("a", b"")), fetched(&bytes));
    // PASV knows no IPv6.
    assert!(!seen.lock().expect("not poisoned").contains(&"PASV".to_string()));
    let server = |reply| {
        let listener = TcpListener::bind("[::1]:0").expect("a port");
        let url = format!("ftp://{}/x", listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            serve(
                listener.accept().expect("a connection").0,
                b"",
                &HashMap::from([("EPSV", Some(reply))]),
                &Mutex::default(),
            )
        });
        url
    };
    failed(
        fetch(&server("229 (|||1|)"), &scratch.file("b", b"")),
        FailureKind::Temporary,
        0,
        "cannot open a data connection",
    );
}

#[test]
fn refusals_are_final_or_temporary() {
    let scratch = Scratch::new("ftp-refuses");
    let file = scratch.file("a", b"");
    for (odd, kind, part) in [
        (("GREETING", Some("421 too many users")), FailureKind::Temporary, "421 too many users"),
        (("GREETING", Some("554 go away")), FailureKind::Final, "554 go away"),
        (("GREETING", Some("HTTP/1.1 400 Bad Request")), FailureKind::Temporary, "not FTP"),
        (("GREETING", None), FailureKind::Temporary, "closed"),
        (("PASS", Some("530 s3cret is wrong")), FailureKind::Final, "530 *** is wrong"),
        (("CWD", Some("550 no such directory")), FailureKind::Final, "CWD pub with 550 no such directory"),
        (("RETR", Some("550 no such file")), FailureKind::Final, "RETR x with 550 no such file"),
        (("RETR", Some("450 busy")), FailureKind::Temporary, "450 busy"),
        (("SIZE", Some("213 5000000")), FailureKind::TooBig, "5000000 bytes"),
    ] {
        let server = Ftp::new(b"hello", &[odd]);
        let url = server.url.replace("ftp://", "ftp://me:s3cret@");
        failed(fetch(&format!("{url}/pub/x"), &file), kind, 0, part);
    }
    let server = Ftp::new(b"hello", &[]);
    for path in ["/", "/pub/", "/a%0d%0aDELE%20b", "/%00"] {
        failed(fetch(&format!("{}{path}", server.url), &file), FailureKind::Final, 0, "");
    }
    assert!(server.commands().is_empty(), "nothing of it reaches a server");
    failed(fetch("ftp://127.0.0.1:1/x", &file), FailureKind::Temporary, 0, "Connection refused");
}

/// A server of pyftpdlib on a directory.
struct Real(Child);

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one; `None` where it is not installed.
fn real(dir: &Path) -> Option<(Real, u16)> {
    const SCRIPT: &str = "
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
users = DummyAuthorizer()
users.add_anonymous(sys.argv[1])
users.add_user('me', 'p@ss', sys.argv[1])
FTPHandler.authorizer = users
server = FTPServer(('127.0.0.1', 0), FTPHandler)
print(server.address[1], flush=True)
server.serve_forever()
";
    for python in ["python3", "/usr/bin/python3"] {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        let server = Real(child);
        if let Ok(port) = line.trim().parse() {
            return Some((server, port));
        }
    }
    None
}

#[test]
fn a_real_server_is_understood() {
    let scratch = Scratch::new("ftp-real");
    let bytes = content(400_000);
    std::fs::create_dir(scratch.0.join("pub")).expect("a directory");
    std::fs::write(scratch.0.join("pub/a b.rpm"), &bytes).expect("a file");
    let server = real(&scratch.0);
    if !have("python3-pyftpdlib", server.is_some()) {
        return;
    }
    let (_server, port) = server.expect("just seen");
    for (path, part) in [("pub/a%20b.rpm", 0), ("pub/a%20b.rpm", 123_456), ("%2Fpub/a%20b.rpm", 400_000)] {
        let file = scratch.file("part", &bytes[..part]);
        for login in ["", "me:p%40ss@"] {
            assert_eq!(fetch(&format!("ftp://{login}127.0.0.1:{port}/{path}"), &file), fetched(&bytes));
        }
    }
    let file = scratch.file("none", b"");
    failed(fetch(&format!("ftp://127.0.0.1:{port}/pub/none"), &file), FailureKind::Final, 0, "550");
    match fetch(&format!("ftp://me:wrong@127.0.0.1:{port}/pub/none"), &file) {
        HelperResponse::Failed(Failure { kind: FailureKind::Final, reason, .. }) => {
            assert!(reason.contains("530"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
}
