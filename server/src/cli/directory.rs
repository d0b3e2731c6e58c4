//! Verbs that work on the data directory: init, serve, restore, doctor, and what to do next.

use super::client::{Client, Failure};
use super::words::Serve;
use crate::serve::run;
use crate::store::{migrate, people, sqlite};
use crate::wire::url::Url;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes a data directory, and says what to do next.
///
/// # Errors
/// When it cannot be made.
pub fn init(dir: &Path) -> Result<(), Failure> {
    run::init(dir)?;
    let dir = dir.display();
    println!("{dir} is ready. Next:");
    println!("  bootserver -d {dir} key new --group default --out agent.key");
    println!("  bootserver -d {dir} user add NAME --role admin");
    println!("  bootserver -d {dir} serve --listen 0.0.0.0:8080");
    Ok(())
}

/// Serves until it is told to end.
///
/// # Errors
/// When an option cannot be read, or the server cannot start.
pub fn serve(dir: &Path, words: &Serve) -> Result<(), Failure> {
    for (option, url) in [("--public-url", &words.public_url), ("--pages-url", &words.pages_url)] {
        if let Some(url) = url {
            Url::parse(url).map_err(|why| Failure::Usage(format!("{option} {why}")))?;
        }
    }
    let options = run::Options {
        dir: dir.to_path_buf(),
        listen: words.listen.clone(),
        pages: words.pages,
        pages_url: words.pages_url.clone(),
        tls: words.tls_cert.clone().zip(words.tls_key.clone()),
        proxies: words.behind_proxy.clone(),
        public_url: words.public_url.clone(),
        allow_unsigned: words.allow_unsigned,
    };
    Ok(run::serve(options)?)
}

/// Puts a backup in place of the database. The old one is kept beside it.
///
/// # Errors
/// When a server runs on the directory, or the backup cannot be read or put in place.
pub fn restore(dir: &Path, file: &Path) -> Result<(), Failure> {
    if !dir.exists() {
        run::init(dir)?;
    }
    let _lock = run::lock(dir).map_err(|why| format!("{why}: stop it first"))?;
    let (database, new) = (run::database(dir), dir.join("restore.tmp"));
    let done = copy_backup(file, &new).and_then(|()| put_in_place(dir, &new, &database));
    for path in [&new, &beside(&new, "-wal"), &beside(&new, "-shm")] {
        let _ = fs::remove_file(path);
    }
    let kept = done?;
    println!("restored {}", file.display());
    if let Some(kept) = kept {
        println!("what was there is in {}: remove it when it is not wanted any more", kept.display());
    }
    println!("packages are not in a backup: they stay as they are in {}", dir.join("packages").display());
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Copies a backup and makes it ready: the copy is looked at, so that the backup itself is only read.
fn copy_backup(file: &Path, new: &Path) -> Result<(), Failure> {
    let said = |error: std::io::Error| format!("cannot write {}: {error}", new.display());
    let mut from = fs::File::open(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let _ = fs::remove_file(new);
    let mut to = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(new).map_err(said)?;
    std::io::copy(&mut from, &mut to).map_err(said)?;
    drop(to);
    let connection = sqlite::open(new).map_err(|error| format!("{}: {error}", file.display()))?;
    let sound = connection.query_row("PRAGMA quick_check", [], |row| row.get::<_, String>(0));
    let sound = sound.unwrap_or_else(|error| error.to_string());
    let schema = migrate::found(&connection).unwrap_or(0);
    if sound != "ok" || !(1..=migrate::WANTED).contains(&schema) {
        return Err(format!("{} is no backup of this bootserver: {sound}, schema {schema}", file.display()).into());
    }
    migrate::migrate(&connection, |text| println!("{text}")).map_err(|error| error.to_string())?;
    // Whoever was logged in when the backup was made may have been let in no longer since.
    sqlite::transact(&connection, people::end_sessions).map_err(|error| error.to_string())?;
    sqlite::fold(&connection).map_err(|error| format!("{}: {error}", new.display()))?;
    drop(connection);
    Ok(fs::File::open(new).and_then(|file| file.sync_all()).map_err(said)?)
}

/// Puts the copy in the database's place, in one step; where the old one is kept.
fn put_in_place(dir: &Path, new: &Path, database: &Path) -> Result<Option<PathBuf>, Failure> {
    let said = |error: std::io::Error| format!("cannot write in {}: {error}", dir.display());
    let mut kept = None;
    if database.exists() {
        // What is in the old one's log goes into it, so that one file is all of it.
        let connection = sqlite::open(database).map_err(|error| error.to_string())?;
        sqlite::fold(&connection).map_err(|error| error.to_string())?;
        drop(connection);
        let old = dir.join(format!("before-restore-{}.db", crate::serve::clock::now()));
        fs::hard_link(database, &old).map_err(said)?;
        kept = Some(old);
    }
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(database, ending));
    }
    run::give_to_owner(dir, new)?;
    fs::rename(new, database).map_err(said)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(said)?;
    Ok(kept)
}

/// What to do next, for somebody who typed nothing more.
pub fn next_step(dir: &Path, client: &Client) -> String {
    let name = dir.display();
    if !run::database(dir).exists() {
        return format!("nothing is set up in {name}. Next: bootserver -d {name} init");
    }
    if !client.is_running() {
        return format!("no server runs on {name}. Next: bootserver -d {name} serve --listen 0.0.0.0:8080");
    }
    let counts = client.get("counts", &[]).unwrap_or_default();
    let count = |key: &str| counts[key].as_i64().unwrap_or(0);
    let (pending, hosts, keys) = (count("pending"), count("hosts"), count("keys"));
    let next = match (keys, hosts, pending) {
        (0, 0, _) => format!("no key yet. Next: bootserver -d {name} key new --group default --out agent.key"),
        (_, 0, _) => "no host has reported. Next, on a host: \"key_file\" and \"svrlist\" in bootagent.json, then \
            bootagent report"
            .to_string(),
        (_, _, 1..) => {
            format!(
                "{} for a decision. Next: bootserver -d {name} host list state=pending, and host accept HOST",
                if pending == 1 { "1 host waits".to_string() } else { format!("{pending} hosts wait") }
            )
        }
        _ if count("releases") == 0 => {
            format!("{hosts} hosts, no release. Next: bootserver -d {name} release add AGENT VERSION --file PACKAGE")
        }
        _ if count("jobs") == 0 => {
            format!("{hosts} hosts, no job yet. Next: bootserver -d {name} job install AGENT --select group=GROUP")
        }
        _ => format!("{hosts} hosts. See bootserver -d {name} host list, job list, events --follow"),
    };
    format!("a server runs on {name}: {next}")
}
