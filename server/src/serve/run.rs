//! Starting and stopping: the data directory, its lock, the doors.

use super::agent::{self, Ends, BUDGET_KIB};
use super::front::{self, Front};
use super::places::{self, Places};
use super::tls::Tls;
use super::{aging, api, clock, door, sweep, time, webhooks, Shared};
use crate::model::address::Cidr;
use crate::model::people::Caller;
use crate::store::migrate::migrate;
use crate::store::sqlite::{self, Sqlite};
use crate::store::{groups, Engine, Error};
use std::fs::{self, File, OpenOptions, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;

/// What `serve` was asked for.
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// Where hosts come.
    pub listen: Vec<SocketAddr>,
    /// Where people and programs come: pages, API and metrics.
    pub pages: SocketAddr,
    /// The URL of the pages as people type it.
    pub pages_url: Option<String>,
    /// The certificate and the key of the pages.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Proxies in front of the pages.
    pub proxies: Vec<Cidr>,
    /// Where packages are, as hosts should see it.
    pub public_url: Option<String>,
    /// Whether hosts without a key are taken.
    pub allow_unsigned: bool,
}

/// The database in a data directory.
pub fn database(dir: &Path) -> PathBuf {
    dir.join("bootserver.db")
}

/// The socket in a data directory.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("bootserver.sock")
}

/// Takes the lock of a data directory: one server, or one command that needs it stopped.
///
/// # Errors
/// That another one has it, or why it cannot be taken.
pub fn lock(dir: &Path) -> Result<File, String> {
    let path = dir.join("lock");
    let said = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(said)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(format!("a bootserver is running on {}", dir.display())),
    }
}

/// Makes the data directory and its database.
///
/// # Errors
/// What cannot be made.
pub fn init(dir: &Path) -> Result<(), String> {
    let said = |error: std::io::Error| format!("cannot make {}: {error}", dir.display());
    fs::create_dir_all(dir.join("packages")).map_err(said)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(said)?;
    let path = database(dir);
    let make = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    make.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    let connection = sqlite::open(&path).map_err(|error| error.to_string())?;
    migrate(&connection, |text| println!("{text}")).map_err(|error| error.to_string())
}

fn no_database(dir: &Path) -> String {
    format!("{} has no database: bootserver -d {} init", dir.display(), dir.display())
}

/// Opens the database of a data directory, with the schema that this server needs.
///
/// # Errors
/// What is wrong with it, with its path.
pub fn open(dir: &Path, say: impl Fn(&str)) -> Result<rusqlite::Connection, String> {
    let path = database(dir);
    if !path.exists() {
        return Err(no_database(dir));
    }
    let said = |error: Error| format!("{}: {error}", path.display());
    let connection = sqlite::open(&path).map_err(|error| error.to_string())?;
    migrate(&connection, say).map_err(said)?;
    // A disk that can only be read shows before anybody relies on it.
    sqlite::transact(&connection, |tx| groups::keep(tx, "ready", "1")).map_err(said)?;
    Ok(connection)
}

/// The user that this process runs as.
pub fn own_uid() -> u32 {
    fs::metadata("/proc/self").map_or(0, |meta| meta.uid())
}

/// Who works on a data directory without a server, as the audit trail names them.
pub fn local() -> String {
    Caller::local(own_uid()).who
}

/// Gives a file that root made in a data directory to the directory's owner, who runs the server.
///
/// # Errors
/// What keeps it from that.
pub fn give_to_owner(dir: &Path, file: &Path) -> Result<(), String> {
    let said =
        |error: std::io::Error| format!("cannot give {} to the owner of {}: {error}", file.display(), dir.display());
    let owner = fs::metadata(dir).map_err(said)?;
    let made = fs::metadata(file).map_err(said)?;
    if (made.uid(), made.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).map_err(said)
}

/// Writes a copy of the database that only its owner can read.
///
/// # Errors
/// What cannot be written.
pub fn write_backup(engine: &dyn Engine, file: &Path) -> Result<(), Error> {
    let said = |error: std::io::Error| Error::Refused(format!("cannot write {}: {error}", file.display()));
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(file).map_err(said)?;
    engine.backup(file)?;
    File::open(file).and_then(|file| file.sync_all()).map_err(said)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn serve(options: Options) -> Result<(), String> {
    if !options.pages.ip().is_loopback() && options.tls.is_none() && options.proxies.is_empty() {
        return Err(format!(
            "--pages {}: beyond loopback, passwords would cross the network in the clear: want --tls-cert and \
             --tls-key, or --behind-proxy CIDR",
            options.pages
        ));
    }
    let tls = options.tls.as_ref().map(|(cert, key)| Tls::open(cert, key)).transpose()?;
    let dir = &options.dir;
    if !database(dir).exists() {
        return Err(no_database(dir));
    }
    let mode = fs::metadata(dir).map_err(|error| format!("{}: {error}", dir.display()))?.mode();
    if mode & 0o077 != 0 {
        return Err(format!("{} holds keys, and others can read it: chmod 700 {}", dir.display(), dir.display()));
    }
    let _lock = lock(dir)?;
    let connection = open(dir, clock::say)?;
    let gaps = sqlite::transact(&connection, |tx| time::begin(tx, clock::now())).map_err(|error| error.to_string())?;
    drop(connection);
    let engine = Sqlite::start(&database(dir)).map_err(|error| error.to_string())?;
    let mut shared = Shared::new(dir.clone(), Box::new(engine), gaps);
    shared.public_url = options.public_url.as_ref().map(|url| url.trim_end_matches('/').to_string());
    shared.allow_unsigned = options.allow_unsigned;
    shared.front = Front {
        url: options.pages_url.clone(),
        proxies: options.proxies.clone(),
        tls: tls.is_some(),
        open_metrics: options.pages.ip().is_loopback() && options.proxies.is_empty(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let shared = Arc::new(shared);
    let ended = runtime.block_on(open_doors(shared.clone(), &options, tls));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    let _ = fs::remove_file(socket(dir));
    // Dropped last: what waits for the writer is still committed.
    drop(shared);
    ended
}

async fn open_doors(shared: Arc<Shared>, options: &Options, tls: Option<Tls>) -> Result<(), String> {
    let places = Places::of_hosts();
    let budget = Arc::new(Semaphore::new(BUDGET_KIB));
    let mut doors = Vec::new();
    for address in &options.listen {
        let listener = bind(*address).await?;
        let local = listener.local_addr().map_err(|error| error.to_string())?;
        clock::say(&format!("hosts: listening on {local}"));
        doors.push(local);
        tokio::spawn(serve_hosts(listener, shared.clone(), places.clone(), budget.clone()));
    }
    let pages = bind(options.pages).await?;
    let local = pages.local_addr().map_err(|error| error.to_string())?;
    doors.push(local);
    let _ = shared.doors.set(doors);
    clock::say(&format!("pages: listening on {}://{local}/", if tls.is_some() { "https" } else { "http" }));
    tokio::spawn(serve_pages(pages, shared.clone(), tls.map(Arc::new)));
    let path = socket(&options.dir);
    let _ = fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .map_err(|error| format!("cannot close {} to others: {error}", path.display()))?;
    tokio::spawn(serve_socket(listener, shared.clone()));
    let sweeping = tokio::spawn(sweep::run(shared.clone()));
    let telling = tokio::spawn(webhooks::run(shared.clone()));
    let aging = tokio::spawn(aging::run(shared.clone()));
    clock::say("ready");
    tell_what_is_next(&shared, options).await;
    wait_for_the_end().await?;
    clock::say("stopping");
    sweeping.abort();
    telling.abort();
    aging.abort();
    Ok(())
}

/// Says what to do where nothing is set up yet.
async fn tell_what_is_next(shared: &Arc<Shared>, options: &Options) {
    let keys =
        shared.read_inside(|tx| tx.number("SELECT count(*) FROM keys WHERE revoked IS NULL", &[])).await.unwrap_or(1);
    let dir = options.dir.display();
    if keys == 0 && !options.allow_unsigned {
        clock::say(&format!("no host can report yet: bootserver -d {dir} key new --group default --out FILE"));
    }
    if shared.read_inside(|tx| tx.number("SELECT count(*) FROM users", &[])).await.is_ok_and(|users| users == 0) {
        clock::say(&format!("nobody can log in yet: bootserver -d {dir} user add NAME --role admin"));
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let said = |error: std::io::Error| format!("cannot listen on {address}: {error}");
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
    let socket = socket.map_err(said)?;
    socket.set_reuseaddr(true).map_err(said)?;
    socket.bind(address).map_err(said)?;
    // A fleet that reboots together comes at once.
    socket.listen(4096).map_err(said)
}

async fn serve_hosts(listener: TcpListener, shared: Arc<Shared>, places: Arc<Places>, budget: Arc<Semaphore>) {
    let serve = |stream: TcpStream, peer| {
        let (shared, budget) = (shared.clone(), budget.clone());
        async move {
            let Ok(local) = stream.local_addr() else { return };
            let ends = Ends { peer, local };
            door::serve(stream, |request| agent::handle(shared.clone(), budget.clone(), ends, request)).await;
        }
    };
    places::accept(listener, places, serve).await;
}

async fn serve_pages(listener: TcpListener, shared: Arc<Shared>, tls: Option<Arc<Tls>>) {
    let places = Places::of_pages(&shared.front.proxies);
    let serve = |stream, peer| {
        let (shared, tls) = (shared.clone(), tls.clone());
        async move {
            let handle = |request| front::handle(shared.clone(), peer, request);
            let Some(tls) = tls else { return door::serve(stream, handle).await };
            // What goes wrong here is the peer's: no TLS, or none that is still safe.
            if let Ok(Ok(stream)) = tokio::time::timeout(door::PATIENCE, tls.acceptor().accept(stream)).await {
                door::serve(stream, handle).await;
            }
        }
    };
    places::accept(listener, places, serve).await;
}

async fn serve_socket(listener: UnixListener, shared: Arc<Shared>) {
    let own = own_uid();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        if uid != own && uid != 0 {
            clock::say(&format!("refused uid {uid} on the socket"));
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            door::serve(stream, |request| api::handle(shared.clone(), Caller::local(uid), request)).await;
        });
    }
}

async fn wait_for_the_end() -> Result<(), String> {
    use tokio::signal::unix::{signal, SignalKind};
    let said = |error: std::io::Error| format!("cannot wait for signals: {error}");
    let mut term = signal(SignalKind::terminate()).map_err(said)?;
    let mut int = signal(SignalKind::interrupt()).map_err(said)?;
    tokio::select! {
        _ = term.recv() => (),
        _ = int.recv() => (),
    }
    Ok(())
}
