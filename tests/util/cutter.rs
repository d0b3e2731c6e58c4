//! A network that breaks: a proxy that lets a random number of bytes pass on each connection, then cuts it, so many times.
//!
//! FTP's data connections go through it, too: what EPSV and PASV name is opened here. The numbers come from a fixed seed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::pause;

/// One of so many cuts is a silence instead: nothing more comes, and the connection stays.
const SILENT: usize = 20;

/// The proxy; it lives as long as the process.
pub struct Cutter {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    /// How many connections are cut, and how many more.
    times: usize,
    left: AtomicUsize,
    cuts: AtomicUsize,
    /// At most so many bytes come through on one of them.
    most: u64,
    seed: Mutex<u64>,
    over: AtomicBool,
}

impl Cutter {
    /// In front of `target`: cuts `times` connections before `most` bytes have come through.
    pub fn new(target: SocketAddr, times: usize, most: u64) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target,
            times,
            left: AtomicUsize::new(times),
            cuts: AtomicUsize::new(0),
            most,
            seed: Mutex::new(7),
            over: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.over.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), shared) = (stream, theirs.clone()) else { continue };
                let target = shared.target;
                thread::spawn(move || drop(shared.pass(stream, target)));
            }
        });
        Cutter { address, shared }
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn random(&self, below: u64) -> u64 {
        let mut seed = self.seed.lock().expect("not poisoned");
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below.max(1)
    }

    /// How many bytes may pass: most often of a size with the file's, and now and then of a size with a head or a reply.
    fn allowance(&self) -> Option<u64> {
        if self.left.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let most = if self.random(4) == 0 { 600 } else { self.most };
        Some(self.random(most))
    }

    fn pass(self: Arc<Shared>, client: TcpStream, target: SocketAddr) -> io::Result<()> {
        let server = TcpStream::connect(target)?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        let gone = Arc::new(AtomicBool::new(false));
        let seen = gone.clone();
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
            seen.store(true, Ordering::SeqCst);
        });
        let result = self.bring(&server, &client, &gone);
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
        result
    }

    /// What the server says, until enough of it was said.
    fn bring(self: &Arc<Shared>, mut server: &TcpStream, mut client: &TcpStream, gone: &AtomicBool) -> io::Result<()> {
        let mut allowance = self.allowance();
        let mut buffer = [0; 4096];
        loop {
            let count = server.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut bytes = buffer[..count].to_vec();
            if let Some(port) = extended_port(&bytes) {
                bytes = format!("229 Through here (|||{}|)\r\n", self.data(port)?).into_bytes();
            } else if let Some(port) = passive_port(&bytes) {
                let port = self.data(port)?;
                bytes = format!("227 Through here (127,0,0,1,{},{})\r\n", port >> 8, port & 255).into_bytes();
            }
            if let Some(left) = &mut allowance {
                let now = (*left).min(bytes.len() as u64);
                client.write_all(&bytes[..now as usize])?;
                *left -= now;
                if *left == 0 {
                    let cut = self.cuts.fetch_add(1, Ordering::SeqCst) + 1;
                    self.left.store(self.times.saturating_sub(cut), Ordering::SeqCst);
                    // Until the other side closes.
                    while cut % SILENT == 0 && !gone.load(Ordering::SeqCst) {
                        pause();
                    }
                    return Ok(());
                }
            } else {
                client.write_all(&bytes)?;
            }
        }
    }

    /// A port that leads to a data connection's.
    fn data(self: &Arc<Shared>, port: u16) -> io::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (own, shared) = (listener.local_addr()?.port(), self.clone());
        let target = SocketAddr::new(self.target.ip(), port);
        thread::spawn(move || listener.accept().and_then(|(stream, _)| shared.pass(stream, target)));
        Ok(own)
    }
}

/// The port in `229 ... (|||PORT|)`.
fn extended_port(bytes: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.starts_with("229 "))?;
    text.split_once("(|||")?.1.split_once('|')?.0.parse().ok()
}

/// The port that a reply to PASV names: `227 ... (h1,h2,h3,h4,p1,p2)`.
fn passive_port(reply: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(reply).ok()?.strip_prefix("227 ")?;
    let numbers = text.split_once('(')?.1.split_once(')')?.0;
    let [.., high, low] = numbers.split(',').map(|number| number.parse().ok()).collect::<Option<Vec<u8>>>()?[..] else {
        return None;
    };
    Some(u16::from_be_bytes([high, low]))
}
