//! Real servers that packages are fetched from, each on a directory of a test, at a port that it keeps over a kill.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{descendants, find_program, kill, patiently, run, Host, Server};

/// A program that serves files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Nginx,
    /// The httpd of busybox.
    Httpd,
    Vsftpd,
    PureFtpd,
    Pyftpdlib,
}

/// All of them.
pub const PROGRAMS: [Program; 5] =
    [Program::Nginx, Program::Httpd, Program::Vsftpd, Program::PureFtpd, Program::Pyftpdlib];

impl Program {
    /// The Debian package it is in.
    pub fn package(self) -> &'static str {
        match self {
            Program::Nginx => "nginx-light",
            Program::Httpd => "busybox-static",
            Program::Vsftpd => "vsftpd",
            Program::PureFtpd => "pure-ftpd",
            Program::Pyftpdlib => "python3-pyftpdlib",
        }
    }

    pub fn is_ftp(self) -> bool {
        !matches!(self, Program::Nginx | Program::Httpd)
    }
}

/// One of them, running or killed.
pub struct Mirror {
    program: Program,
    command: Command,
    child: Option<Child>,
    pub address: SocketAddr,
    /// What it serves.
    pub root: PathBuf,
}

/// Users: anonymous, and `me` with `pass word`.
const PYFTPDLIB: &str = "
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
users = DummyAuthorizer()
users.add_anonymous(sys.argv[1])
users.add_user('me', 'pass word', sys.argv[1])
FTPHandler.authorizer = users
FTPHandler.banner = 'a greeting that is too long for one line ' * 3
FTPServer((sys.argv[2], int(sys.argv[3])), FTPHandler).serve_forever()
";

impl Mirror {
    /// Starts one at a free port of `ip`; `None` where the program is missing. One that can have only one user has `me`.
    pub fn start(program: Program, host: &Host, ip: &str) -> Option<Mirror> {
        let port = Server::nowhere().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        let address = SocketAddr::new(ip.parse().expect("an address"), port);
        let work = host.path(&format!("mirror-{program:?}-{port}"));
        let root = work.join("root");
        fs::create_dir_all(&root).expect("the host's directory can be written");
        let command = command(program, address, &work, &root)?;
        let mut mirror = Mirror { program, command, child: None, address, root };
        mirror.again();
        Some(mirror)
    }

    /// Starts it again where it was; returns when it answers.
    pub fn again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut child = self.command.spawn().expect("the server can be executed");
        let up = patiently(|| {
            let up = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok();
            (up || child.try_wait().expect("our own child").is_some()).then_some(up)
        });
        assert_eq!(up, Some(true), "{:?} does not answer", self.program);
        self.child = Some(child);
    }

    /// Kills it with all it has started.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its sessions may have left its process group.
            let pid = child.id() as i32;
            descendants(pid).into_iter().chain([pid]).for_each(|pid| kill(pid, "KILL"));
            let _ = child.wait();
        }
    }

    /// The URL of a file, percent-encoded already; `user` is empty or ends in `@`.
    pub fn url(&self, user: &str, path: &str) -> String {
        let scheme = if self.program.is_ftp() { "ftp" } else { "http" };
        format!("{scheme}://{user}{}/{path}", self.address)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command that starts it in the foreground.
fn command(program: Program, address: SocketAddr, work: &Path, root: &Path) -> Option<Command> {
    let (ip, port) = (address.ip(), address.port());
    let write = |name: &str, text: &str| fs::write(work.join(name), text).expect("the host's directory can be written");
    let mut command = match program {
        Program::Nginx => {
            let dir = work.display();
            write(
                "nginx.conf",
                &format!(
                    "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log; events {{ }}\n\
                     http {{ access_log {dir}/access.log; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2;\n\
                     fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
                     server {{ listen {address}; location / {{ root {root}; }} }} }}\n",
                    root = root.display()
                ),
            );
            let mut command = Command::new(find_program("nginx")?);
            command.arg("-p").arg(work).arg("-c").arg(work.join("nginx.conf")).arg("-e").arg(work.join("error.log"));
            command
        }
        Program::Httpd => {
            let mut command = Command::new(find_program("busybox")?);
            command.args(["httpd", "-f", "-p", &address.to_string(), "-h"]).arg(root);
            command
        }
        Program::Vsftpd => {
            let program = find_program("vsftpd")?;
            fs::create_dir_all(work.join("empty")).expect("the host's directory can be written");
            write("banner", "a greeting\nof several\nlines\n");
            let (dir, root) = (work.display(), root.display());
            let listen = match ip.is_ipv6() {
                true => format!("listen=NO\nlisten_ipv6=YES\nlisten_address6={ip}"),
                false => format!("listen=YES\nlisten_address={ip}"),
            };
            write(
                "vsftpd.conf",
                &format!(
                    "{listen}\nbackground=NO\nlisten_port={port}\nanonymous_enable=YES\n\
                     local_enable=NO\nanon_root={root}\nftp_username=ftp\nnopriv_user=nobody\nsecure_chroot_dir={dir}/empty\n\
                     seccomp_sandbox=NO\nxferlog_enable=NO\nbanner_file={dir}/banner\n"
                ),
            );
            let mut command = Command::new(program);
            command.arg(work.join("vsftpd.conf"));
            command
        }
        Program::PureFtpd => {
            let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/deps/usr/sbin/pure-ftpd");
            let program = find_program("pure-ftpd").or_else(|| Some(unpacked).filter(|file| file.is_file()))?;
            let users = program.parent()?.parent()?.join("bin/pure-pw");
            let script = "printf 'pass word\\npass word\\n' | \
                          \"$0\" useradd me -f \"$1/users\" -u nobody -d \"$1/root\" -m -F \"$1/users.db\"";
            let ran = run(Command::new("/bin/sh").args(["-c", script]).arg(users).arg(work)).expect("pure-pw ends");
            assert_eq!(ran.code, 0, "{ran:?}");
            let mut command = Command::new(program);
            command.args(["-S", &format!("{ip},{port}"), "-H", "-E", "-l"]);
            command.arg(format!("puredb:{}/users.db", work.display())).arg("-g").arg(work.join("pid"));
            command
        }
        Program::Pyftpdlib => {
            let knows = |python: &&str| {
                let ran = run(Command::new(python).args(["-c", "import pyftpdlib"]));
                ran.is_some_and(|ran| ran.code == 0)
            };
            // The python on the PATH may be another one than the one that Debian's package is for.
            let pythons = ["/usr/bin/python3", "python3"].into_iter().filter(|python| find_program(python).is_some());
            let mut command = Command::new(pythons.into_iter().find(knows)?);
            command.args(["-c", PYFTPDLIB]).arg(root).args([ip.to_string(), port.to_string()]);
            command
        }
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command)
}
